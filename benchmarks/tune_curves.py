"""Synthetic and recorded training runs for the tuning benchmark."""

import functools
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgpipe.components.storage import parse_location
from imgpipe.components.tune.trial_run import ShouldStop, TrialTask, write_result

STEPS, EVERY = 200, 10
# A file in the trials folder with the seed of the curves, or the recordings, and the time per evaluation.
PLAN = "curves.json"
# Number of validation images: accuracy is a multiple of 1/360.
_IMAGES = 360


def learn(task: TrialTask, should_stop: ShouldStop) -> dict[str, Any]:
    """Reports the points of a curve one by one, as a training run would."""
    folder = Path(task.folder)
    plan = json.loads((folder.parent / PLAN).read_text(encoding="utf-8"))
    rate = task.arguments["initial_learning_rate"]
    if plan["recorded"]:
        values = min(plan["recorded"], key=lambda recording: abs(math.log(recording["rate"] / rate)))[
            "values"
        ]
    else:
        values = family(plan["seed"], rate)
    best = {"step": 0, "top_1_accuracy": 0.0}
    evaluations: list[dict[str, Any]] = []
    # Trials run at different speeds.
    pause = plan["pause"] * (0.9 + 0.2 * np.random.default_rng([plan["seed"], task.trial]).random())
    for step, value in values:
        time.sleep(pause)
        evaluations.append(
            {
                "step": step,
                "top_1_accuracy": value,
                "top_5_accuracy": 1.0,
                "loss": 1 - value,
                "train_loss": 0.0,
            }
        )
        best = max(best, evaluations[-1], key=lambda evaluation: evaluation["top_1_accuracy"])
        if should_stop(evaluations):
            break
    model = Path(task.model)
    model.mkdir(parents=True, exist_ok=True)
    (model / "saved_model.pb").touch()
    final = {**best, "examples": _IMAGES}
    write_result(parse_location(folder), final)
    return final


@functools.cache
def family(seed: int, rate: float) -> Sequence[tuple[int, float]]:
    """Returns the (step, accuracy) curve of a learning rate in the family of a seed.

    Like real training runs: the best rate, near 0.03, depends on the seed, which stands for a dataset. Lower
    rates end lower and start more slowly, so that curves cross; higher rates end lower and are noisier;
    rates far from the best do not learn.
    """
    draw = np.random.default_rng(seed)
    distance = math.log(rate / draw.uniform(0.015, 0.06))
    noise = np.random.default_rng([seed, int(1e9 * rate) % 2**31])
    final = max(0.985 - (0.05 if distance < 0 else 0.06) * distance**2, 0.15)
    speed = 9.0 * math.exp(0.55 * distance)
    steps = np.arange(EVERY, STEPS + 1, EVERY)
    share = steps / STEPS
    accuracy = 0.1 + (final - 0.1) * (1 - np.exp(-speed * share)) / (1 - math.exp(-speed))
    roughness = (0.01 + 0.02 * max(distance, 0.0)) * (1 - share)
    accuracy = (
        accuracy - roughness * np.abs(noise.normal(size=len(share))) + noise.normal(0, 0.003, len(share))
    )
    rounded = np.clip(np.round(accuracy * _IMAGES) / _IMAGES, 0.0, 1.0)
    return [(int(step), float(value)) for step, value in zip(steps, rounded, strict=True)]
