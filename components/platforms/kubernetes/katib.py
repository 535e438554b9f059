"""Experiments of Katib with their suggestions, trials and pods (kubeflow.org/v1beta1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes import client

from imgpipe.components.common.errors import InterruptedRunError, UnavailableError
from imgpipe.components.platforms.kubernetes.client import (
    REQUEST_TIMEOUT_SECONDS,
    Cluster,
    CustomObjects,
    check_managed,
)
from imgpipe.components.platforms.kubernetes.errors import translate_errors
from imgpipe.components.platforms.kubernetes.pods import list_pods, read_log
from imgpipe.components.platforms.polling import poll

GROUP, VERSION = "kubeflow.org", "v1beta1"
# The run of Kubeflow Pipelines that has created an Experiment.
RUN_LABEL = "imgpipe/run"
SUCCEEDED, FAILED, EARLY_STOPPED = "Succeeded", "Failed", "EarlyStopped"
METRICS_UNAVAILABLE, KILLED, RUNNING = "MetricsUnavailable", "Killed", "Running"
# A trial may have several conditions: what follows an early stop does not matter.
_TRIAL_STATES = (EARLY_STOPPED, SUCCEEDED, METRICS_UNAVAILABLE, KILLED, FAILED, RUNNING)
_EXPERIMENT_LABEL, _TRIAL_LABEL = "katib.kubeflow.org/experiment", "katib.kubeflow.org/trial"
_NAMESPACE_LABEL = "katib.kubeflow.org/metrics-collector-injection"
# Its log contains the trial's output.
_COLLECTOR = "metrics-logger-and-collector"
_MAX_LOG_LINES = 200
# Katib deletes an Experiment within seconds, unless its controller does not run.
_DELETION_LIMIT_SECONDS = 300.0
_REMEDY = "check that Katib is installed, and grant the step's service account the rights in docs/tune.md"


@dataclass(frozen=True)
class SearchState:
    """An Experiment and what belongs to it, read at about the same time.

    Attributes:
        experiment: The Experiment; None if it does not exist.
        suggestion: The Suggestion, whose service chooses the values; None if it does not exist.
        trials: The trials, in no particular order.
        pods: The pods of each trial, by its name, oldest first.
        suggestion_pods: The pods of the Suggestion's service.
    """

    experiment: dict[str, Any] | None
    suggestion: dict[str, Any] | None
    trials: list[dict[str, Any]]
    pods: Mapping[str, list[client.V1Pod]]
    suggestion_pods: list[client.V1Pod]


class Experiment:
    """The Experiment of one name, whether it exists or not, and its trials."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = f"{cluster.namespace}/{name}"
        self.delete_command = f"kubectl delete experiment {name} --namespace={cluster.namespace}"
        self.cluster, self._name = cluster, name
        self._experiments = CustomObjects(cluster, GROUP, VERSION, "experiments", remedy=_REMEDY)
        self._suggestions = CustomObjects(cluster, GROUP, VERSION, "suggestions", remedy=_REMEDY)
        self._trials = CustomObjects(cluster, GROUP, VERSION, "trials", remedy=_REMEDY)

    def read(self) -> dict[str, Any] | None:
        """Returns the Experiment, or None if it does not exist.

        Raises:
            OutputError: if imgpipe did not create it.
        """
        found = self._experiments.read(self._name)
        if found is not None:
            check_managed(found, f"experiment {self.name}", "job_dir")
        return found

    def read_state(self) -> SearchState:
        """Returns the Experiment with everything that belongs to it."""
        experiment, suggestion, trials = self.read(), self._suggestions.read(self._name), self.trials()
        pods: dict[str, list[client.V1Pod]] = {}
        for pod in list_pods(self.cluster, f"{_EXPERIMENT_LABEL}={self._name}"):
            # The pods of the suggestion service have no trial.
            pods.setdefault(pod.metadata.labels.get(_TRIAL_LABEL, ""), []).append(pod)
        suggestion_pods = pods.pop("", [])
        return SearchState(experiment, suggestion, trials, pods, suggestion_pods)

    def create(self, body: Mapping[str, Any]) -> bool:
        """Creates the Experiment; returns False if it exists.

        Raises:
            UnavailableError: if Katib rejects it.
        """
        try:
            return self._experiments.create(body)
        except UnavailableError as error:
            if _NAMESPACE_LABEL not in error.problem:
                raise
            namespace = self.cluster.namespace
            raise UnavailableError(
                f"the namespace {namespace!r} does not allow Katib to collect metrics from its pods",
                where=f"experiment {self.name}",
                remedy=f"run `kubectl label namespace {namespace} {_NAMESPACE_LABEL}=enabled`",
            ) from None

    def delete(self) -> None:
        """Deletes the Experiment with its trials, if it exists.

        In the background, which is the default for custom resources: Katib creates trials again while a
        deletion in the foreground waits for them to disappear.
        """
        self._experiments.delete(self._name)

    def wait_until_deleted(self) -> None:
        """Waits until an Experiment that is being deleted has disappeared.

        Raises:
            InterruptedRunError: if it exists after five minutes.
        """
        try:
            poll(
                self.read,
                lambda found: found is None,
                first_pause=0.2,
                max_pause=2.0,
                timeout=_DELETION_LIMIT_SECONDS,
            )
        except TimeoutError:
            raise InterruptedRunError(
                f"the experiment is being deleted, and still exists after {_DELETION_LIMIT_SECONDS:.0f} s",
                where=f"experiment {self.name}",
                remedy="check that Katib's controller runs, and try again",
            ) from None

    def trials(self) -> list[dict[str, Any]]:
        """Returns the trials, in no particular order."""
        return self._trials.list(f"{_EXPERIMENT_LABEL}={self._name}")

    def delete_trial(self, trial: str) -> None:
        """Deletes a trial with its pod, if it exists."""
        self._trials.delete(trial)

    def pod_log(self, pod: client.V1Pod, *, max_lines: int = _MAX_LOG_LINES) -> list[str]:
        """Returns the last lines of the output of a trial's pod."""
        lines = read_log(self.cluster, pod, _COLLECTOR, max_lines=max_lines)
        # The collector prepends the time and its source line.
        return [line.partition("] ")[2] or line for line in lines]


