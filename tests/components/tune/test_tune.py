"""Tuning with real training runs."""

import json
import subprocess
import sys

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, OutputError
from imgpipe.components.common.provenance import read_provenance
from imgpipe.components.common.published_model import publish_model
from imgpipe.components.storage import parse_location
from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.tune import TuningFiles, tune
from tests.servers.configs import TUNING_CONFIG

from .synthetic import REAL_TRAINING as TRAINING


@pytest.fixture
def dataset(coloured_dataset, tmp_path):
    return coloured_dataset(tmp_path / "data")


def test_the_model_is_the_best_trials_and_all_use_one_copy_of_the_shards(
    dataset, upload_dataset, cloud, tmp_path
):
    files = TuningFiles(tmp_path / "job", tmp_path / "model")
    tuning = TuneArguments(tune="initial_learning_rate=0.0001,0.01", max_trials=2, search_algorithm="grid")
    result = tune(tuning, TRAINING, upload_dataset(cloud, dataset, tmp_path / "manifest"), files)
    read = [path for request, path in cloud.requests if cloud.reads(request, path)]
    assert len(read) == len(set(read)) == 2
    assert [trial.values["initial_learning_rate"] for trial in result.trials] == [0.0001, 0.01]
    best = read_provenance(tmp_path / "model")
    assert best["arguments"]["initial_learning_rate"] == result.best.values["initial_learning_rate"]
    for trial in result.trials:
        folder = tmp_path / "job" / "model" / f"trial_{trial.id}"
        assert read_provenance(folder)["best_step"] == trial.final["step"]
        measured = json.loads(
            (tmp_path / "job" / "trials" / str(trial.id) / "evaluation" / "metrics.json").read_text()
        )
        assert measured["top_1_accuracy"] == trial.objective == trial.final["top_1_accuracy"]
        assert trial.final["examples"] == 6
        assert [evaluation["step"] for evaluation in trial.evaluations] == [1, 2, 3, 4]
    assert json.loads((tmp_path / "job" / "trials.json").read_text())["bestTrialId"] == str(result.best.id)
    assert "Learning curves" in (tmp_path / "job" / "tuning.html").read_text()
    # Publishing the best model next to the trials' models keeps them.
    target = publish_model(tmp_path / "model", parse_location(tmp_path / "job")).path
    assert {path.name for path in target.iterdir()} >= {"saved_model.pb", "trial_1", "trial_2"}
    publish_model(tmp_path / "model", parse_location(tmp_path / "job"))
    assert (target / "trial_1" / "saved_model.pb").is_file()


def test_an_invalid_search_space_is_rejected_before_anything_is_written(dataset, tmp_path):
    files = TuningFiles(tmp_path / "job", tmp_path / "model")
    with pytest.raises(InvalidArgumentError, match="a trial may have warmup_steps=9"):
        tune(TuneArguments(tune="warmup_steps=0:9"), TRAINING, dataset, files)
    assert not (tmp_path / "job").exists()


def test_if_all_trials_fail_there_is_a_report_but_no_model(dataset, tmp_path):
    files = TuningFiles(tmp_path / "job", tmp_path / "model")
    tuning = TuneArguments(tune="train_batch_size=13,14", max_trials=2, search_algorithm="grid")
    with pytest.raises(InvalidArgumentError, match="2 of 2 trials failed") as raised:
        tune(tuning, TRAINING, dataset, files)
    assert "is more than 12 training images" in raised.value.problem
    assert not files.model.exists()
    output = json.loads((tmp_path / "job" / "trials.json").read_text())
    assert [trial["state"] for trial in output["trials"]] == ["FAILED", "FAILED"]
    assert "trials failed" in (tmp_path / "job" / "tuning.html").read_text()


def test_a_model_does_not_replace_other_files(dataset, tmp_path):
    (tmp_path / "job" / "model" / "trial_1").mkdir(parents=True)
    (tmp_path / "job" / "model" / "notes.txt").write_text("mine")
    (tmp_path / "made").mkdir()
    with pytest.raises(OutputError, match="is not a model that imgpipe wrote"):
        publish_model(tmp_path / "made", parse_location(tmp_path / "job"))


@pytest.mark.proof
def test_the_command_line_accepts_the_original_config(digits_dataset, tmp_path):
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "imgpipe.components.tune",
            f"--training_data_path={digits_dataset}/train-*",
            f"--validation_data_path={digits_dataset}/validation-*",
            f"--job-dir={tmp_path / 'job'}",
            f"--hyperparameters={TUNING_CONFIG}",
            "--model_type=resnet-18",
            "--image_size=32",
            "--weights=none",
            "--max_steps=40",
            "--train_batch_size=32",
            "--train_steps_per_eval=5",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    output = json.loads((tmp_path / "job" / "trials.json").read_text())
    assert len(output["trials"]) == 6
    assert any(trial["isTrialStoppedEarly"] for trial in output["trials"])
    best = output["trials"][0]
    model, theirs = tmp_path / "job" / "model", tmp_path / "job" / "model" / f"trial_{best['trialId']}"
    variables = "variables/variables.data-00000-of-00001"
    assert (model / variables).read_bytes() == (theirs / variables).read_bytes()
    assert best["finalMetric"]["objectiveValue"] == max(
        trial["finalMetric"]["objectiveValue"] for trial in output["trials"]
    )
