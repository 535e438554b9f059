"""The commands in the README and the docs work, and the links lead to existing files and headings."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from google.cloud.aiplatform_v1 import JobState
from PIL import Image

from imgpipe.components.common.arguments import flat_fields
from imgpipe.components.common.errors import ERROR_CLASSES
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.train.recipes import RECIPES
from imgpipe.pipelines.cli import imgpipe
from imgpipe.pipelines.local_pipeline import TRAIN, TUNE, prepare_run
from imgpipe.pipelines.run_folder import claimed
from tests.command_line import IMGPIPE
from tests.components.audit.pictures import write_random_weights
from tests.servers.configs import TUNING_CONFIG
from tests.servers.google import ANY_IMAGE, ANY_RIGHT
from tests.servers.kubeflow import start_kubeflow_server, use_kubeconfig
from tests.servers.vertex import start_vertex_server

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# In place of the documented flags, so that a command takes seconds: it is parsed as documented, and runs with
# a small network, on small data and without downloaded weights.
SHORT = [
    *("--model-type", "resnet-18", "--weights", "none", "--freeze", "none"),
    *("--image-size", "32", "--max-steps", "2"),
]


def text_without_code(page):
    """Returns the page without code blocks, where brackets are not links."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def lines_of(page):
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        yield from block.splitlines()


def is_job_command(line):
    """Returns whether a command works with jobs, so that the test needs servers of the targets."""
    arguments = shlex.split(line)
    others = ("run", "tune", "audit", "serve", "predict", "resume", "compare")
    return arguments[0] == ".venv/bin/imgpipe" and arguments[1] not in others


def is_run_of_the_docs(page, line):
    """Returns whether a command takes long and is not in the README: it is checked, and runs as a proof."""
    return page.name != "README.md" and re.match(r"\.venv/bin/imgpipe (run|tune|resume|audit)\b", line)


def commands():
    for page in PAGES:
        for line in lines_of(page):
            if not is_job_command(line):
                marks = [pytest.mark.proof] if is_run_of_the_docs(page, line) else []
                yield pytest.param(line, id=f"{page.name}: {line}", marks=marks)


def checked_commands():
    for page in PAGES:
        for line in lines_of(page):
            if is_run_of_the_docs(page, line):
                yield pytest.param(line, id=f"{page.name}: {line}")


