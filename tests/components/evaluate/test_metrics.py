import json
import math
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.evaluate import metrics as metrics_module
from imgpipe.components.evaluate.metrics import Metrics, compute_metrics, most_confused_pairs


def softmax_rows(values: NDArray[np.floating]) -> NDArray[np.float32]:
    exponents = np.exp(values)
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels and probabilities in which every class may be missing from either; without ties."""
    classes = draw(st.integers(2, 8))
    examples = draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = generator.integers(0, draw(st.integers(1, classes)), examples)
    return labels, softmax_rows(generator.normal(size=(examples, classes)) * 2)


def none_as_nan(values: list[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


@given(predictions())
@settings(max_examples=60, deadline=None)
def test_metrics_equal_scikit_learn(drawn):
    labels, probabilities = drawn
    classes = probabilities.shape[1]
    names = list(range(classes))
    ours = compute_metrics(labels, probabilities)
    predicted = probabilities.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
            labels, predicted, labels=names, zero_division=np.nan
        )
        # scikit-learn requires that float32 rows sum to 1 within float64 precision.
        exact = probabilities.astype(np.float64)
        exact /= exact.sum(axis=1, keepdims=True)
        loss = sklearn_metrics.log_loss(labels, exact, labels=names)
        top_5 = (
            sklearn_metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=names)
            if classes > 5
            else 1.0
        )
    assert ours.top_1_accuracy == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    assert ours.top_5_accuracy == pytest.approx(top_5)
    assert ours.loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert (
        ours.confusion_matrix() == sklearn_metrics.confusion_matrix(labels, predicted, labels=names)
    ).all()
    np.testing.assert_allclose(none_as_nan([metrics.precision for metrics in ours.per_class]), precision)
    np.testing.assert_allclose(none_as_nan([metrics.recall for metrics in ours.per_class]), recall)
    np.testing.assert_allclose(none_as_nan([metrics.f1 for metrics in ours.per_class]), f1)
    assert [metrics.support for metrics in ours.per_class] == support.tolist()
    assert [metrics.predicted for metrics in ours.per_class] == np.bincount(
        predicted, minlength=classes
    ).tolist()
    assert ours.macro_precision == pytest.approx(np.nanmean(precision))
    assert ours.macro_recall == pytest.approx(np.nanmean(recall))
    assert ours.macro_f1 == pytest.approx(np.nanmean(f1))


@given(predictions())
@settings(max_examples=30, deadline=None)
def test_json_of_the_metrics_has_only_finite_numbers(drawn):
    def check(value: object) -> None:
        if isinstance(value, dict):
            for item in value.values():
                check(item)
        elif isinstance(value, list):
            for item in value:
                check(item)
        else:
            assert type(value) in (int, float, type(None))
            assert value is None or math.isfinite(value)

    check(json.loads(json.dumps(compute_metrics(*drawn).to_json(), allow_nan=False)))


def compute(labels: list[int], probabilities: list[list[float]]) -> Metrics:
    return compute_metrics(np.array(labels), np.array(probabilities, np.float32))


def test_rows_of_the_confusion_matrix_are_true_classes():
    metrics = compute([0, 0, 2], [[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.5, 0.3]])
    assert metrics.confusion_matrix().tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert metrics.wrong == 2


def test_only_nonzero_cells_of_the_confusion_matrix_are_written():
    metrics = compute([0, 0, 2, 2], [[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.2, 0.5, 0.3]])
    assert metrics.to_json()["confusion"] == [[0, 0, 1], [0, 1, 1], [2, 1, 2]]


def test_five_thousand_classes_take_little_memory_and_a_small_file():
    classes = 5000
    draw = np.random.default_rng(0)
    labels = draw.integers(0, classes, 1000)
    probabilities = draw.random((1000, classes), np.float32)
    tracemalloc.start()
    metrics = compute_metrics(labels, probabilities)
    text = json.dumps(metrics.to_json())
    most_confused_pairs(metrics, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The full matrix would take 200 MB, a mask of all probabilities 5 MB.
    assert peak < 25e6
    assert len(text) < 1e6


def test_ranks_do_not_depend_on_the_chunk_size(monkeypatch):
    draw = np.random.default_rng(0)
    labels, probabilities = draw.integers(0, 20, 50), draw.integers(0, 4, (50, 20)) / 10
    whole = compute_metrics(labels, probabilities)
    monkeypatch.setattr(metrics_module, "_CHUNK_PROBABILITIES", 60)
    assert compute_metrics(labels, probabilities) == whole
    probabilities[33, 7] = math.nan
    with pytest.raises(InvalidDataError, match=r"1 of 50 images\nwhere: first for image 33"):
        compute_metrics(labels, probabilities)


def test_precision_of_a_class_never_predicted_and_recall_of_an_absent_one_are_none():
    metrics = compute([0, 1], [[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]])
    first, second, third = metrics.per_class
    assert (first.precision, first.recall) == (0.5, 1.0)
    assert (second.precision, second.recall, second.f1) == (None, 0.0, 0.0)
    assert (third.precision, third.recall, third.f1) == (None, None, None)
    assert (metrics.macro_precision, metrics.macro_recall) == (0.5, 0.5)


def test_tie_goes_to_the_lowest_class():
    metrics = compute([0, 1], [[0.5, 0.5], [0.5, 0.5]])
    assert metrics.confusion_matrix().tolist() == [[1, 0], [1, 0]]


def test_tie_in_the_top_five_goes_to_the_lowest_classes():
    labels = list(range(6))
    assert compute(labels, [[1 / 6] * 6] * 6).top_5_accuracy == pytest.approx(5 / 6)


def test_top_five_of_three_classes_is_one():
    assert compute([2], [[0.9, 0.1, 0.0]]).top_5_accuracy == 1.0


def test_probability_of_zero_for_the_true_class_gives_a_finite_loss():
    assert compute([1], [[1.0, 0.0]]).loss == pytest.approx(-math.log(1e-7))
    assert compute([0], [[1.0, 0.0]]).loss == 0.0


def test_labels_of_a_small_integer_type_do_not_overflow():
    labels = np.full(3, 99, np.uint8)
    probabilities = np.zeros((3, 100), np.float32)
    probabilities[:, 98] = 1
    assert compute_metrics(labels, probabilities).confusion.tolist() == [[99, 98, 3]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_output_that_is_not_finite_is_rejected(value):
    with pytest.raises(
        InvalidDataError, match=r"NaN or infinite for 1 of 2 images\nwhere: first for image 1"
    ):
        compute([0, 1], [[0.5, 0.5], [value, 0.5]])


def test_evaluation_without_images_is_rejected():
    with pytest.raises(InvalidDataError, match="no images to evaluate"):
        compute_metrics(np.zeros(0, np.int64), np.zeros((0, 3), np.float32))


def test_most_confused_pairs_are_off_diagonal_and_the_largest_first():
    labels = np.array([0] * 5 + [1] * 4 + [2] * 3)
    predicted = np.array([0, 0, 0, 1, 1, 1, 2, 2, 0, 0, 0, 0])
    metrics = compute_metrics(labels, np.eye(3, dtype=np.float32)[predicted])
    assert most_confused_pairs(metrics, 3) == [[2, 0, 3], [0, 1, 2], [1, 2, 2]]
    assert len(most_confused_pairs(metrics, 30)) == 4
