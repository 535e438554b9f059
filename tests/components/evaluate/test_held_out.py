import dataclasses
import json

import numpy as np
import pytest

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.evaluate.calibration import compute_calibration
from imgpipe.components.evaluate.evaluate import evaluate
from imgpipe.components.evaluate.held_out import accuracy_interval
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.components.validate.validate import validate_to_files


def test_the_interval_is_wilson_s():
    # 8 of 10: Wilson, as in the tables of Newcombe (1998), method 3.
    interval = accuracy_interval(0.8, 10)
    assert (interval.lower, interval.upper) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert accuracy_interval(1.0, 10).upper == pytest.approx(1.0)
    assert accuracy_interval(1.0, 10).lower == pytest.approx(0.7225, abs=1e-4)
    assert accuracy_interval(0.0, 10).lower == pytest.approx(0.0)
    assert accuracy_interval(0.0, 0) == dataclasses.replace(interval, lower=0.0, upper=1.0)


def test_the_interval_holds_the_accuracy_in_95_percent_of_samples():
    draw = np.random.default_rng(0)
    for accuracy in (0.6, 0.9, 0.97):
        held = 0
        for found in draw.binomial(200, accuracy, size=2000) / 200:
            interval = accuracy_interval(found, 200)
            held += interval.lower <= accuracy <= interval.upper
        assert 0.93 <= held / 2000 <= 0.97


@pytest.fixture(scope="module")
def dataset(coloured_dataset, write_dataset, tmp_path_factory):
    """12 training, 20 validation and 30 test images."""
    folder = tmp_path_factory.mktemp("source")
    splits = {}
    for name, count in ((VALIDATION, 20), (TEST, 30)):
        source = coloured_dataset(folder / name, validation=count)
        splits[name] = list(read_split(source, read_manifest(source).splits[VALIDATION]))
    splits[TRAIN] = list(read_split(source, read_manifest(source).splits[TRAIN]))
    order = {name: splits[name] for name in (TRAIN, VALIDATION, TEST)}
    return write_dataset(tmp_path_factory.mktemp("data"), order, ("dark", "bright"))


def test_a_test_split_is_measured_beside_the_validation_split(dataset, model, tmp_path):
    evaluation = evaluate(dataset, model, tmp_path)
    records = list(read_split(dataset, read_manifest(dataset).splits[TEST]))
    classes = np.array([record.label - 1 for record in records])
    probabilities = load_served_model(model).predict([record.encoded for record in records]).probabilities
    accuracy = float((probabilities.argmax(axis=1) == classes).mean())
    assert evaluation.split == VALIDATION
    assert evaluation.metrics.examples == 20
    assert evaluation.test.examples == 30
    assert evaluation.test.top_1_accuracy == pytest.approx(accuracy)
    assert evaluation.test.top_1_accuracy_interval == accuracy_interval(accuracy, 30)
    assert evaluation.test.expected_calibration_error == pytest.approx(
        compute_calibration(classes, probabilities).expected_calibration_error, abs=1e-5
    )
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["test"]["top_1_accuracy"] == accuracy
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The test images were not used before" in page
    interval = evaluation.test.top_1_accuracy_interval
    assert f"{100 * interval.lower:.1f}% to {100 * interval.upper:.1f}%" in page


def test_the_test_split_is_not_measured_twice_or_against_the_caller_s_wish(dataset, model, tmp_path):
    on_test = evaluate(dataset, model, tmp_path, EvaluateArguments(evaluation_split=TEST))
    assert (on_test.split, on_test.metrics.examples, on_test.test) == (TEST, 30, None)
    assert evaluate(dataset, model, tmp_path, test=False).test is None


def test_a_test_split_that_does_not_exist_fails_before_training(coloured_dataset, tmp_path):
    folder = coloured_dataset(tmp_path / "data")
    arguments = ValidateArguments(evaluation_split=TEST, train_batch_size=2)
    with pytest.raises(InvalidArgumentError, match="evaluation_split is test, but the data has no"):
        validate_to_files(
            read_manifest(folder), folder, tmp_path / "report.html", tmp_path / "summary.json", arguments
        )
