"""prepare_run checks without writing; run_prepared works outside the main thread."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from imgpipe.components.common.errors import InvalidDataError, MissingInputError, UnavailableError
from imgpipe.pipelines.local_pipeline import TRAIN, prepare_run, run_prepared
from imgpipe.pipelines.run_display import RunDisplay


@pytest.fixture(autouse=True)
def current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_data_the_digits_are_used_and_nothing_is_written(current_folder):
    run = prepare_run(TRAIN, {"max_steps": 7})
    assert run.sample
    assert (run.parameters["recipe"], run.parameters["max_steps"]) == ("digits", 7)
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
    (current_folder / "train.csv").write_text("missing.png,red\nmissing.png,blue\n")
    run = prepare_run(TRAIN, {"train_csv": "train.csv", "weights": "none", "job_dir": "job"})
    display = RunDisplay(Console(quiet=True))
    with ThreadPoolExecutor(1) as pool, pytest.raises(InvalidDataError, match=r"missing\.png") as caught:
        pool.submit(run_prepared, run, display).result() if in_thread else run_prepared(run, display)
    assert caught.value.step == "convert"
    assert caught.value.remedy
    assert caught.value.__notes__ == [f"in step convert; log: {caught.value.log}"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_missing_input_leaves_no_folder(current_folder):
    run = prepare_run(TRAIN, {"train_csv": "missing.csv", "weights": "none"})
    with pytest.raises(MissingInputError, match=r"missing\.csv"):
        run_prepared(run, RunDisplay(Console(quiet=True)))
    assert not list(current_folder.iterdir())


def test_missing_weights_leave_no_folder(current_folder, monkeypatch):
    (current_folder / "weights" / "models").mkdir(parents=True)
    (current_folder / "weights" / "models" / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5").touch()
    monkeypatch.setenv("KERAS_HOME", str(current_folder / "weights"))
    run = prepare_run(TRAIN, {"weights": "imagenet", "model_type": "resnet-50"})
    with pytest.raises(UnavailableError, match="resnet-50 is damaged"):
        run_prepared(run, RunDisplay(Console(quiet=True)))
    assert [path.name for path in current_folder.iterdir()] == ["weights"]


def test_a_cluster_is_ignored_with_a_warning(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {}}')
    assert "TF_CONFIG is ignored" in prepare_run(TRAIN, {}).warnings[0]
