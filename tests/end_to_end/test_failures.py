"""Errors of a run: each is reported within seconds, with its cause, a remedy and an exit status."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.command_line import IMGPIPE
from tests.end_to_end.runs import SMALL, run_imgpipe
from tests.waiting import wait_until

# From the start of the failing step.
MAX_SECONDS = 10


def check_explained(run, *, step, status, messages, within=MAX_SECONDS):
    assert run.status == status, run.shown
    assert run.summary["step"] == step
    assert run.summary["exit_code"] == status
    for message in messages:
        assert message in run.shown
    assert f"error in {step}:" in run.shown
    assert "what to do:" in run.shown
    assert "Traceback" not in run.shown
    assert "RuntimeError" not in run.shown
    assert run.seconds_to_failure() <= within
    assert not (run.folder / "model").exists()


def write_csv(path: Path, rows) -> str:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def rows(coloured_folder):
    """Rows of a valid CSV file in the folder with the classes."""
    return [
        f'"{file.relative_to(coloured_folder)}"'.replace('"dark"', '""dark""') + f",{label}"
        for label, name in (("red", 'röt, "dark"'), ("blue", "青"))
        for file in sorted((coloured_folder / name).iterdir())
    ]


def test_a_wrong_path_in_the_csv(tmp_path, coloured_folder, rows):
    csv = write_csv(coloured_folder / "train.csv", [*rows, "no/such.png,red"])
    run = run_imgpipe(tmp_path / "job", "--train-csv", csv, *SMALL)
    check_explained(run, step="convert", status=65, messages=["train.csv", "line 25", "no/such.png"])


def test_a_champion_that_does_not_exist_is_rejected_before_the_first_step(tmp_path, coloured_folder):
    champion = str(tmp_path / "nowhere")
    run = run_imgpipe(tmp_path / "job", "--images", str(coloured_folder), "--champion", champion, *SMALL)
    assert run.status == 66, run.shown
    assert champion in run.shown
    assert "convert  " not in run.shown


def test_the_folder_of_a_failed_run_can_be_reused(tmp_path, coloured_folder, rows):
    csv = Path(write_csv(coloured_folder / "train.csv", [*rows, "no/such.png,red"]))
    first = run_imgpipe(tmp_path / "job", "--train-csv", str(csv), *SMALL)
    check_explained(first, step="convert", status=65, messages=["no/such.png"])
    write_csv(csv, rows)
    second = run_imgpipe(tmp_path / "job", "--train-csv", str(csv), *SMALL, "--train-batch-size", "64")
    # The run gets past convert; its batch size is larger than the data.
    check_explained(second, step="validate", status=64, messages=["--train-batch-size"])


def test_modules_in_the_current_folder_are_not_imported(tmp_path):
    for name in ("imgpipe", "components", "pipelines", "json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong module was imported')")
    write_csv(tmp_path / "train.csv", ["nowhere.png,red"])
    run = run_imgpipe(tmp_path / "job", "--train-csv", "train.csv", *SMALL, cwd=tmp_path)
    check_explained(run, step="convert", status=65, messages=["nowhere.png"])
    assert "wrong module" not in (run.folder / "run.log").read_text()


def test_a_label_count_that_differs_from_num_classes(tmp_path, coloured_folder):
    run = run_imgpipe(tmp_path / "job", "--images", str(coloured_folder), "--num-classes", "3", *SMALL)
    check_explained(run, step="validate", status=64, messages=["2 labels", "--num-classes is 3", "青"])
    # The data report is kept although the step failed.
    assert "num_classes is 3" in (run.folder / "data_report.html").read_text(encoding="utf-8")


def test_missing_pretrained_weights_are_reported_before_the_first_step(
    tmp_path, coloured_folder, monkeypatch
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "no weights here"))
    # A port on which nothing listens: there is no connection to the internet.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    run = run_imgpipe(
        tmp_path / "job", "--images", str(coloured_folder), "--train-batch-size", "8", "--max-steps", "3"
    )
    assert run.status == 69, run.shown
    assert "ImageNet weights of mobilenet-v2 are not on this machine" in run.shown
    assert "set --weights to none" in run.shown
    assert not run.folder.exists()


@pytest.mark.proof
def test_settings_of_other_programs_do_not_change_a_run(tmp_path, coloured_folder, monkeypatch):
    """All together: each of them ended the run, or made it wait forever."""
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "keras.json").write_text('{"floatx": "float16", "backend": "jax"}')
    for name, value in {
        "KERAS_HOME": str(tmp_path / "keras"),
        "KERAS_BACKEND": "torch",
        "PYTHONOPTIMIZE": "2",
        "TF_CONFIG": json.dumps(cluster),
    }.items():
        monkeypatch.setenv(name, value)
    arguments = ["--images", str(coloured_folder), "--train-batch-size", "8", *SMALL]
    run = run_imgpipe(tmp_path / "job", *arguments)
    assert run.status == 0, run.shown
    assert "TF_CONFIG is ignored: it names the hosts a:1, b:1" in run.shown
    assert run.shown.count("these settings of Keras are ignored: KERAS_BACKEND=torch, ") == 1


def test_an_interrupted_run_saves_a_checkpoint_after_a_slow_step(tmp_path, coloured_folder):
    job = tmp_path / "job"
    # A step takes seconds; there is no evaluation, after which a checkpoint is written in any case.
    slow = ["--image-size", "224", "--train-batch-size", "16", "--warmup-steps", "0", "--max-steps", "100000"]
    process = subprocess.Popen(
        [IMGPIPE, "run", "--job-dir", str(job), "--images", str(coloured_folder), *SMALL[:4], *slow],
        stderr=subprocess.PIPE,
        text=True,
        # Of all its processes.
        env={**os.environ, "IMGPIPE_TEST_RUN": "1"},
    )
    wait_until(
        lambda: (job / "run.log").exists() and '"event": "progress", "message": "train' in job_log(job),
        120,
        process=process,
    )
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "the training writes a checkpoint after the current step" in shown
    assert "interrupted" in shown
    assert f"continue with `imgpipe resume {job}`" in " ".join(shown.split())
    (checkpoint,) = (job / "checkpoints").glob("step-*.npz")
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = entry.read_bytes()
        except OSError:
            continue
        assert b"IMGPIPE_TEST_RUN" not in environment

    # No work is lost, and the recorded arguments are used.
    step = int(checkpoint.stem.removeprefix("step-"))
    resume = [IMGPIPE, "resume", str(job), "--max-steps", str(step + 1)]
    resumed = subprocess.run(resume, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert f"changed: --max-steps was 100000, is {step + 1}" in resumed.stderr
    assert f"train: resuming from the checkpoint of step {step:,} of {step + 1:,}" in resumed.stderr


@pytest.mark.proof
def test_a_finished_run_trains_on_with_more_steps_and_publishes_again(tmp_path, coloured_folder):
    arguments = ["--images", str(coloured_folder), "--train-batch-size", "8", *SMALL[:-1]]
    first = run_imgpipe(tmp_path / "job", *arguments, "3")
    model = (first.folder / "model" / "provenance.json").read_text()
    again = run_imgpipe(tmp_path / "job", *arguments, "3")
    assert (again.status, "has a finished run" in again.shown) == (73, True), again.shown
    assert (first.folder / "model" / "provenance.json").read_text() == model
    longer = run_imgpipe(tmp_path / "job", *arguments, "5")
    assert longer.status == 0, longer.shown
    assert "resuming from the checkpoint of step 3 of 5" in longer.shown
    assert json.loads((first.folder / "model" / "provenance.json").read_text())["arguments"]["max_steps"] == 5


def job_log(job):
    return (job / "run.log").read_text(encoding="utf-8")
