"""Finds out that a Katib search cannot continue: nothing in Katib ends a search whose pods cannot start."""

import functools
import time
from collections.abc import Callable, Sequence

from imgpipe.components.common.errors import PipelineError, UnavailableError
from imgpipe.components.common.log import log_event
from imgpipe.components.common.plural import plural
from imgpipe.components.platforms.kubernetes.katib import RUNNING as RUNNING_TRIAL
from imgpipe.components.platforms.kubernetes.katib import Experiment, SearchState, condition, trial_state
from imgpipe.components.platforms.kubernetes.pods import last_warning, waiting_reason, waits_for_configuration
from imgpipe.components.tune.trials import RUNNING, Trial

# For a pod that waits because of a mistake, e.g. in the name of its image; a registry may restart.
BROKEN_LIMIT_SECONDS = 600.0
# Most pods start within this time: before, only a reason that Kubernetes gives is logged.
_QUIET_SECONDS = 60.0


class KatibWatch:
    """Measures for how long a search has waited for pods, or for anything to change.

    Args:
        search: The Experiment.
        silence_limit: Seconds for which a pod may wait for a node, and a search for a change; 0 = any time.
    """

    def __init__(self, search: Experiment, silence_limit: float) -> None:
        self._search, self._silence_limit = search, silence_limit or float("inf")
        self._broken_limit = min(BROKEN_LIMIT_SECONDS, self._silence_limit)
        self._waiting: dict[str, tuple[float, str]] = {}
        self._signature: object = None
        self._changed = time.monotonic()
        self._last_lines: list[str] = []

    def check(self, state: SearchState, trials: Sequence[Trial]) -> None:
        """Logs what the search waits for.

        Raises:
            UnavailableError: if it has waited too long.
        """
        self._check_waiting(state)
        self._check_changes(state, trials)

    def _check_waiting(self, state: SearchState) -> None:
        now, waiting = time.monotonic(), self._find_waiting(state)
        self._waiting = {name: entry for name, entry in self._waiting.items() if name in waiting}
        for name, (reason, explain) in waiting.items():
            since, known = self._waiting.get(name, (now, ""))
            limit = self._broken_limit if waits_for_configuration(reason) else self._silence_limit
            if not reason and now - since > min(_QUIET_SECONDS, limit):
                reason = known or explain()
            if reason and reason != known:
                log_event("waiting", f"tune: {name} waits: {reason}", severity="WARNING")
            self._waiting[name] = since, reason
            if now - since > limit:
                raise UnavailableError(
                    f"{name} has not started after {now - since:,.0f} s: {reason}",
                    where=f"experiment {self._search.name}, which is deleted now",
                    remedy="check the image, the quota of the namespace, the trial_... inputs and Katib's "
                    "controller; trial_silence_limit sets how long a trial may wait for a node",
                )

    def _find_waiting(self, state: SearchState) -> dict[str, tuple[str, Callable[[], str]]]:
        """Returns what has not started, by its name: the reason, or "" and a function that finds it."""
        if not state.trials:
            if state.suggestion is None:
                return {"the experiment": ("", lambda: "Katib's controller does not handle it")}
            reason = next(filter(None, map(waiting_reason, state.suggestion_pods)), "")
            not_ready = condition(state.suggestion, "DeploymentReady", "False") or {}
            message = str(not_ready.get("message") or "it suggests no values")
            if not_ready and not state.suggestion_pods:
                # E.g. in `restricted`: composer.go of Katib 0.19 gives medianstop no securityContext.
                message += (
                    "; it has no pod: a quota or the Pod Security Standard may forbid it (docs/tune.md)"
                )
            return {"Katib's suggestion service": (reason, lambda: message)}
        waiting: dict[str, tuple[str, Callable[[], str]]] = {}
        for trial in state.trials:
            name = trial["metadata"]["name"]
            pods = state.pods.get(name, [])
            if trial_state(trial) not in ("", RUNNING_TRIAL):
                continue
            if not pods:
                waiting[f"trial {name}"] = "", functools.partial(self._explain_missing_pod, name)
            elif pods[-1].status.phase in (None, "Pending"):
                waiting[f"trial {name}"] = waiting_reason(pods[-1]), lambda: "its pod is being created"
        return waiting

    def _explain_missing_pod(self, trial: str) -> str:
        namespace = self._search.cluster.namespace
        return last_warning(self._search.cluster, trial) or (
            "its Job has no pod; a quota or the namespace's Pod Security Standard may forbid it: see "
            f"`kubectl describe job {trial} --namespace={namespace}`"
        )

    def _check_changes(self, state: SearchState, trials: Sequence[Trial]) -> None:
        now = time.monotonic()
        signature = [(trial.id, trial.state, trial.steps, bool(trial.stop_reason)) for trial in trials]
        if signature != self._signature:
            self._signature, self._changed = signature, now
            return
        if now - self._changed <= self._silence_limit:
            return
        # Between two evaluations, only the logs show that trials work.
        lines = self._read_last_lines(state)
        if lines != self._last_lines:
            self._last_lines, self._changed = lines, now
            return
        running = sum(trial.state == RUNNING for trial in trials)
        raise UnavailableError(
            f"nothing has changed for {now - self._changed:,.0f} s: "
            f"{plural(len(trials), 'trial')}, {running} of them running without output",
            where=f"experiment {self._search.name}, which is deleted now",
            remedy="check Katib's controller and the nodes of the trials; trial_silence_limit sets how long "
            "a trial may be silent",
        )

    def _read_last_lines(self, state: SearchState) -> list[str]:
        lines = []
        for pods in state.pods.values():
            if pods and pods[-1].status.phase == "Running":
                try:
                    lines += self._search.pod_log(pods[-1], max_lines=1)
                except PipelineError:
                    continue
        return lines
