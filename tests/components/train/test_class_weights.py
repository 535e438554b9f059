from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.train.class_weights import class_weights


def test_weights_are_inverse_to_the_number_of_images_or_its_root():
    np.testing.assert_allclose(class_weights("none", [4, 1]), [1, 1])
    np.testing.assert_allclose(class_weights("balanced", [4, 1]), [0.625, 2.5])
    np.testing.assert_allclose(class_weights("sqrt", [4, 1]), [5 / 6, 10 / 6], rtol=1e-6)


@given(
    st.sampled_from(["none", "balanced", "sqrt"]),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=50).filter(any),
)
def test_the_mean_over_all_images_is_1_and_rarer_never_counts_less(kind, counts):
    weights = class_weights(kind, counts).astype(np.float64)
    assert (weights * counts).sum() / sum(counts) == pytest.approx(1, rel=1e-5)
    present = sorted((count, weight) for count, weight in zip(counts, weights, strict=True) if count)
    assert all(rare[1] >= often[1] * (1 - 1e-6) for rare, often in pairwise(present))


def test_a_class_without_images_has_the_weight_0_unless_all_count_alike():
    assert class_weights("balanced", [3, 0])[1] == 0
