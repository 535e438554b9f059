import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.evaluate.calibration import compute_calibration


def two_classes(confidences):
    chosen = np.array(confidences)
    return np.stack([chosen, 1 - chosen], axis=1)


def test_calibrated_predictions_have_no_error():
    # 8 of 10 predictions with 0.8 are correct.
    calibration = compute_calibration(np.array([0] * 8 + [1] * 2), two_classes([0.8] * 10))
    assert calibration.expected_calibration_error == pytest.approx(0)


def test_the_error_is_the_weighted_difference_of_confidence_and_accuracy():
    # Four at 0.9, half of them correct: 0.4; six at 0.6, all correct: 0.4.
    labels = np.array([0, 0, 1, 1] + [0] * 6)
    calibration = compute_calibration(labels, two_classes([0.9] * 4 + [0.6] * 6))
    assert calibration.expected_calibration_error == pytest.approx(0.4)
    filled = [part for part in calibration.bins if part.examples]
    assert [(part.lower, part.upper, part.examples, part.accuracy) for part in filled] == [
        (8 / 15, 9 / 15, 6, 1.0),
        (13 / 15, 14 / 15, 4, 0.5),
    ]


@given(st.lists(st.tuples(st.floats(0.5, 1), st.booleans()), min_size=1, max_size=50))
def test_every_prediction_is_in_one_bin_and_the_error_in_bounds(answers):
    labels = np.array([int(wrong) for _, wrong in answers])
    calibration = compute_calibration(labels, two_classes([confidence for confidence, _ in answers]))
    assert sum(part.examples for part in calibration.bins) == len(answers)
    assert 0 <= calibration.expected_calibration_error <= 1
    for part in calibration.bins:
        if part.examples:
            assert part.lower - 1e-9 <= part.confidence <= part.upper + 1e-9
        else:
            assert part.confidence is part.accuracy is None