def delete_experiments_of(cluster: Cluster, run_id: str) -> None:
    """Deletes the Experiments that a run of Kubeflow Pipelines has created, with their trials.

    Raises:
        UnavailableError: if the API server rejects the request, or has no Experiments.
        InterruptedRunError: if it does not respond.
    """
    with translate_errors(f"delete the experiments of run {run_id}", remedy=_REMEDY):
        client.CustomObjectsApi(cluster.api_client).delete_collection_namespaced_custom_object(
            GROUP,
            VERSION,
            cluster.namespace,
            "experiments",
            label_selector=f"{RUN_LABEL}={run_id}",
            _request_timeout=REQUEST_TIMEOUT_SECONDS,
        )


def condition(found: Mapping[str, Any] | None, kind: str, status: str = "True") -> Mapping[str, Any] | None:
    """Returns the condition of that type and status of an object, or None if it has none."""
    conditions = ((found or {}).get("status") or {}).get("conditions") or ()
    return next((entry for entry in conditions if entry["type"] == kind and entry["status"] == status), None)


def is_being_deleted(found: Mapping[str, Any]) -> bool:
    """Returns whether an object exists only until its finalizers have run."""
    return bool(found["metadata"].get("deletionTimestamp"))


def trial_state(trial: Mapping[str, Any]) -> str:
    """Returns the state of a trial: EARLY_STOPPED, SUCCEEDED, ...; empty if it has not started."""
    return next((state for state in _TRIAL_STATES if condition(trial, state)), "")