JOB_PAGES = [page for page in PAGES if any(map(is_job_command, lines_of(page)))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the documented commands use."""
    folder = tmp_path_factory.mktemp("documented")
    generator = np.random.default_rng(0)
    for label in ("daisy", "tulips"):
        (folder / "flowers" / label).mkdir(parents=True)
        for number in range(40):
            pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "flowers" / label / f"{number}.png")
    shutil.copytree(folder / "flowers", folder / "scans")
    rows = [
        f"flowers/{label}/{number}.png,{label}\n" for label in ("daisy", "tulips") for number in range(40)
    ]
    (folder / "train.csv").write_text("".join(rows))
    table = [f"{row.strip()},{'train' if index % 5 else 'val'},16\n" for index, row in enumerate(rows)]
    (folder / "table.csv").write_text("".join(["file,plant,part,width\n", *table]))
    (folder / "validation.csv").write_text("".join(rows[::4]))
    convert(ConvertArguments(images=str(folder / "flowers")), folder / "data")
    write_model(folder / "serving" / "flowers" / "1")
    return folder


def check_serve(flags, folder):
    """Runs `imgpipe serve` with the documented flags, but on a free port."""
    flags = [flag if not flag.isdigit() else "0" for flag in flags]
    command = [IMGPIPE, "serve", *flags]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = (re.search(r"127\.0\.0\.1:(\d+)/v1/models/flowers:", line) for line in process.stderr)
            port = next(filter(None, found)).group(1)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/flowers") as response:
                assert response.status == 200
        finally:
            process.terminate()


def write_model(folder):
    """Writes a SavedModel with two labels and 8 x 8 pixels, in a process that may import TensorFlow."""
    code = (
        "import pathlib, sys, numpy as np\n"
        "from imgpipe.components.common.provenance import write_provenance\n"
        "from imgpipe.components.common.tf_import import keras, tf\n"
        "from imgpipe.components.common.saved_model import write_saved_model\n"
        "class Linear:\n"
        "    variables = [keras.Variable(np.ones((192, 2), np.float32))]\n"
        "    def logits(self, images, *, training):\n"
        "        return tf.reshape(tf.cast(images, tf.float32), [-1, 192]) @ self.variables[0] / 1e5\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "write_saved_model(Linear(), 8, ('daisy', 'tulips'), folder)\n"
        "label_sets = {'coverage': 0.9, 'thresholds': [0.5]}\n"
        "write_provenance(folder, {'model_type': 'linear', 'temperature': 1.0, 'label_sets': label_sets})\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True)


def shortened(arguments):
    """Returns the arguments of a documented `imgpipe run` or `imgpipe tune` with the flags of ``SHORT``."""
    imgpipe.commands[arguments[1]].make_context(arguments[1], arguments[2:])
    kept, remaining = [], arguments[1:]
    while remaining:
        word = remaining.pop(0)
        if word in SHORT[::2]:
            remaining.pop(0)
        else:
            kept.append(word)
    return [*kept, *SHORT]


def write_run(folder, data):
    """Writes the settings of a run that has not finished."""
    prepared = prepare_run(
        TRAIN,
        {
            "images": str(data),
            "job_dir": str(folder),
            "weights": "none",
            "image_size": 32,
            "max_steps": 2,
            "train_batch_size": 8,
        },
    )
    with claimed(prepared.folder):
        prepared.settings.write(prepared.folder)


@pytest.mark.parametrize("command", list(commands()))
def test_a_documented_command_works(command, folder, tmp_path):
    arguments = shlex.split(command)
    if arguments[0] == "make":
        result = subprocess.run(
            ["make", "--dry-run", *arguments[1:]], cwd=ROOT, capture_output=True, check=False
        )
        assert result.returncode == 0, result.stderr
        return
    if arguments[:2] == [".venv/bin/imgpipe", "serve"]:
        check_serve(arguments[2:], folder)
        return
    if arguments[:2] == [".venv/bin/imgpipe", "predict"] and "--output-dir" not in arguments:
        result = subprocess.run([IMGPIPE, *arguments[1:]], cwd=folder, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        assert b"LABEL" in result.stdout
        return
    if arguments[:2] == [".venv/bin/imgpipe", "predict"]:
        # The last argument of the documented command is the output folder.
        arguments = [*arguments[:-1], str(tmp_path / "out")]
        assert subprocess.run([IMGPIPE, *arguments[1:]], cwd=folder, check=False).returncode == 0
        assert (tmp_path / "out" / "summary.json").is_file()
        assert (tmp_path / "out" / "worth_labelling.csv").is_file()
        return
    if arguments[:2] == [".venv/bin/python", "-m"] and arguments[-1] == "--help":
        assert subprocess.run([sys.executable, *arguments[1:]], cwd=ROOT, check=False).returncode == 0
        return
    if arguments[:3] == [".venv/bin/python", "-m", "imgpipe.components.validate"]:
        # The default batch is larger than the data set of the test.
        arguments = [*arguments[1:], "--train_batch_size=8", f"--report={tmp_path / 'report.html'}"]
        arguments.append(f"--summary={tmp_path / 'summary.json'}")
        assert subprocess.run([sys.executable, *arguments], cwd=folder, check=False).returncode == 0
        assert (tmp_path / "report.html").is_file()
        return
    if arguments[:2] == [".venv/bin/python", "-m"]:
        arguments = [*arguments[1:-1], f"--output={tmp_path / 'out'}"]
        assert subprocess.run([sys.executable, *arguments], cwd=folder, check=False).returncode == 0
        assert (tmp_path / "out" / "report.html").is_file()
        return
    if arguments[1] in ("resume", "compare"):
        runs = [word for word in arguments[2:] if re.fullmatch(r"(imgpipe-runs/)?\d{8}-\d{6}", word)]
        for run in runs:
            write_run(tmp_path / "imgpipe-runs" / run.removeprefix("imgpipe-runs/"), folder / "flowers")
        imgpipe.commands[arguments[1]].make_context(arguments[1], arguments[2:])
        # The documented number of steps would take minutes.
        words = [word if word != "4000" else "3" for word in arguments[1:]]
        assert subprocess.run([IMGPIPE, *words], cwd=tmp_path, check=False).returncode == 0
        return
    if arguments[1] == "audit":
        environment = {**os.environ, "KERAS_HOME": str(write_random_weights(tmp_path / "keras"))}
        command = [IMGPIPE, *arguments[1:], "--output", str(tmp_path / "out")]
        assert subprocess.run(command, cwd=folder, env=environment, check=False).returncode == 0
        assert (tmp_path / "out" / "decisions.csv").is_file()
        return
    assert arguments[:2] in ([".venv/bin/imgpipe", "run"], [".venv/bin/imgpipe", "tune"]), (
        "add this command to the test"
    )
    result = subprocess.run(
        [IMGPIPE, *shortened(arguments), "--job-dir", str(tmp_path / "job")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "job" / "model" / "saved_model.pb").is_file()


@pytest.mark.parametrize("command", list(checked_commands()))
def test_a_documented_run_is_accepted(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    name, *words = shlex.split(command)[1:]
    options = imgpipe.commands[name].make_context(name, words).params
    if name in ("run", "tune"):
        pipeline = TRAIN if name == "run" else TUNE
        given = {key: options[key] for key in flat_fields(pipeline.inputs) if options.get(key) is not None}
        if name == "tune" and options["tune"]:
            given["tune"] = "; ".join(options["tune"])
        # The weights that the recipe needs are not downloaded.
        prepare_run(pipeline, {**given, "weights": "none", "freeze": "none"})


@pytest.fixture
def targets(tmp_path, monkeypatch):
    """Servers in place of Vertex AI and Kubeflow, with the resources that the pages use."""
    with (
        start_vertex_server(tmp_path / "vertex") as vertex,
        start_kubeflow_server(tmp_path / "kf") as kubeflow,
    ):
        # Every job ends immediately, so that following it ends too.
        vertex.final_state = (JobState.JOB_STATE_SUCCEEDED, {})
        kubeflow.final_state = "SUCCEEDED"
        google = vertex.google
        google.objects = {"bucket": {"data/train-1", "data/validation-1", "flowers/daisy/1.jpg"}}
        google.rights = ANY_RIGHT
        google.images = ANY_IMAGE
        registry = vertex.address.removeprefix("http://")
        for name, value in {
            "IMGPIPE_VERTEX_ENDPOINT": vertex.address,
            "STORAGE_EMULATOR_HOST": vertex.address,
            "GOOGLE_CLOUD_PROJECT": "flowers-project",
            "GOOGLE_CLOUD_REGION": "us-central1",
            "IMGPIPE_IMAGE_REGISTRY": f"{registry}/team",
            "KFP_ENDPOINT": kubeflow.address,
        }.items():
            monkeypatch.setenv(name, value)
        use_kubeconfig(monkeypatch, tmp_path, kubeflow)
        yield


@pytest.mark.parametrize("page", JOB_PAGES, ids=lambda page: page.name)
def test_the_job_commands_of_a_page_work_in_order(page, targets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(TUNING_CONFIG)
    for line in filter(is_job_command, lines_of(page)):
        arguments = shlex.split(line)[1:]
        result = CliRunner().invoke(imgpipe, arguments)
        assert result.exit_code == 0, (line, result.output)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_is_valid(page):
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", text_without_code(page)):
        if target and not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_heading_is_valid(page):
    for target, heading in re.findall(r"\]\(([^)#]*)#([^)]*)\)", text_without_code(page)):
        text = (page.parent / target if target else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}
        assert heading in anchors


def test_every_exit_code_is_documented():
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    for error in ERROR_CLASSES:
        assert f"| {error.exit_code} |" in page


def test_every_recipe_is_documented_with_its_expected_result():
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    for name, recipe in RECIPES.items():
        assert f"| `{name}` | {recipe.description} | {recipe.expected} |" in page
