"""A search on one machine takes no longer than its budget."""

import math
import time

import pytest

from imgpipe.components.tune.time_budget import TimeBudget
from imgpipe.components.tune.trials import SUCCEEDED

from .synthetic import search
from .test_local_engine import plan


def test_without_a_budget_all_trials_start():
    budget = TimeBudget(0, trials=10, parallel=2)
    budget.trial_took(1e9)
    assert budget.allows_another(has_running=True)


@pytest.mark.parametrize(
    ("trials", "parallel", "part"), [(10, 1, 4), (10, 2, 2), (10, 4, 1), (10, 8, 1), (2, 1, 2), (3, 2, 2)]
)
def test_first_trials_share_the_budget(trials, parallel, part):
    budget = TimeBudget(1000, trials=trials, parallel=parallel)
    assert budget.seconds_for_trial(is_share=True) == pytest.approx(1000 / part, abs=1)
    assert budget.seconds_for_trial(is_share=False) == pytest.approx(1000, abs=1)


def test_trial_that_would_not_end_in_time_does_not_start():
    budget = TimeBudget(100, trials=10, parallel=1)
    assert budget.allows_another(has_running=False)
    budget.trial_took(60)
    assert budget.allows_another(has_running=False)
    budget.trial_took(150)
    assert not budget.allows_another(has_running=False)


def test_search_ends_with_the_trials_that_fit(tmp_path, capsys):
    plan(tmp_path, pause=0.2)
    started = time.monotonic()
    trials = search(tmp_path, max_trials=50, max_minutes=2 / 60).run(lambda _: None)
    assert 1 <= len(trials) < 50
    assert {trial.state for trial in trials} == {SUCCEEDED}
    assert time.monotonic() - started < 10
    assert "there is no time for another within max_minutes" in capsys.readouterr().out
    assert math.isfinite(trials[0].objective)
