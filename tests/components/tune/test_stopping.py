import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.tune import stopping
from imgpipe.components.tune.stopping import Curve, reason_to_stop

STEPS = 100


def curve(trial, *values, every=10):
    return Curve(trial, STEPS, tuple((every * index, value) for index, value in enumerate(values, 1)))


def test_the_worse_of_two_trials_is_stopped_at_the_first_rung_with_its_rank_in_the_reason():
    better = curve(1, 0.5, 0.6, 0.7)
    reason = reason_to_stop(curve(2, 0.2, 0.3, 0.3), [better])
    assert "at 20% of its steps, its best value 0.3000" in reason
    assert "rank it 2 of 2 trials; the best 1 continue" in reason
    assert reason_to_stop(better, [curve(2, 0.2, 0.3, 0.3)]) == ""


def test_nothing_is_stopped_before_the_first_rung_or_at_the_end():
    others = [curve(number, *[0.9] * 10) for number in range(2, 12)]
    assert reason_to_stop(curve(1, 0.1), others) == ""
    assert reason_to_stop(curve(1, *[0.1] * 10), others) == ""


def test_later_trials_can_stop_an_earlier_one():
    first = curve(1, 0.3, 0.3, 0.3, 0.3)
    assert reason_to_stop(first, []) == ""
    assert "rank it 2 of 2" in reason_to_stop(first, [curve(2, 0.5, 0.6, 0.6)])


def test_a_slow_trial_that_still_improves_outranks_one_that_does_not():
    flat, rising = curve(1, 0.5, 0.5), curve(2, 0.1, 0.48)
    assert reason_to_stop(rising, [flat]) == ""
    assert reason_to_stop(flat, [rising]) != ""


def test_equal_trials_all_continue():
    equal = [curve(number, 0.4, 0.5, 0.6) for number in range(1, 7)]
    for trial in equal:
        assert reason_to_stop(trial, [other for other in equal if other is not trial]) == ""


def test_the_median_rule_needs_five_other_trials_at_the_same_point(monkeypatch):
    monkeypatch.setattr(stopping, "RUNGS", ())
    others = [curve(number, 0.5, 0.6, 0.1 * number, 0.1 * number) for number in range(3, 8)]
    own = curve(9, 0.2, 0.3, 0.3, 0.3)
    assert reason_to_stop(own, others[:4]) == ""
    reason = reason_to_stop(own, others)
    assert reason.startswith(
        "median rule: its best value up to step 40 is 0.3000, below 0.6000, the median of 5"
    )


def test_trials_of_different_lengths_are_compared_at_the_same_fraction():
    short = Curve(1, 20, ((5, 0.6), (10, 0.7)))
    long = Curve(2, 200, ((50, 0.3), (100, 0.4)))
    assert "at 20% of its steps, its best value 0.3000" in reason_to_stop(long, [short])


@given(
    finals=st.lists(st.floats(0.2, 0.99), min_size=6, max_size=6, unique=True),
    speeds=st.lists(st.floats(2, 8), min_size=6, max_size=6),
)
def test_of_six_trials_in_two_batches_some_are_stopped_and_some_complete(finals, speeds):
    curves = [
        [(step, final * (1 - math.exp(-speed * step / STEPS))) for step in range(10, STEPS + 1, 10)]
        for final, speed in zip(finals, speeds, strict=True)
    ]
    seen: dict[int, list] = {}
    stopped = set()
    for batch in ((0, 1, 2), (3, 4, 5)):
        running = set(batch)
        for index in range(10):
            for trial in sorted(running):
                seen.setdefault(trial, []).append(curves[trial][index])
                others = [
                    Curve(other, STEPS, tuple(points)) for other, points in seen.items() if other != trial
                ]
                if reason_to_stop(Curve(trial, STEPS, tuple(seen[trial])), others):
                    running.discard(trial)
                    stopped.add(trial)
    assert 1 <= len(stopped) < 6


@pytest.mark.parametrize("rungs", [((0.5, 0.5),), ((0.25, 0.75), (0.5, 0.5), (0.75, 0.5))])
def test_only_the_kept_part_of_many_trials_passes_a_rung(rungs, monkeypatch):
    monkeypatch.setattr(stopping, "RUNGS", rungs)
    monkeypatch.setattr(stopping, "MIN_TRIALS_FOR_MEDIAN", 99)
    trials = [curve(number, *[number / 100] * 8) for number in range(20)]
    kept = [
        trial
        for trial in trials
        if not reason_to_stop(trial, [other for other in trials if other is not trial])
    ]
    assert [trial.trial for trial in kept] == list(range(10, 20))
