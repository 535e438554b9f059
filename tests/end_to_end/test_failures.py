"""Errors of a run: each is reported within seconds, with its cause, a remedy and an exit status."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.command_line import IMGPIPE
from tests.end_to_end.runs import SMALL, run_imgpipe

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
    second = run_imgpipe(tmp_path / "job", "--train-csv", str(csv), *SMALL)
    # The run gets past convert; its batch size is larger than the data.
    check_explained(second, step="validate", status=64, messages=["--train-batch-size"])


def test_modules_in_the_current_folder_are_not_imported(tmp_path):
    for name in ("imgpipe", "components", "pipelines", "json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong module was imported')")
    run = run_imgpipe(tmp_path / "job", "--train-csv", "nowhere.csv", *SMALL, cwd=tmp_path)
    check_explained(run, step="convert", status=66, messages=["nowhere.csv"])
    assert "wrong module" not in (run.folder / "run.log").read_text()


def test_a_label_count_that_differs_from_num_classes(tmp_path, coloured_folder):
    run = run_imgpipe(tmp_path / "job", "--images", str(coloured_folder), "--num-classes", "3", *SMALL)
    check_explained(run, step="validate", status=64, messages=["2 labels", "--num-classes is 3", "青"])
    # The data report is kept although the step failed.
    assert "num_classes is 3" in (run.folder / "data_report.html").read_text(encoding="utf-8")


def test_missing_pretrained_weights(tmp_path, coloured_folder, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "no weights here"))
    run = run_imgpipe(
        tmp_path / "job", "--images", str(coloured_folder), "--train-batch-size", "8", "--max-steps", "3"
    )
    # The step imports TensorFlow first, and then waits for the download to fail.
    check_explained(
        run,
        step="train",
        status=69,
        messages=["ImageNet weights of mobilenet-v2", "set --weights to none"],
        within=60,
    )


def test_an_interrupted_run_reports_it_and_leaves_no_process(tmp_path, coloured_folder):
    job = tmp_path / "job"
    arguments = ["--images", str(coloured_folder), "--train-batch-size", "8", *SMALL[:-1], "100000"]
    process = subprocess.Popen(
        [IMGPIPE, "run", "--job-dir", str(job), *arguments], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not ((job / "run.log").exists() and '"train: ' in (job / "run.log").read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "interrupted" in shown
    assert f"run the same command with --job-dir {job} to resume" in " ".join(shown.split())
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:
            continue
        assert os.fsencode(job) not in command
