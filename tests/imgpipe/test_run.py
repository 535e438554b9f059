"""run and tune from Python, and what a run gives back."""

import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest

import imgpipe
from imgpipe._options import check_options
from imgpipe.errors import InterruptedRunError, InvalidArgumentError, MissingInputError
from imgpipe.pipelines.local_pipeline import RETRAIN, TUNE, prepare_run
from tests.imgpipe.conftest import LABELS, QUICK


def test_the_metrics_are_numbers_by_name(finished_run):
    metrics = finished_run.metrics
    assert metrics["examples"] == 12
    assert 0 <= metrics["top_1_accuracy"] <= 1
    assert {"loss", "macro_f1", "expected_calibration_error"} <= set(metrics)
    assert all(type(value) is float for value in metrics.values())


def test_the_confusion_matrix_agrees_with_the_metrics(finished_run):
    matrix = finished_run.confusion_matrix
    assert matrix.shape == (3, 3)
    assert matrix.sum() == 12
    assert np.trace(matrix) / 12 == pytest.approx(finished_run.metrics["top_1_accuracy"])
    assert [int(row.sum()) for row in matrix] == [
        finished_run.per_class[label]["support"] for label in LABELS
    ]


def test_the_predictions_agree_with_the_metrics(finished_run):
    predictions = finished_run.predictions(progress=False)
    assert len(predictions) == 12
    accuracy = np.mean([prediction.correct for prediction in predictions])
    assert accuracy == pytest.approx(finished_run.metrics["top_1_accuracy"])
    assert {prediction.true_labels for prediction in predictions} == {(label,) for label in LABELS}
    assert all(prediction.key.endswith(".png") for prediction in predictions)


def test_the_model_can_be_loaded_and_predicts(finished_run, flowers):
    model = imgpipe.load(finished_run)
    assert model.path == imgpipe.load(finished_run.model).path == finished_run.model
    assert model.labels == finished_run.labels == LABELS
    assert model.predict(flowers / "daisy" / "0.png").label in LABELS


def test_the_reports_are_pages_that_a_notebook_shows(finished_run):
    for report in (finished_run.report, finished_run.data_report):
        assert os.path.getsize(report) > 1000
        assert report._repr_html_().startswith("<iframe sandbox")
    assert "top-1 accuracy" in finished_run._repr_html_()


def test_an_earlier_run_can_be_opened(finished_run):
    assert imgpipe.Run(str(finished_run.folder)).metrics == finished_run.metrics


def test_a_folder_that_is_not_a_run_says_so(tmp_path):
    with pytest.raises(MissingInputError, match="finished run"):
        _ = imgpipe.Run(tmp_path).metrics
    assert "unknown" in repr(imgpipe.Run(tmp_path))


def test_a_report_that_was_not_written_says_so(tmp_path):
    with pytest.raises(MissingInputError, match=r"report\.html"):
        imgpipe.Run(tmp_path).report._repr_html_()


def test_a_run_in_a_bucket_is_refused():
    with pytest.raises(InvalidArgumentError, match="must be a local path, not gs://"):
        imgpipe.Run("gs://bucket/job")


def test_a_run_that_does_not_exist_cannot_be_opened(tmp_path):
    with pytest.raises(MissingInputError, match=r"there is no folder .*nowhere"):
        imgpipe.Run(tmp_path / "nowhere")


def test_search_space_of_another_type_is_rejected_with_an_example():
    with pytest.raises(InvalidArgumentError, match="is not a dict") as raised:
        imgpipe.tune([("a", "b")])
    assert raised.value.remedy == 'pass search_space, e.g. {"initial_learning_rate": "log:0.001:0.2"}'


@pytest.mark.parametrize(("space", "largest"), [("8,16", 16), ("4:24", 24)])
def test_the_data_are_checked_against_the_largest_batch_of_the_search(space, largest, flowers):
    prepared = prepare_run(TUNE, {"images": str(flowers), "tune": f"train_batch_size={space}"})
    assert prepared.parameters["train_batch_size"] == largest


