import shutil
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from kfp import dsl

from imgpipe.components.common.dataset import VALIDATION, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.drift import load_sketch
from imgpipe.components.common.errors import CheckFailedError, MissingInputError, OutputError
from imgpipe.components.common.forking import can_fork
from imgpipe.components.common.log import parse_event
from imgpipe.components.common.provenance import write_provenance
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.common.verification import read_verified_model
from imgpipe.components.evaluate.evaluate import evaluate
from imgpipe.components.export.arguments import ExportArguments
from imgpipe.components.export.component import export as export_component
from imgpipe.components.export.export import (
    SINGLE_TOLERANCE,
    TOLERANCE,
    ServingMeasurements,
    check_latency,
    check_predictions,
    export,
)

REFERENCE = np.array([[0.2, 0.8], [0.7, 0.3], [0.5, 0.5]], np.float32)
CLASSES = np.array([1, 0, 0])


@pytest.fixture(scope="module")
def dataset(coloured_dataset, tmp_path_factory):
    return coloured_dataset(tmp_path_factory.mktemp("data"), validation=45)


@pytest.fixture(scope="module")
def evaluated(dataset, linear_model, tmp_path_factory):
    """A model and its evaluation."""
    folder = tmp_path_factory.mktemp("evaluated")
    model = linear_model(folder / "model")
    evaluate(dataset, model, folder / "evaluation")
    return model, folder / "evaluation"


@pytest.fixture
def model(evaluated, tmp_path):
    """A copy to be damaged."""
    shutil.copytree(evaluated[0], tmp_path / "model")
    return tmp_path / "model"


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(dataset, model, evaluation, folder):
    """Returns the reason, having made sure that job_dir holds the model that stood there before."""
    old = folder / "job" / "model"
    old.mkdir(parents=True)
    write_provenance(old, {"the": "old one"})
    before = files(folder / "job")
    with pytest.raises(CheckFailedError) as caught:
        export(dataset, model, evaluation, folder / "exported", ExportArguments(job_dir=str(folder / "job")))
    assert files(folder / "job") == before
    return str(caught.value)


# ---------------------------------------------------------------- comparing predictions


def test_equal_predictions_pass_and_return_the_maximum_difference():
    assert check_predictions(REFERENCE, CLASSES, REFERENCE, TOLERANCE) == 0.0
    near = REFERENCE + np.float32(5e-6)
    assert check_predictions(REFERENCE, CLASSES, near, TOLERANCE) == pytest.approx(5e-6, rel=0.02)


def test_either_of_two_equally_probable_classes_passes():
    assert check_predictions(REFERENCE, np.array([1, 0, 1]), REFERENCE, TOLERANCE) == 0.0


@pytest.mark.parametrize("value", [REFERENCE[1, 0] + 1e-4, np.nan, np.inf, -np.inf])
def test_a_different_probability_fails_with_the_image(value):
    probabilities = REFERENCE.copy()
    probabilities[1, 0] = value
    with pytest.raises(CheckFailedError, match="for 1 of 3 images, first for image 1"):
        check_predictions(REFERENCE, CLASSES, probabilities, TOLERANCE)
    assert TOLERANCE < 1e-4 < SINGLE_TOLERANCE


def test_another_class_fails_even_if_the_probabilities_match():
    with pytest.raises(CheckFailedError, match="first for image 0: class 0"):
        check_predictions(REFERENCE, np.array([0, 0, 0]), REFERENCE, TOLERANCE)


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (0, 2)])
def test_another_shape_fails(shape):
    with pytest.raises(CheckFailedError, match="shape"):
        check_predictions(REFERENCE, np.zeros(shape[0], np.int64), np.zeros(shape, np.float32), TOLERANCE)


# ---------------------------------------------------------------- the whole step


