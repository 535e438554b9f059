import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from kfp import dsl

from imgpipe.components.batch_predict.__main__ import main
from imgpipe.components.batch_predict.arguments import BatchPredictArguments
from imgpipe.components.batch_predict.batch_predict import batch_predict
from imgpipe.components.batch_predict.component import batch_predict as component
from imgpipe.components.common.errors import (
    InvalidArgumentError,
    InvalidDataError,
    MissingInputError,
    OutputError,
)
from imgpipe.components.common.provenance import write_provenance
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.common.served_model import load_served_model
from imgpipe.pipelines.commands.predict import predict
from tests.components.records import write_records

LABELS = ("dark", "größer", "middle", "bright")


@pytest.fixture(scope="module")
def model(linear_model, tmp_path_factory):
    return linear_model(tmp_path_factory.mktemp("model") / "model", LABELS)


@pytest.fixture(scope="module")
def images(encode):
    draw = np.random.default_rng(0)
    return [encode(draw.integers(0, 256, (9 + n, 8, 3)), "JPEG" if n % 2 else "PNG") for n in range(30)]


@pytest.fixture
def folder(images, tmp_path):
    """30 images in two subfolders, and other files."""
    root = tmp_path / "photos"
    for number, image in enumerate(images):
        path = root / ("a" if number < 20 else "b ü") / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    (root / "notes.txt").write_text("none")
    (root / ".hidden.jpg").write_text("none")
    return root


