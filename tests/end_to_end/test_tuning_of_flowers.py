"""The original algorithm's tuning config on real photos; the test takes minutes and runs in `make proof`."""

import json
import os
import subprocess

import pytest

from tests.command_line import IMGPIPE
from tests.end_to_end.runs import FLOWERS
from tests.servers.configs import TUNING_CONFIG

VARIABLES = "variables/variables.data-00000-of-00001"


@pytest.mark.proof
@pytest.mark.timeout(1500)
def test_the_original_config_tunes_a_frozen_mobilenet_on_the_flowers_and_ends_with_the_best_model(
    keras_home, tmp_path
):
    # `imgpipe tune` ignores the machines in the config.
    (tmp_path / "config.yaml").write_text(TUNING_CONFIG)
    result = subprocess.run(
        [
            *(IMGPIPE, "tune", "--config", "config.yaml", "--job-dir", "tuned", "--format", "json"),
            *("--images", str(FLOWERS), "--model-type", "mobilenet-v2", "--max-steps", "200"),
            *("--train-steps-per-eval", "20"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KERAS_HOME": keras_home},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    output = json.loads((tmp_path / "tuned" / "trials.json").read_text())
    found = [
        (
            trial["trialId"],
            trial["hyperparameters"]["initial_learning_rate"],
            trial["finalMetric"]["objectiveValue"],
            trial["allMetrics"][-1]["trainingStep"],
            trial.get("stopReason", ""),
        )
        for trial in output["trials"]
    ]
    print(*found, json.loads(result.stdout), sep="\n")
    assert output["completedTrialCount"] == "6"
    assert any(trial["isTrialStoppedEarly"] for trial in output["trials"])
    assert all(len(trial["allMetrics"]) >= 2 for trial in output["trials"])
    best = output["trials"][0]
    assert best["trialId"] == output["bestTrialId"]
    assert best["finalMetric"]["objectiveValue"] == max(accuracy for _, _, accuracy, _, _ in found) >= 0.86
    model = tmp_path / "tuned" / "model"
    best_model = model / f"trial_{best['trialId']}"
    assert (model / VARIABLES).read_bytes() == (best_model / VARIABLES).read_bytes()
