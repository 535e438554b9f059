import json
import re
from dataclasses import replace

import pytest

from imgpipe.components.tune.arguments import TuneArguments
from imgpipe.components.tune.report import parameter_importance, savings_by_stopping, tuning_report
from imgpipe.components.tune.search_space import read_request
from imgpipe.components.tune.trials import FAILED, RUNNING, SUCCEEDED, Trial, best_trial, write_trials

REQUEST = read_request(
    TuneArguments(
        tune="initial_learning_rate=log:0.001:0.2; train_batch_size=16,32; optimizer_type=adam,momentum",
        max_trials=8,
        max_parallel_trials=2,
    )
)


def evaluation(step, value):
    return {
        "step": step,
        "top_1_accuracy": value,
        "top_5_accuracy": 1.0,
        "loss": 1 - value,
        "train_loss": 0.4,
    }


def trial(number, value, steps=40, **changes):
    made = Trial(
        id=number,
        values={
            "initial_learning_rate": 0.002 * 2**number,
            "train_batch_size": 16.0 if number % 2 else 32.0,
            "optimizer_type": "adam" if number % 3 else "momentum",
        },
        state=SUCCEEDED,
        max_steps=40,
        evaluations=tuple(evaluation(step, value * step / 40) for step in range(10, steps + 1, 10)),
        final={**evaluation(steps, value), "examples": 360},
        model=f"/job/model/trial_{number}",
        started="2026-11-23T10:00:00.000Z",
        ended="2026-11-23T10:01:00.000Z",
    )
    return replace(made, **changes)


TRIALS = [
    trial(1, 0.8),
    trial(2, 0.4, steps=10, stop_reason="successive halving: number 2 of 2 <b>"),
    trial(3, 0.9),
    trial(
        4,
        0.0,
        steps=10,
        state=FAILED,
        final={},
        model="",
        problem="<script>",
        last_lines=("a < b",),
        exit_code=70,
    ),
    trial(5, 0.9, final={**evaluation(40, 0.9), "loss": 0.05, "examples": 360}),
    trial(6, 0.5),
]


def test_the_best_trial_has_the_highest_accuracy_then_the_lower_loss_then_the_lower_id():
    assert best_trial(TRIALS).id == 5
    assert best_trial(TRIALS[:3]).id == 3
    assert best_trial([TRIALS[0], replace(TRIALS[0], id=7)]).id == 1
    assert best_trial([TRIALS[3]]) is None


def test_a_stopped_trial_wins_only_by_its_full_evaluation():
    high_during_training = trial(7, 0.3, evaluations=(evaluation(10, 0.99),), stop_reason="stopped")
    without_evaluation = replace(high_during_training, id=8, final={})
    assert best_trial([TRIALS[0], high_during_training, without_evaluation]).id == 1


def test_trials_json_is_a_training_output_with_all_metrics(tmp_path):
    write_trials(tmp_path / "trials.json", TRIALS, extra={"more": 1})
    output = json.loads((tmp_path / "trials.json").read_text())
    assert output["completedTrialCount"] == "5"
    assert (output["isHyperparameterTuningJob"], output["bestTrialId"], output["more"]) == (True, "5", 1)
    assert [trial["trialId"] for trial in output["trials"]] == ["5", "3", "1", "6", "2", "4"]
    best, *_, stopped, failed = output["trials"]
    assert best["hyperparameters"]["train_batch_size"] == "16"
    assert best["finalMetric"] == {
        "trainingStep": "40",
        "objectiveValue": 0.9,
        "top5Accuracy": 1.0,
        "loss": 0.05,
        "trainLoss": 0.4,
    }
    assert [metric["trainingStep"] for metric in best["allMetrics"]] == ["10", "20", "30", "40"]
    assert best["builtInAlgorithmOutput"]["modelPath"] == "/job/model/trial_5"
    assert stopped["isTrialStoppedEarly"] is True
    assert stopped["stopReason"].startswith("successive halving")
    assert (failed["state"], failed["error"]["lastLines"]) == ("FAILED", ["a < b"])
    assert "finalMetric" not in failed


def test_the_report_is_self_contained_and_shows_every_trial():
    page = tuning_report(TRIALS, REQUEST, engine="local", remarks=["it ended early"])
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<script") == 1
    assert "number 2 of 2 &lt;b&gt;" in page
    assert "it ended early" in page
    for name in ("initial_learning_rate", "train_batch_size", "optimizer_type"):
        assert name in page
    for kind, count in (("best", 1), ("stopped", 1), ("failed", 1), ("complete", 3)):
        curves = re.findall(rf'<polyline class="curve {kind}" points="[^"]*"><title>trial', page)
        assert len(curves) == count, kind
    # A dot says the value once, and not its logarithm.
    dots = re.findall(r'<circle class="dot-0"[^>]*><title>([^<]*)</title>', page)
    assert dots
    for dot in dots:
        assert re.fullmatch(r"trial \d+: \w+=[\d.e-]+: 0\.\d{4}", dot), dot
    assert page.count("stopped here") == page.count("failed here") == 1


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial(1, 0.5, evaluations=(), final={}, state=RUNNING, ended="", model="")],
        [TRIALS[3]],
        [trial(1, 0.5)],
    ],
    ids=["none", "one running", "one failed", "one"],
)
def test_the_report_can_be_written_at_any_time(trials):
    assert "Hyperparameter tuning" in tuning_report(trials, REQUEST, engine="local")


def test_saved_time_is_computed_from_the_speed_of_the_stopped_trials():
    savings = savings_by_stopping(TRIALS)
    assert savings.steps == 30
    assert savings.share == pytest.approx(30 / (4 * 40 + 40 + 10))
    assert savings.seconds == pytest.approx(30 * 60 / 10)


def test_the_parameter_that_changes_the_accuracy_is_the_most_important():
    trials = [
        trial(
            number,
            0.2 + 0.7 * (number % 2),
            values={**trial(number, 0.5).values, "initial_learning_rate": 0.01},
        )
        for number in range(1, 13)
    ]
    importance = parameter_importance(trials, REQUEST)
    assert importance[0][0] == "train_batch_size"
    assert importance[0][1] > 0.8
    assert parameter_importance(trials[:3], REQUEST) == []