def lines_in(output):
    return [
        json.loads(line)
        for path in sorted(output.glob("predictions-*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def predicted(model, output, **values):
    arguments = BatchPredictArguments(model=str(model), output_dir=str(output), **values)
    return batch_predict(arguments), lines_in(output)


def check_lines(lines, images, model, top_k=5):
    probabilities = load_served_model(model).predict(images).probabilities
    for line, expected in zip(lines, probabilities, strict=True):
        order = np.argsort(-expected, kind="stable")[:top_k]
        assert [entry["class"] for entry in line["top"]] == order.tolist()
        assert [entry["label"] for entry in line["top"]] == [LABELS[number] for number in order]
        np.testing.assert_allclose(
            [entry["probability"] for entry in line["top"]], expected[order], atol=1e-6
        )
        assert {name: line[name] for name in ("class", "label", "probability")} == line["top"][0]


def test_a_folder_gives_one_line_per_image_in_order_with_its_path(folder, images, model, tmp_path):
    summary, lines = predicted(model, tmp_path / "out", images=str(folder), batch_size=7, images_per_file=12)
    assert (summary.images, summary.failed, summary.files) == (30, 0, 3)
    assert [line["key"] for line in lines] == [
        *(f"a/{number:02d}.jpg" for number in range(20)),
        *(f"b ü/{number:02d}.jpg" for number in range(20, 30)),
    ]
    check_lines(lines, images, model)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == {
        "images": 30,
        "failed": 0,
        "files": 3,
    }


def test_patterns_lists_records_and_buckets_give_the_same_predictions(folder, images, model, tmp_path, cloud):
    _, from_pattern = predicted(model, tmp_path / "pattern", images=f"{folder}/a/*.jpg", top_k=2)
    check_lines(from_pattern, images[:20], model, top_k=2)
    assert from_pattern[3]["key"] == f"{folder}/a/03.jpg"
    (folder / "list.csv").write_text('"a/04.jpg",x\n\n' + "b ü/21.jpg\n" + f"{folder}/a/00.jpg\n", "utf-8")
    _, from_list = predicted(model, tmp_path / "list", image_list=str(folder / "list.csv"))
    assert [line["key"] for line in from_list] == ["a/04.jpg", "b ü/21.jpg", f"{folder}/a/00.jpg"]
    check_lines(from_list, [images[4], images[21], images[0]], model)
    names = [*(f"name {number}" for number in range(29)), ""]
    records = [ImageRecord(image, 1, "", name) for image, name in zip(images, names, strict=True)]
    for shard in range(2):
        write_records(folder / f"data-{shard}", records[15 * shard : 15 * shard + 15])
    _, from_records = predicted(model, tmp_path / "records", records=f"{folder}/data-*")
    assert [line["key"] for line in from_records[:29]] == [f"name {number}" for number in range(29)]
    assert from_records[29]["key"] == f"{folder}/data-1, record 14"
    check_lines(from_records, images, model)
    for number, image in enumerate(images):
        cloud.put(f"photos/{number:02d}.png", image)
    # The model and the predictions are in the bucket too.
    for path in model.rglob("*"):
        if path.is_file():
            cloud.put(f"models/3/{path.relative_to(model)}", path.read_bytes())
    arguments = BatchPredictArguments(
        model="gs://photos/models", images="gs://photos/photos", output_dir="gs://photos/out"
    )
    assert batch_predict(arguments).images == 30
    written = cloud.contents("out/")
    lines = [json.loads(line) for line in written["predictions-00000.jsonl"].decode().splitlines()]
    assert [line["key"] for line in lines] == [f"{number:02d}.png" for number in range(30)]
    check_lines(lines, images, model)


def test_an_invalid_image_affects_its_own_line_only(folder, images, model, tmp_path, encode):
    (folder / "a" / "03.jpg").write_bytes(b"")
    (folder / "a" / "07.jpg").write_bytes(images[7][:-40])
    (folder / "a" / "08.jpg").write_bytes(b"GIF89a and no more")
    (folder / "a" / "11.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "b ü" / "25.jpg").unlink()
    (folder / "b ü" / "25.jpg").symlink_to("nowhere")
    summary, lines = predicted(model, tmp_path / "out", images=str(folder), batch_size=16)
    errors = {line["key"]: line["error"] for line in lines if "error" in line}
    assert set(errors) == {"a/03.jpg", "a/07.jpg", "a/08.jpg", "a/11.heic", "b ü/25.jpg"}
    assert "empty file" in errors["a/03.jpg"]
    assert "cannot decode" in errors["a/07.jpg"]
    assert "HEIC" in errors["a/11.heic"]
    assert "cannot be read: No such file" in errors["b ü/25.jpg"]
    assert (summary.images, summary.failed) == (31, 5)
    good = [number for number in range(30) if number not in (3, 7, 8, 25)]
    check_lines([line for line in lines if "error" not in line], [images[n] for n in good], model)


def test_the_images_with_the_least_clear_decision_are_listed_first(folder, images, model, tmp_path):
    (folder / "a" / "03.jpg").write_bytes(b"")
    _, lines = predicted(model, tmp_path / "out", images=str(folder), images_per_file=7, top_k=1)
    found = np.sort(load_served_model(model).predict(images).probabilities, axis=1)
    margins = {line["key"]: line["margin"] for line in lines if "error" not in line}
    expected = [float(row[-1] - row[-2]) for number, row in enumerate(found) if number != 3]
    assert list(margins.values()) == pytest.approx(expected, abs=1e-6)
    table = list(csv.DictReader((tmp_path / "out" / "worth_labelling.csv").open(encoding="utf-8")))
    assert [row["path"] for row in table] == sorted(margins, key=margins.get)
    guesses = {line["key"]: line.get("label") for line in lines}
    assert all(row["guess"] == guesses[row["path"]] for row in table)


def test_of_a_model_of_several_labels_the_margin_is_that_of_the_least_clear_label(
    folder, images, model, tmp_path
):
    shutil.copytree(model, tmp_path / "several")
    provenance = json.loads((model / "provenance.json").read_text(encoding="utf-8"))
    write_provenance(tmp_path / "several", {**provenance, "multi_label": True})
    _, lines = predicted(tmp_path / "several", tmp_path / "out", images=str(folder))
    found = load_served_model(model).predict(images).probabilities
    expected = np.abs(2 * found - 1).min(axis=1)
    assert [line["margin"] for line in lines] == pytest.approx(expected, abs=1e-6)


def test_a_list_in_json_lines_as_for_vertex_is_read(folder, images, model, tmp_path):
    entries = [{"content": f"a/{number:02d}.jpg", "mimeType": "image/jpeg"} for number in range(5)]
    (folder / "list.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    _, lines = predicted(model, tmp_path / "out", image_list=str(folder / "list.jsonl"))
    check_lines(lines, images[:5], model)
    (folder / "list.jsonl").write_text('{"content": "a/00.jpg"}\n{"gcsUri": "gs://b/c"}\n')
    with pytest.raises(InvalidDataError, match='not a JSON object with "content"') as caught:
        predicted(model, tmp_path / "out2", image_list=str(folder / "list.jsonl"))
    assert caught.value.where.endswith("list.jsonl, line 2")


def test_a_list_with_semicolons_is_rejected(folder, model, tmp_path):
    (folder / "list.csv").write_text("a/00.jpg;dark\na/01.jpg;bright\n")
    with pytest.raises(InvalidDataError, match="separated by semicolons"):
        predicted(model, tmp_path / "out", image_list=str(folder / "list.csv"))


def test_a_run_in_which_every_image_fails_is_an_error_with_the_first_reason(folder, model, tmp_path):
    (folder / "list.csv").write_text("nowhere/0.jpg\nnowhere/1.jpg\n")
    # The second time, the complete files are found.
    for _ in range(2):
        with pytest.raises(InvalidDataError, match="no image could be predicted; the first of 2") as caught:
            predicted(model, tmp_path / "out", image_list=str(folder / "list.csv"))
        assert "'nowhere/0.jpg': cannot be read: No such file" in caught.value.problem
        assert "relative to the folder of" in caught.value.remedy
    assert len(lines_in(tmp_path / "out")) == 2


def run_predict(*arguments):
    return CliRunner().invoke(predict, [str(argument) for argument in arguments])


def test_the_command_prints_the_predictions_of_named_files(folder, images, model, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    # A run's folder is accepted in place of its model.
    (run / "model").symlink_to(model)
    files = [folder / "a" / "00.jpg", folder / "notes.txt"]
    expected = load_served_model(model).predict(images[:1])
    label, probability = LABELS[expected.classes[0]], f"{expected.probabilities.max():.4f}"
    table = run_predict("--model", run, *files)
    assert table.exit_code == 0, table.output
    assert [line.split()[:3] for line in table.stdout.splitlines()][:2] == [
        ["FILE", "LABEL", "PROBABILITY"],
        [str(files[0]), label, probability],
    ]
    rows = list(csv.reader(run_predict("--model", run, "--format", "csv", *files).stdout.splitlines()))
    assert rows[1] == [str(files[0]), label, probability, ""]
    assert "not a JPEG" in rows[2][3]
    good, bad = json.loads(run_predict("--model", run, "--format", "json", *files).stdout)
    number = pytest.approx(float(expected.probabilities.max()))
    assert good == {"file": str(files[0]), "label": label, "probability": number}
    assert bad.keys() == {"file", "error"}


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--images", "x", "photo.jpg"], 64, "--images cannot be combined with FILE arguments"),
        (["--output-dir", "x", "photo.jpg"], 64, "--output-dir cannot be combined"),
        (["nowhere.jpg", "neither.jpg"], 66, "nowhere.jpg does not exist"),
        (["tests"], 64, "use --images tests --output-dir FOLDER"),
    ],
)
def test_the_command_rejects_what_it_cannot_predict(model, arguments, exit_code, message):
    result = run_predict("--model", model, *arguments)
    assert result.exit_code == exit_code
    assert message in " ".join(result.output.split())


def test_existing_files_are_kept(folder, model, tmp_path, capsys):
    output = tmp_path / "out"
    predicted(model, output, images=str(folder), images_per_file=10)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    # As after a kill with two of three files written.
    for name in ("summary.json", "worth_labelling.csv"):
        (output / name).unlink()
    (output / "predictions-00002.jsonl").unlink()
    (output / "predictions-00001.jsonl").touch()
    times = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    capsys.readouterr()
    predicted(model, output, images=str(folder), images_per_file=10)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert all((output / name).stat().st_mtime_ns == moment for name, moment in times.items())
    assert capsys.readouterr().out.count('"file_kept"') == 2
    predicted(model, output, images=str(folder), images_per_file=10)
    assert "30 predictions already complete" in capsys.readouterr().out


def test_predictions_of_different_inputs_or_models_are_not_mixed(folder, model, linear_model, tmp_path):
    output = tmp_path / "out"
    predicted(model, output, images=str(folder))
    with pytest.raises(OutputError, match="of a different run: different top_k"):
        predicted(model, output, images=str(folder), top_k=1)
    with pytest.raises(OutputError, match="of a different run: different model_sha256"):
        predicted(linear_model(tmp_path / "other", LABELS, seed=9), output, images=str(folder))
    (folder / "a" / "new.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match="of a different run: different input_sha256"):
        predicted(model, output, images=str(folder))
    with pytest.raises(OutputError, match="is not empty"):
        predicted(model, folder, images=str(folder))


def test_a_killed_run_resumes_with_the_same_result(images, model, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "0000.jpg").write_bytes(images[1])
    for number in range(1, 1500):
        os.link(photos / "0000.jpg", photos / f"{number:04d}.jpg")
    command = [
        *(sys.executable, "-m", "imgpipe.components.batch_predict", f"--model={model}", f"--images={photos}"),
        *("--images_per_file=100", f"--output_dir={tmp_path / 'out'}"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("predictions-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= len(list((tmp_path / "out").glob("predictions-*"))) < 15
    assert subprocess.run(command, capture_output=True).returncode == 0
    whole, lines = predicted(model, tmp_path / "whole", images=str(photos), images_per_file=100)
    assert whole.images == len(lines) == 1500
    for path in (tmp_path / "whole").glob("predictions-*"):
        assert (tmp_path / "out" / path.name).read_text() == path.read_text()
    tables = [(tmp_path / name / "worth_labelling.csv").read_text() for name in ("out", "whole")]
    assert tables[0] == tables[1]


def test_the_component_writes_to_its_artifact_or_to_output_dir(folder, model, tmp_path):
    for output_dir in ("", str(tmp_path / "elsewhere")):
        artifacts = {
            "predictions": dsl.Artifact(uri=str(tmp_path / "artifact")),
            "metrics": dsl.Metrics(uri=str(tmp_path / "metrics")),
        }
        component(
            **artifacts,
            arguments=BatchPredictArguments(model=str(model), images=str(folder), output_dir=output_dir),
        )
        assert artifacts["metrics"].metadata == {"images": 30.0, "failed": 0.0}
        assert len(lines_in(tmp_path / ("elsewhere" if output_dir else "artifact"))) == 30
        # KFP's launcher fails a step that moves an artifact out of the pipeline root.
        assert artifacts["predictions"].uri == str(tmp_path / "artifact")
        assert artifacts["predictions"].metadata == ({"output_dir": output_dir} if output_dir else {})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images": "x"}, "model is missing"),
        ({"model": "m"}, "no images are given"),
        ({"model": "m", "images": "x", "records": "y"}, "images and records are given"),
        ({"model": "m", "images": "az://x"}, "local paths, gs:// and s3://"),
        ({"model": "m", "images": "x", "top_k": 0}, "top_k=0"),
    ],
)
def test_invalid_combinations_of_arguments_are_rejected(values, message):
    with pytest.raises(InvalidArgumentError, match=message):
        BatchPredictArguments(**values)


def test_missing_inputs_are_named(model, tmp_path):
    with pytest.raises(InvalidArgumentError, match="--output_dir is missing"):
        main([f"--model={model}", "--images=x"])
    for values, message in (
        ({"images": str(tmp_path / "nowhere")}, "is not a folder"),
        ({"images": str(tmp_path)}, "there are no images in"),
        ({"image_list": str(tmp_path / "nowhere.csv")}, "cannot read"),
    ):
        with pytest.raises(MissingInputError, match=message):
            predicted(model, tmp_path / "out", **values)
    (tmp_path / "empty").write_bytes(b"")
    for values, message in (
        ({"records": str(tmp_path / "empty")}, "no records in 1 TFRecord file"),
        ({"image_list": str(tmp_path / "empty")}, "the list has no images"),
    ):
        with pytest.raises(InvalidDataError, match=message):
            predicted(model, tmp_path / "out", **values)
    (tmp_path / "one.jpg").write_bytes(b"")
    with pytest.raises(MissingInputError, match="is not a model"):
        predicted(tmp_path, tmp_path / "out", images=str(tmp_path))


def test_missing_inputs_are_reported_before_tensorflow_is_loaded(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"not an image")
    code = (
        "import sys\n"
        "from imgpipe.components.batch_predict.__main__ import main\n"
        "from imgpipe.components.common.errors import MissingInputError\n"
        "try:\n"
        "    main(['--model=nowhere', '--images=.', '--output_dir=out'])\n"
        "except MissingInputError as error:\n"
        "    print(error, 'tensorflow' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "there is no folder 'nowhere'" in result.stdout
    assert result.stdout.strip().endswith("False")
    assert not (tmp_path / "out").exists()
