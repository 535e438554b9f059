from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.train.class_weights import class_weights, positive_weights


def test_weights_are_inversely_proportional_to_the_number_of_images_or_its_square_root():
    np.testing.assert_allclose(class_weights("none", [4, 1]), [1, 1])
    np.testing.assert_allclose(class_weights("balanced", [4, 1]), [0.625, 2.5])
    np.testing.assert_allclose(class_weights("sqrt", [4, 1]), [5 / 6, 10 / 6], rtol=1e-6)


@given(
    st.sampled_from(["none", "balanced", "sqrt"]),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=50).filter(any),
)
def test_the_mean_over_all_images_is_1_and_rarer_classes_never_have_less_weight(kind, counts):
    weights = class_weights(kind, counts).astype(np.float64)
    assert (weights * counts).sum() / sum(counts) == pytest.approx(1, rel=1e-5)
    present = sorted((count, weight) for count, weight in zip(counts, weights, strict=True) if count)
    assert all(rare >= frequent * (1 - 1e-6) for (_, rare), (_, frequent) in pairwise(present))


def test_a_class_without_images_has_weight_0():
    assert class_weights("balanced", [3, 0])[1] == 0


def test_positive_weights_are_the_odds_against_a_label_or_their_square_root():
    np.testing.assert_allclose(positive_weights("balanced", [25, 50, 0, 100], 100), [3, 1, 1, 1])
    np.testing.assert_allclose(positive_weights("sqrt", [20, 80], 100), [2, 0.5])
    np.testing.assert_allclose(positive_weights("none", [20, 80], 100), [1, 1])