def test_a_model_that_matches_its_evaluation_is_published_completely(dataset, evaluated, tmp_path, capsys):
    artifacts = {
        "dataset": dsl.Dataset(uri=str(dataset)),
        "model": dsl.Model(uri=str(evaluated[0]), metadata={"framework": "TensorFlow"}),
        "evaluation": dsl.Artifact(uri=str(evaluated[1])),
        "exported_model": dsl.Model(uri=str(tmp_path / "exported")),
        "serving_metrics": dsl.Metrics(uri=str(tmp_path / "serving")),
        "summary": dsl.Markdown(uri=str(tmp_path / "summary.md")),
    }
    export_component(**artifacts, arguments=ExportArguments(job_dir=str(tmp_path / "job")))
    exported = files(tmp_path / "exported")
    assert files(tmp_path / "job" / "model") == exported
    del exported["verification.json"]
    assert exported == files(evaluated[0])
    verification = read_verified_model(tmp_path / "exported")
    served = load_served_model(tmp_path / "exported")
    assert verification.labels == served.labels
    assert len(verification.images) == 8
    answers = served.call(verification.images, [str(number) for number in range(8)])
    rows = [
        {"key": str(number), "probabilities": values.tolist()}
        for number, values in enumerate(answers["probabilities"])
    ]
    verification.check_probabilities(rows)
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["model"]
    assert artifacts["exported_model"].metadata == {"framework": "TensorFlow"}
    events = [event for line in capsys.readouterr().out.splitlines() if (event := parse_event(line))]
    result = next(event for event in events if event["event"] == "step_result")
    # All 45 images are predicted in batches, eight of them also one by one.
    assert result["examples"] == 45
    assert 0 < result["latency_p50_ms"] <= result["latency_p99_ms"] < 1000 * result["start_seconds"]
    metadata = artifacts["serving_metrics"].metadata
    assert metadata["latency_p99_ms"] == pytest.approx(result["latency_p99_ms"], abs=1e-3)
    assert metadata["model_megabytes"] * 1e6 == pytest.approx(
        sum(len(content) for content in files(evaluated[0]).values()), abs=1000
    )
    assert result["largest_difference"] <= TOLERANCE
    assert load_served_model(tmp_path / "job" / "model").labels == read_manifest(dataset).labels


def test_a_model_with_an_operation_that_tensorflow_2_6_lacks_is_not_published(
    dataset, evaluated, model, tmp_path
):
    from tensorflow.core.protobuf import saved_model_pb2

    file = model / "saved_model.pb"
    content = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    content.meta_graphs[0].graph_def.library.function[0].node_def.add(name="new", op="DecodeWebP")
    file.write_bytes(content.SerializeToString())
    message = refused(dataset, model, evaluated[1], tmp_path)
    assert "servers with TensorFlow 2.6 cannot load the model, because it has DecodeWebP" in message
    assert "serving_formats=jpeg,png,gif,bmp,webp" in message


def test_truncated_weights_are_not_published(dataset, evaluated, model, tmp_path):
    data = model / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:200])
    message = refused(dataset, model, evaluated[1], tmp_path)
    assert "the model cannot be served in a new process" in message
    assert "cannot be loaded" in message


def test_weights_of_another_model_are_not_published(dataset, evaluated, model, linear_model, tmp_path):
    other = linear_model(tmp_path / "other", seed=1)
    shutil.rmtree(model / "variables")
    shutil.copytree(other / "variables", model / "variables")
    message = refused(dataset, model, evaluated[1], tmp_path)
    assert "do not match the evaluation" in message
    assert "do not deploy this model" in message


def test_labels_of_another_model_are_not_published(dataset, evaluated, model, tmp_path):
    (model / "assets" / "labels.txt").write_text("bright\ndark\n")
    message = refused(dataset, model, evaluated[1], tmp_path)
    assert "the model's labels (2: bright, dark) differ from the data set's (2: dark, bright)" in message


# Without an interpreter to start, only a copy of this process can check the model.
EXPORT_BY_FORK = """
import sys
from pathlib import Path
from imgpipe.components.export.arguments import ExportArguments
from imgpipe.components.export.export import export
sys.executable = "/bin/false"
export(*map(Path, sys.argv[1:5]), ExportArguments())
"""


