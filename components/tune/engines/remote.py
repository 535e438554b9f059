"""Shared by the engines that run trials on other machines: the trials' values and files."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.hyperparameters import Hyperparameters
from imgpipe.components.common.published_model import SAVED_MODEL_NAME
from imgpipe.components.storage import Location, current_folder
from imgpipe.components.train.job_dir import METRICS_FILE
from imgpipe.components.tune.job_dir import trial_folder, trial_model
from imgpipe.components.tune.trial_run import read_result
from imgpipe.components.tune.trials import SUCCEEDED, Trial


def with_trial_files(trial: Trial, job_dir: Location, name: str) -> Trial:
    """Adds the evaluations, final evaluation and model that the trial's process has written.

    Args:
        trial: As the service describes it; its evaluations are kept if the folder has none.
        job_dir: The tuning's job_dir.
        name: Name of the trial's folder.
    """
    folder, model = trial_folder(job_dir, name), trial_model(job_dir, name)
    evaluations = _read_evaluations(folder) or trial.evaluations
    has_model = trial.state == SUCCEEDED and _exists(model)
    result = read_result(folder) if has_model else None
    return replace(
        trial,
        evaluations=tuple(evaluations),
        final=result[0] if result else {},
        model=str(model) if has_model else "",
    )


def typed_values(request: Hyperparameters, given: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a service's parameter values to their types: services write integers as floats."""
    values: dict[str, Any] = {}
    for parameter in request.parameters:
        value = given[parameter.name]
        if parameter.type == "CATEGORICAL":
            values[parameter.name] = str(value)
        elif parameter.type == "INTEGER":
            values[parameter.name] = int(float(value))
        else:
            values[parameter.name] = float(value)
    return values


def _read_evaluations(folder: Location) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in (folder / METRICS_FILE).read().splitlines()]
    except (OSError, ValueError, MissingInputError):
        return []


def _exists(model: Location) -> bool:
    try:
        return (current_folder(model) / SAVED_MODEL_NAME).status() is not None
    except (OSError, MissingInputError):
        return False
