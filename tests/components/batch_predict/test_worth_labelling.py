"""Which images to label next."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from imgpipe.components.batch_predict.worth_labelling import MAX_ROWS, keep_least_sure, margin_of


@pytest.mark.parametrize(
    ("probabilities", "multi_label", "margin"),
    [
        ([0.2, 0.5, 0.3], False, 0.2),
        ([0.5, 0.5], False, 0.0),
        ([1.0], False, 1.0),
        # The second label is the least clear, whatever the others are.
        ([0.99, 0.4, 0.05], True, 0.2),
    ],
)
def test_the_margin_is_that_of_the_least_clear_decision(probabilities, multi_label, margin):
    found = margin_of(np.array(probabilities, np.float32), multi_label=multi_label)
    assert found == pytest.approx(margin, abs=1e-6)


def test_labels_of_the_first_images_improve_a_model_more_than_those_of_random_ones():
    digits = load_digits()
    pixels, classes = digits.data / 16, digits.target
    tested = np.arange(len(classes)) % 3 == 0

    def learn(numbers):
        return LogisticRegression(C=1, max_iter=300).fit(pixels[numbers], classes[numbers])

    better = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(np.flatnonzero(~tested))
        labelled, pool = order[:200], order[200:]
        margins = [margin_of(row, multi_label=False) for row in learn(labelled).predict_proba(pixels[pool])]
        ranked = [labelled, pool[np.argsort(margins, kind="stable")[:100]]]
        accuracies = [
            learn(np.concatenate(numbers)).score(pixels[tested], classes[tested])
            for numbers in (ranked, [labelled, pool[:100]])
        ]
        better.append(accuracies[0] - accuracies[1])
    assert np.mean(better) > 0.005


def test_the_table_is_limited_and_sorted_and_of_equal_margins_has_the_first():
    lines = [{"key": str(number), "margin": number % 7 / 10} for number in range(3 * MAX_ROWS)]
    kept = []
    for start in range(0, len(lines), 100):
        kept = keep_least_sure(kept, [{"key": "x", "error": "damaged"}, *lines[start : start + 100]])
    assert kept == sorted(lines, key=lambda line: line["margin"])[:MAX_ROWS]
