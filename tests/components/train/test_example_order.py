from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgpipe.components.train import example_order
from imgpipe.components.train.example_order import ExampleOrder, random_draws

SHARDS = st.lists(st.integers(0, 40), min_size=1, max_size=50).filter(any)


@settings(max_examples=60, deadline=None)
@given(shards=SHARDS, seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 10**9), block=st.integers(1, 9))
def test_every_epoch_contains_every_example_once(shards, seed, epoch, block):
    count = sum(shards)
    seen = ExampleOrder(shards, seed, block=block).examples(epoch * count, count)
    assert Counter(seen.tolist()) == Counter(range(count))


@settings(max_examples=60, deadline=None)
@given(shards=SHARDS, seed=st.integers(0, 9), first=st.integers(0, 500), counts=st.lists(st.integers(0, 90)))
def test_the_order_does_not_depend_on_how_it_is_read(shards, seed, first, counts):
    whole = ExampleOrder(shards, seed).examples(0, first + sum(counts))
    # A new object: nothing may depend on earlier calls.
    order = ExampleOrder(shards, seed)
    for count in counts:
        assert order.examples(first, count).tolist() == whole[first : first + count].tolist()
        first += count


def test_a_few_thousand_examples_are_shuffled_completely():
    """Neighbours on disk are neighbours in the order only by chance."""
    order = ExampleOrder([1000, 1000], 0).examples(0, 2000)
    assert (np.abs(np.diff(order)) < 8).sum() < 40
    # Each quarter has examples from everywhere: its mean is the mean of the whole.
    assert np.abs(order.reshape(4, 500).mean(axis=1) - 999.5).max() < 4 * 577 / 500**0.5


@pytest.mark.parametrize("shards", [[40_000], [1000] * 40])
def test_sorted_data_much_larger_than_a_window_is_mixed(shards):
    """With ten labels one after the other, every batch has most of them in about equal numbers."""
    labels = ExampleOrder(shards, 3).examples(0, 40_000) // 4000
    for start in range(0, 40_000, 64):
        assert len(set(labels[start : start + 64].tolist())) >= 7
    counts = np.array([np.bincount(labels[start : start + 4096], minlength=10) for start in (0, 4096, 8192)])
    assert counts.min() > 100


def test_neighbours_on_disk_are_read_within_a_window():
    order = ExampleOrder([40_000], 0).examples(0, 40_000)
    positions = np.empty(40_000, np.int64)
    positions[order] = np.arange(40_000)
    windows = positions.reshape(-1, 8) // example_order._WINDOW
    assert (windows.max(axis=1) == windows.min(axis=1)).mean() > 0.99


def test_the_first_examples_come_from_a_few_of_many_shards():
    first = ExampleOrder([1000] * 100, 0).examples(0, 30_000) // 1000
    assert 32 <= len(set(first.tolist())) <= 34


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9), first=st.integers(0, 10**12), skip=st.integers(0, 600), count=st.integers(1, 600)
)
def test_the_draws_of_a_position_do_not_depend_on_how_they_are_read(seed, first, skip, count):
    whole = random_draws(seed, first, skip + count, 5)
    assert (random_draws(seed, first + skip, count, 5) == whole[skip:]).all()


def test_draws_are_uniform_and_differ_between_positions_and_seeds():
    draws = random_draws(1, 0, 20_000, 3)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(draws.std(axis=0) - 12**-0.5).max() < 0.01
    assert np.abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03
    assert len(np.unique(draws[:, 0])) > 19_900
    assert (random_draws(2, 0, 20_000, 3) != draws).mean() > 0.99
