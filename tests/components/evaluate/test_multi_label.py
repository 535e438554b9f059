"""Evaluation where images have several labels, or none."""

import functools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from imgpipe.components.common.dataset import VALIDATION, read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.evaluate.arguments import EvaluateArguments
from imgpipe.components.evaluate.evaluate import evaluate
from imgpipe.components.evaluate.multi_label_metrics import average_precision, compute_multi_label_metrics
from imgpipe.components.gate.arguments import GateArguments
from imgpipe.components.gate.gate import decide

NAMES = ("blue", "green", "red", "yellow")


@pytest.fixture(scope="module")
def model(linear_model, tmp_path_factory):
    @functools.cache
    def write(seed, *, multi_label=True):
        return linear_model(tmp_path_factory.mktemp("model") / "model", NAMES, seed, multi_label=multi_label)

    return write


def test_metrics_of_served_predictions_equal_scikit_learn(quadrants_dataset, model, tmp_path):
    folder = model(0)
    found = evaluate(quadrants_dataset, folder, tmp_path).metrics
    split = read_manifest(quadrants_dataset).splits[VALIDATION]
    records = list(read_split(quadrants_dataset, split, multi_label=True))
    probabilities = load_served_model(folder).predict([record.encoded for record in records]).probabilities
    targets = np.array([[label in record.labels for label in (1, 2, 3, 4)] for record in records])
    predicted = probabilities >= 0.5
    options = {"average": None, "zero_division": np.nan}
    for name, expected in (
        ("precision", precision_score(targets, predicted, **options)),
        ("recall", recall_score(targets, predicted, **options)),
        ("f1", f1_score(targets, predicted, average=None)),
        ("average_precision", average_precision_score(targets, probabilities, average=None)),
    ):
        ours = [getattr(metrics, name) for metrics in found.per_class]
        np.testing.assert_allclose(
            [np.nan if value is None else value for value in ours], expected, rtol=1e-6, err_msg=name
        )
    assert found.mean_average_precision == pytest.approx(
        average_precision_score(targets, probabilities), rel=1e-6
    )
    assert found.f1 == pytest.approx(f1_score(targets, predicted, average="micro"), rel=1e-6)
    assert found.exact_match == pytest.approx((targets == predicted).all(axis=1).mean())
    assert found.examples == 80
    assert found.without_label == (~targets.any(axis=1)).sum()
    labeled = targets.any(axis=1)
    right = targets[np.arange(80), probabilities.argmax(axis=1)]
    assert found.top_1_accuracy == pytest.approx(right[labeled].mean())


def test_the_report_and_metrics_json_have_only_multi_label_metrics(quadrants_dataset, model, tmp_path):
    evaluation = evaluate(quadrants_dataset, model(0), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Average precision" in page
    assert "There is no confusion matrix" in page
    assert "every label of every image counts" in page
    assert "not blue" in page or "not red" in page or "not green" in page or "not yellow" in page
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == json.loads(json.dumps(evaluation.to_json()))
    assert written["multi_label"] is True
    assert sum(part["examples"] for part in written["calibration"]["bins"]) == 80 * len(NAMES)
    assert "confusion" not in written


def test_the_gate_uses_top_1_accuracy_and_the_recall_of_each_label(quadrants_dataset, model, tmp_path):
    evaluation = evaluate(quadrants_dataset, model(0), tmp_path)
    accuracy = evaluation.metrics.top_1_accuracy
    lowest = min(metrics.recall for metrics in evaluation.metrics.per_class)
    fits = GateArguments(min_accuracy=accuracy, min_class_recall=lowest)
    assert decide(tmp_path, fits).passed
    assert not decide(tmp_path, GateArguments(min_accuracy=accuracy + 0.01)).passed
    if lowest < 0.99:
        strict = GateArguments(min_accuracy=accuracy, min_class_recall=lowest + 0.01)
        assert not decide(tmp_path, strict).passed


def test_champion_and_challenger_are_compared_on_the_images_with_a_label(quadrants_dataset, model, tmp_path):
    arguments = EvaluateArguments(champion=str(model(1)))
    found = evaluate(quadrants_dataset, model(0), tmp_path, arguments)
    champion = evaluate(quadrants_dataset, model(1), tmp_path / "champion")
    comparison = found.comparison
    assert comparison.champion_top_1_accuracy == pytest.approx(champion.metrics.top_1_accuracy)
    assert comparison.challenger_top_1_accuracy == pytest.approx(found.metrics.top_1_accuracy)
    assert comparison.examples == 80 - found.metrics.without_label


def test_a_model_of_the_other_kind_is_rejected(quadrants_dataset, coloured_dataset, model, tmp_path):
    with pytest.raises(InvalidDataError, match=r"list of labels[\s\S]*multi_label=false"):
        evaluate(quadrants_dataset, model(0, multi_label=False), tmp_path)
    single = coloured_dataset(tmp_path / "single", labels=NAMES)
    with pytest.raises(InvalidDataError, match=r"one label[\s\S]*multi_label=true"):
        evaluate(single, model(0), tmp_path)


@given(st.data())
def test_average_precision_equals_scikit_learn_including_ties(data):
    there = data.draw(arrays.arrays(np.bool_, st.integers(1, 30)))
    probabilities = data.draw(
        arrays.arrays(np.float32, len(there), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    )
    found = average_precision(there, probabilities)
    if there.any():
        assert found == pytest.approx(average_precision_score(there, probabilities))
    else:
        assert found is None


def test_images_without_labels_and_nan_are_rejected():
    with pytest.raises(InvalidDataError, match="no image of the evaluation has a label"):
        compute_multi_label_metrics(np.zeros((2, 2), bool), np.full((2, 2), 0.5))
    with pytest.raises(InvalidDataError, match="NaN"):
        compute_multi_label_metrics(np.ones((2, 2), bool), np.full((2, 2), np.nan))