def test_tuning_without_a_search_space_has_one_around_the_recipe(flowers):
    prepared = prepare_run(TUNE, {"images": str(flowers), "weights": "none", "weight_decay": 0.001})
    space = (
        "initial_learning_rate=log:0.005:0.2; augmentation=none,crop-flip,randaugment; "
        "model_type=resnet-18,resnet-34"
    )
    assert prepared.parameters["tune"] == space
    assert prepared.title.endswith(f"no search space was given, so it is: {space}")


def test_run_refers_to_tune():
    with pytest.raises(InvalidArgumentError, match="no option 'tune'") as raised:
        imgpipe.run(tune={"seed": [1, 2]})
    assert raised.value.remedy == "use imgpipe.tune"


def test_an_option_that_is_none_is_omitted_unless_none_could_be_its_value():
    assert check_options(RETRAIN.inputs, {"max_steps": None, "seed": 3}) == {"seed": 3}
    with pytest.raises(InvalidArgumentError, match='weights=None: must be "auto", "imagenet" or "none"'):
        check_options(RETRAIN.inputs, {"weights": None})


def test_a_search_space_of_single_values_is_refused():
    with pytest.raises(InvalidArgumentError, match="train_batch_size"):
        imgpipe.tune({"train_batch_size": 8}, max_trials=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"imags": "x"}, "did you mean images"),
        ({"max_steps": "many"}, "max_steps='many'"),
        ({"model_type": "resnet-19"}, "resnet-19"),
        ({"recipe": "finetune"}, "fine-tune"),
        ({"images": ""}, "images is empty"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError, match=words):
        imgpipe.run(**options)
    assert not list(tmp_path.iterdir())


# A pipe that is not closed is a warning in the notebook.
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_tuning_gives_the_best_trial_and_all_trials(flowers, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = imgpipe.tune(
            {"initial_learning_rate": "log:0.01:0.1", "train_batch_size": [8, 16]},
            images=flowers,
            job_dir=tmp_path / "tuned",
            max_trials=2,
            progress=False,
            **QUICK,
        )
    assert len(run.trials) == 2
    assert {trial["hyperparameters"]["train_batch_size"] for trial in run.trials} <= {"8", "16", 8, 16}
    assert (run.model / "saved_model.pb").is_file()


def test_a_converted_data_set_can_be_trained_on(flowers, tmp_path):
    dataset = imgpipe.convert(tmp_path / "shards", images=flowers, test_fraction=0.2, progress=False)
    run = imgpipe.run(dataset=dataset, job_dir=tmp_path / "job", progress=False, **QUICK)
    assert run.labels == LABELS
    assert run.metrics["examples"] == dataset.image_counts["validation"]
    assert "test_top_1_accuracy" in run.metrics
    assert run.dataset.image_counts == dataset.image_counts
    # The shards are not read again.
    assert "convert_from_manifest" in (tmp_path / "job" / "run.log").read_text()
    with pytest.raises(InvalidArgumentError, match="dataset and images cannot both be set"):
        imgpipe.run(dataset=dataset.path, images=flowers)


def test_ctrl_c_is_a_keyboard_interrupt_and_an_interrupted_run(flowers, tmp_path):
    log = tmp_path / "job" / "run.log"

    def interrupt():
        while not (log.exists() and log.stat().st_size):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt) as raised:
        imgpipe.run(images=flowers, job_dir=tmp_path / "job", progress=False, **QUICK)
    assert isinstance(raised.value, InterruptedRunError)
    assert f'job_dir="{tmp_path / "job"}"' in raised.value.remedy


@pytest.mark.parametrize("values", [(0.001, 0.2), 0.1])
def test_a_search_space_that_can_be_read_in_two_ways_is_refused(values):
    with pytest.raises(InvalidArgumentError, match="not a range or a list") as raised:
        imgpipe.tune({"weight_decay": values})
    assert '"0.001:0.2"' in raised.value.remedy


def test_the_argument_tune_is_refused_because_search_space_replaces_it():
    with pytest.raises(InvalidArgumentError, match="no option 'tune'"):
        imgpipe.tune(tune="weight_decay=0.1:0.2")
