"""prepare_run checks without writing; run_prepared works outside the main thread."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from imgpipe.pipelines.local_pipeline import TRAIN, prepare_run, run_prepared
from imgpipe.pipelines.local_run import StepFailedError
from imgpipe.pipelines.run_display import RunDisplay


@pytest.fixture(autouse=True)
def current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_data_the_digits_are_used_and_nothing_is_written(current_folder):
    run = prepare_run(TRAIN, {"max_steps": 7})
    assert run.sample
    assert (run.recipe, run.parameters["max_steps"]) == ("digits", 7)
    assert run.title.startswith("imgpipe run: scikit-learn's digits (no data was given), ")
    assert run.parameters["train_csv"] == str(run.folder.sample_data / "digits.csv")
    assert not list(current_folder.iterdir())


def test_the_title_has_the_given_data(current_folder):
    run = prepare_run(TRAIN, {"images": "flowers", "weights": "none"})
    assert not run.sample
    assert run.title.startswith("imgpipe run: flowers, resnet-18, recipe from-scratch: ")


@pytest.mark.parametrize("in_thread", [True, False])
def test_a_step_error_is_raised_and_signal_handlers_are_restored(current_folder, in_thread):
    handler = signal.getsignal(signal.SIGINT)
    run = prepare_run(TRAIN, {"train_csv": "missing.csv", "job_dir": "job"})
    display = RunDisplay(Console(quiet=True))
    with ThreadPoolExecutor(1) as pool, pytest.raises(StepFailedError, match=r"missing\.csv") as caught:
        pool.submit(run_prepared, run, display).result() if in_thread else run_prepared(run, display)
    assert caught.value.step == "convert"
    assert signal.getsignal(signal.SIGINT) is handler
