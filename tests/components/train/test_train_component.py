"""The interfaces of the step: the KFP component and the command line."""

import json
import math
import subprocess
import sys

import pytest
from kfp import dsl

from imgpipe.components.common.dataset import TRAIN, VALIDATION, read_manifest
from imgpipe.components.common.errors import CheckFailedError
from imgpipe.components.common.log import parse_event
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.component import train
from imgpipe.components.train.job_dir import FILES_OF_TRAINING, RACE_FILE

from .job import small_training


def run_command(*arguments):
    result = subprocess.run(
        [sys.executable, "-m", "imgpipe.components.train", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    events = [event for line in result.stdout.splitlines() if (event := parse_event(line))]
    return result, events


def test_the_component_logs_finite_python_floats(coloured_dataset, tmp_path):
    dataset = dsl.Dataset(uri=str(coloured_dataset(tmp_path / "data")))
    model, metrics = dsl.Model(uri=str(tmp_path / "model")), dsl.Metrics(uri=str(tmp_path / "metrics"))
    train(dataset, model, metrics, small_training())
    accuracies = {"top_1_accuracy", "top_5_accuracy"}
    assert set(metrics.metadata) == {*accuracies, "loss", "train_loss", "temperature", "best_step"}
    assert all(type(value) is float and math.isfinite(value) for value in metrics.metadata.values())
    assert metrics.metadata["top_5_accuracy"] == 1.0
    assert model.metadata == {"framework": "TensorFlow", "model_type": "resnet-18", "best_step": 2}
    assert (tmp_path / "model" / "saved_model.pb").is_file()


def test_a_diverging_training_logs_no_metrics_and_writes_no_model(coloured_dataset, tmp_path):
    dataset = dsl.Dataset(uri=str(coloured_dataset(tmp_path / "data")))
    model, metrics = dsl.Model(uri=str(tmp_path / "model")), dsl.Metrics(uri=str(tmp_path / "metrics"))
    with pytest.raises(CheckFailedError, match="learning rate"):
        train(dataset, model, metrics, small_training(max_steps=4, initial_learning_rate=1e30))
    assert metrics.metadata == {}
    assert not (tmp_path / "model").exists()


def test_the_command_line_trains_from_tfrecords_and_publishes_to_job_dir(coloured_dataset, tmp_path):
    dataset = coloured_dataset(tmp_path / "data", ("dunkel", "größer, heller"), shards=2)
    job_dir = tmp_path / "job"
    arguments = [
        f"--training_data_path={dataset}/train-*",
        f"--validation_data_path={dataset}/validation-*",
        f"--job-dir={job_dir}",
        "--num_classes=2",
        "--max_steps=1",
        "--train_batch_size=4",
        "--model_type=resnet-18",
        "--weights=none",
        "--image_size=32",
        "--optimizer_arguments=momentum=0.8,use_nesterov=true",
    ]
    result, events = run_command(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert events[-1]["event"] == "published"
    model = job_dir / "model"
    assert (model / "assets" / "labels.txt").read_text(encoding="utf-8") == "dunkel\ngrößer, heller\n"
    provenance = json.loads((model / "provenance.json").read_text())
    assert provenance["arguments"]["optimizer_arguments"] == "momentum=0.8,use_nesterov=true"
    assert provenance["data_digest"] == read_manifest(dataset).digest()
    assert {path.name for path in job_dir.iterdir()} == {"model", *FILES_OF_TRAINING} - {RACE_FILE}
    assert read_manifest(dataset).splits[TRAIN].examples == 12
    assert read_manifest(dataset).splits[VALIDATION].examples == 6


def test_the_command_line_trains_from_and_into_a_bucket(bucket, coloured_dataset, tmp_path):
    dataset = coloured_dataset(tmp_path / "data", shards=2)
    for path in dataset.iterdir():
        bucket.put(f"data/{path.name}", path.read_bytes())
    manifest = [f"--dataset={bucket.uri}/data/manifest.json"]
    patterns = [f"--{name}_data_path={bucket.uri}/data/{name[:5]}*" for name in ("training", "validation")]
    arguments = [
        f"--job-dir={bucket.uri}/job",
        "--train_batch_size=4",
        "--model_type=resnet-18",
        "--weights=none",
        "--image_size=32",
    ]
    result, events = run_command(*manifest, *arguments, "--max_steps=1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert events[-1]["message"] == f"train: published to {bucket.uri}/job/model"
    # Nothing is read twice.
    read = [path for method, path in bucket.requests if bucket.reads(method, path) and "-of-" in path]
    assert len(read) == len(set(read)) == 4
    names = set(bucket.contents("job/"))
    assert {"model/saved_model.pb", "model/provenance.json", "metrics.jsonl"} <= names
    assert {"checkpoints/step-00000001.npz", "checkpoints/best-00000001.npz"} <= names
    # The same data, so that the training continues.
    result, _ = run_command(*patterns, *arguments, "--max_steps=2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "resuming from the checkpoint of step 1 of 2" in result.stdout


def test_help_lists_every_argument_with_its_description():
    result, _ = run_command("--help")
    assert result.returncode == 0
    assert result.stderr == ""
    for name in ("training_data_path", "job_dir", *TrainingArguments.__dataclass_fields__):
        assert f"--{name} (" in result.stdout
    assert "--max_steps (int, default -1)" in result.stdout
    assert "Allowed: at least 1, or -1." in result.stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--max_step=3"], 64, "--max-steps"),
        (["--job_dir=job", "--training_data_path=a"], 64, "--validation_data_path is required"),
        (["--job_dir=job", "--dataset=a", "--labels_file=b"], 64, "--dataset and --labels_file cannot"),
        (
            ["--job-dir=az://b/j", "--training_data_path=a", "--validation_data_path=b"],
            64,
            "az:// is not supported; local paths, gs:// and s3:// are",
        ),
        (
            ["--job-dir=.", "--training_data_path=a", "--validation_data_path=b", "--max_steps=0"],
            64,
            "max_steps=0",
        ),
    ],
)
def test_an_invalid_command_line_fails_with_its_exit_code(arguments, exit_code, message):
    result, events = run_command(*arguments)
    assert result.returncode == exit_code
    assert message in f"{events[-1]['problem']} {events[-1]['remedy']}"


def test_an_unrelated_model_folder_is_not_replaced(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    arguments = ["--training_data_path=a", "--validation_data_path=b", f"--job_dir={tmp_path}"]
    result, _ = run_command(*arguments)
    assert result.returncode == 73
    assert (tmp_path / "model" / "mine.txt").read_text() == "mine"
