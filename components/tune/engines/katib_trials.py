"""Reads the trials of a Katib Experiment: their conditions, pods, logs and files."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kubernetes import client

from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.common.hyperparameters import METRIC, reversed_value
from imgpipe.components.common.log import log_event
from imgpipe.components.platforms.kubernetes import katib
from imgpipe.components.platforms.kubernetes.katib import Experiment, SearchState, condition, trial_state
from imgpipe.components.platforms.kubernetes.katib_requests import (
    CONTAINER,
    EXIT_CODE_LINE,
    reversed_parameters,
)
from imgpipe.components.platforms.kubernetes.pods import container_ended, has_ended
from imgpipe.components.storage import Location
from imgpipe.components.tune.engines.engine import TuningSpec
from imgpipe.components.tune.engines.remote import typed_values, with_trial_files
from imgpipe.components.tune.trial_process import failure_in
from imgpipe.components.tune.trials import FAILED, RUNNING, SUCCEEDED, Trial

_STATES = {
    katib.SUCCEEDED: SUCCEEDED,
    katib.FAILED: FAILED,
    katib.KILLED: FAILED,
    katib.METRICS_UNAVAILABLE: FAILED,
}
_EXIT_CODE = re.compile(re.escape(EXIT_CODE_LINE) + r"(\d+)$")


class TrialReader:
    """Converts what Katib reports of trials.

    Args:
        spec: The search.
        location: The tuning's job_dir.
        search: The Experiment, for the logs of failed trials.
    """

    def __init__(self, spec: TuningSpec, location: Location, search: Experiment) -> None:
        self._spec, self._location, self._search = spec, location, search
        self._order: list[str] = []
        self._failures: dict[str, tuple[str, tuple[str, ...], int]] = {}

    def trials_of(self, state: SearchState) -> list[Trial]:
        """Returns the trials in their current state, numbered in the order of their creation."""
        found = {trial["metadata"]["name"]: trial for trial in state.trials}
        by_age = sorted(found, key=lambda name: (found[name]["metadata"].get("creationTimestamp", ""), name))
        self._order.extend(name for name in by_age if name not in self._order)
        return [
            self._trial(number, found[name], state.pods.get(name, []))
            for number, name in enumerate(self._order, start=1)
            if name in found
        ]

    def _trial(self, number: int, found: Mapping[str, Any], pods: list[client.V1Pod]) -> Trial:
        name, status = found["metadata"]["name"], found.get("status") or {}
        request = self._spec.request
        assigned = {entry["name"]: entry["value"] for entry in found["spec"].get("parameterAssignments", ())}
        values = typed_values(request, assigned)
        for reverse, parameter in reversed_parameters(request).items():
            value = reversed_value(values[reverse], parameter.minimum, parameter.maximum)
            values[reverse] = type(values[reverse])(value)
        state = trial_state(found)
        stopped = state == katib.EARLY_STOPPED
        own_state = _STATES.get(state, RUNNING)
        if stopped and all(has_ended(pod, CONTAINER) for pod in pods):
            # Katib reports a trial as stopped while it publishes and evaluates its model.
            own_state = SUCCEEDED
        trial = with_trial_files(
            Trial(
                id=number,
                values=values,
                state=own_state,
                max_steps=int(values.get("max_steps", self._spec.training.max_steps)),
                started=status.get("startTime") or "",
                ended=status.get("completionTime") or (_end_of(pods) if own_state == SUCCEEDED else ""),
            ),
            self._location,
            name,
        )
        if stopped and own_state == SUCCEEDED:
            return replace(trial, stop_reason=_stop_reason(found, trial))
        if own_state == FAILED:
            problem, last_lines, exit_code = self._failure_of(found, pods)
            return replace(trial, problem=problem, last_lines=last_lines, exit_code=exit_code)
        return trial

    def _failure_of(
        self, found: Mapping[str, Any], pods: list[client.V1Pod]
    ) -> tuple[str, tuple[str, ...], int]:
        """Returns the problem, last lines and exit code of a failed trial, whose log is read once."""
        name = found["metadata"]["name"]
        if name not in self._failures:
            lines: list[str] = []
            if pods:
                try:
                    lines = self._search.pod_log(pods[-1])
                except UnavailableError as error:
                    log_event(
                        "log_unreadable", f"tune: no log of {name}: {error.problem}", severity="WARNING"
                    )
            problem, last_lines, exit_code = failure_in(lines)
            ended = container_ended(pods[-1], CONTAINER) if pods else None
            if not exit_code:
                matches = [match for match in map(_EXIT_CODE.search, lines) if match]
                exit_code = int(matches[-1][1]) if matches else ended.exit_code if ended else 0
            self._failures[name] = problem or _problem(found, pods, ended, exit_code), last_lines, exit_code
        return self._failures[name]


def _problem(
    found: Mapping[str, Any],
    pods: list[client.V1Pod],
    ended: client.V1ContainerStateTerminated | None,
    exit_code: int,
) -> str:
    """Returns why a trial failed whose output does not say it."""
    state = trial_state(found)
    if state == katib.METRICS_UNAVAILABLE:
        return "Katib found no metrics in its output"
    parts = [str((condition(found, state) or {}).get("message") or f"Katib reports {state}")]
    if pods and pods[-1].status.reason:
        parts.append(f"its pod was ended: {pods[-1].status.reason} {pods[-1].status.message or ''}".rstrip())
    elif (ended and ended.reason == "OOMKilled") or exit_code == 137:
        parts.append("it was killed, probably because it needs more memory than trial_memory")
    elif exit_code:
        parts.append(f"exit code {exit_code}")
    return "; ".join(parts)


def _end_of(pods: list[client.V1Pod]) -> str:
    """Returns when the last pod ended: Katib does not record that of a stopped trial."""
    ended = container_ended(pods[-1], CONTAINER) if pods else None
    return ended.finished_at.strftime("%Y-%m-%dT%H:%M:%SZ") if ended and ended.finished_at else ""


def _stop_reason(found: Mapping[str, Any], trial: Trial) -> str:
    text = "Katib's medianstop stopped it"
    if trial.steps:
        text += f" at step {trial.steps:,} of {trial.max_steps:,}"
    rules = found["spec"].get("earlyStoppingRules") or [{}]
    number, mean = int(rules[0].get("startStep") or 0), rules[0].get("value")
    if mean is None or not 0 < number <= len(trial.evaluations):
        # Its file of evaluations is missing.
        return text
    best = max(evaluation[METRIC] for evaluation in trial.evaluations[:number])
    return (
        f"{text}: its best {METRIC} up to evaluation {number}, {best:.4f}, is below {float(mean):.4f}, the "
        "mean of the earlier trials up to that evaluation"
    )
