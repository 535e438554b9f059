"""Experiments of Katib and their trials (kubeflow.org/v1beta1)."""

from collections.abc import Mapping
from typing import Any

from imgpipe.components.platforms.kubernetes.client import Cluster, CustomObjects, check_managed
from imgpipe.components.platforms.kubernetes.pods import list_pods, read_log

GROUP, VERSION = "kubeflow.org", "v1beta1"
SUCCEEDED, FAILED, EARLY_STOPPED = "Succeeded", "Failed", "EarlyStopped"
METRICS_UNAVAILABLE, KILLED, RUNNING = "MetricsUnavailable", "Killed", "Running"
# A trial may have several conditions: what follows an early stop does not matter.
_TRIAL_STATES = (EARLY_STOPPED, SUCCEEDED, METRICS_UNAVAILABLE, KILLED, FAILED, RUNNING)
_EXPERIMENT_LABEL, _TRIAL_LABEL = "katib.kubeflow.org/experiment", "katib.kubeflow.org/trial"
# Its log contains the trial's output.
_COLLECTOR = "metrics-logger-and-collector"
_MAX_LOG_LINES = 200
_REMEDY = (
    "check that Katib is installed, and grant the step's service account the right to create experiments and "
    "read trials"
)


class Experiment:
    """The Experiment of one name, whether it exists or not, and its trials."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = f"{cluster.namespace}/{name}"
        self._cluster, self._name = cluster, name
        self._experiments = CustomObjects(cluster, GROUP, VERSION, "experiments", remedy=_REMEDY)
        self._trials = CustomObjects(cluster, GROUP, VERSION, "trials", remedy=_REMEDY)

    def with_new_connections(self) -> "Experiment":
        """Returns the same Experiment with connections of its own."""
        return Experiment(self._cluster.with_new_connections(), self._name)

    def read(self) -> dict[str, Any] | None:
        """Returns the Experiment, or None if it does not exist.

        Raises:
            OutputError: if imgpipe did not create it.
        """
        found = self._experiments.read(self._name)
        if found is not None:
            check_managed(found, f"experiment {self.name}", "job_dir")
        return found

    def create(self, body: Mapping[str, Any]) -> bool:
        """Creates the Experiment; returns False if it exists."""
        return self._experiments.create(body)

    def delete(self) -> None:
        """Deletes the Experiment with its trials, if it exists."""
        self._experiments.delete(self._name)

    def trials(self) -> list[dict[str, Any]]:
        """Returns the trials, in no particular order."""
        return self._trials.list(f"{_EXPERIMENT_LABEL}={self._name}")

    def trial_log(self, trial: str) -> list[str]:
        """Returns the last lines of a trial's output; [] if its pod does not exist."""
        pods = list_pods(self._cluster, f"{_TRIAL_LABEL}={trial}")
        if not pods:
            return []
        lines = read_log(self._cluster, pods[-1], _COLLECTOR, max_lines=_MAX_LOG_LINES)
        # The collector prepends the time and its source line.
        return [line.partition("] ")[2] or line for line in lines]


def condition(found: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """Returns the condition of that type of an Experiment or a trial, or None if it is not True."""
    conditions = (found.get("status") or {}).get("conditions") or ()
    return next((entry for entry in conditions if entry["type"] == kind and entry["status"] == "True"), None)


def trial_state(trial: Mapping[str, Any]) -> str:
    """Returns the state of a trial: EARLY_STOPPED, SUCCEEDED, ...; empty if it has not started."""
    return next((state for state in _TRIAL_STATES if condition(trial, state)), "")