@pytest.mark.skipif(not can_fork(), reason="this machine has an accelerator, or is not Linux")
def test_a_process_that_has_only_imported_tensorflow_checks_the_model_in_a_copy(
    dataset, evaluated, model, tmp_path
):
    (model / "assets" / "labels.txt").write_text("bright\ndark\n")
    folders = [dataset, model, evaluated[1], tmp_path / "exported"]
    command = [sys.executable, "-c", EXPORT_BY_FORK, *map(str, folders)]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "cannot be served in a new process: the model's labels (2: bright, dark)" in failed.stderr


def test_a_model_that_is_too_slow_is_not_published(dataset, evaluated, tmp_path):
    arguments = ExportArguments(job_dir=str(tmp_path / "job"), max_latency_ms=0.01)
    with pytest.raises(
        CheckFailedError, match=r"takes \d+\.\d ms at the 99th percentile.* max_latency_ms=0.01"
    ):
        export(dataset, *evaluated, tmp_path / "exported", arguments)
    assert not (tmp_path / "job").exists()


def test_the_latency_limit_applies_to_the_99th_percentile_and_0_is_no_limit():
    measured = ServingMeasurements(1, 0.0, 4.0, 9.0, 1.0, 10)
    for limit in (0.0, 9.0, 9.1):
        check_latency(measured, limit)
    with pytest.raises(CheckFailedError, match=r"9\.0 ms"):
        check_latency(measured, 8.9)
    with pytest.raises(CheckFailedError):
        check_latency(ServingMeasurements(1, 0.0, 4.0, float("nan"), 1.0, 10), 5.0)


def test_a_job_dir_with_other_files_is_rejected_before_any_work(dataset, evaluated, tmp_path):
    (tmp_path / "job" / "model").mkdir(parents=True)
    (tmp_path / "job" / "model" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError):
        export(
            dataset,
            evaluated[0],
            evaluated[1],
            tmp_path / "exported",
            ExportArguments(job_dir=str(tmp_path / "job")),
        )
    assert files(tmp_path) == {"job/model/mine.txt": b"mine"}


def test_a_missing_model_or_evaluation_is_reported(dataset, evaluated, tmp_path):
    with pytest.raises(MissingInputError, match="no SavedModel in"):
        export(dataset, tmp_path, evaluated[1], tmp_path / "exported", ExportArguments())
    with pytest.raises(MissingInputError, match="cannot read the evaluation"):
        export(dataset, evaluated[0], tmp_path, tmp_path / "exported", ExportArguments())
    assert not (tmp_path / "exported").exists()


def test_a_trained_model_is_exported(digits_dataset, trained_digits, tmp_path):
    folder, _ = trained_digits
    evaluate(digits_dataset, folder, tmp_path / "evaluation")
    export(digits_dataset, folder, tmp_path / "evaluation", tmp_path / "exported", ExportArguments())
    exported = files(tmp_path / "exported")
    added = {"verification.json", "drift.npz"}
    assert added <= exported.keys()
    assert {name: content for name, content in exported.items() if name not in added} == files(folder)
    # 300 images of the evaluation itself, more than a window, have no drift.
    records = islice(read_split(digits_dataset, read_manifest(digits_dataset).splits[VALIDATION]), 300)
    model = load_served_model(tmp_path / "exported")
    images = [record.encoded for record in records]
    keys = [str(number) for number in range(len(images))]
    sketch = load_sketch(tmp_path / "exported")
    _, p_value = sketch.test(sketch.features(model.call(images, keys, "embeddings")["embeddings"]))
    assert p_value > 0.05
    # Calibrating again gives the same bytes.
    export(digits_dataset, folder, tmp_path / "evaluation", tmp_path / "again", ExportArguments())
    assert (tmp_path / "again" / "drift.npz").read_bytes() == exported["drift.npz"]
    assert read_manifest(digits_dataset).splits[VALIDATION].examples == 360
