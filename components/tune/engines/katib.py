"""The search on Kubeflow: an Experiment of Katib's, whose trials run as pods of their own."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kubernetes import client

from imgpipe.components.common.dataset import TRAIN, VALIDATION, shard_location
from imgpipe.components.common.errors import (
    ERROR_CLASSES,
    CheckFailedError,
    InterruptedRunError,
    InvalidArgumentError,
    OutputError,
    PipelineError,
)
from imgpipe.components.common.hyperparameters import METRIC, reversed_value
from imgpipe.components.common.labels import format_labels
from imgpipe.components.common.log import log_event, with_progress
from imgpipe.components.platforms.kubernetes.client import default_client, own_namespace, refused
from imgpipe.components.storage import cloud_storage
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import absolute_location, joined
from imgpipe.components.storage.folders import folder_at
from imgpipe.components.train.command_line import command_line_arguments, shards_pattern
from imgpipe.components.tune.engines.engine import Report, TuningSpec
from imgpipe.components.tune.engines.katib_experiment import (
    GROUP,
    MANAGED_BY,
    VERSION,
    experiment,
    reversed_parameters,
)
from imgpipe.components.tune.engines.remote import TrialReporter, typed_values, with_trial_files
from imgpipe.components.tune.katib_arguments import KatibArguments, TrialPodArguments
from imgpipe.components.tune.trial_process import failure_in
from imgpipe.components.tune.trials import FAILED, RUNNING, SUCCEEDED, Trial

COMMAND = ("python", "-m", "imgpipe.components.tune.remote_trial")
DATA_FOLDER = "data"
_REQUEST = "imgpipe/request"
# Labels that Katib gives to trials and pods; the container that shows a trial's output.
_OF_EXPERIMENT, _OF_TRIAL = "katib.kubeflow.org/experiment", "katib.kubeflow.org/trial"
_COLLECTOR = "metrics-logger-and-collector"
_STATES = {
    "Succeeded": SUCCEEDED,
    "EarlyStopped": SUCCEEDED,
    "Failed": FAILED,
    "Killed": FAILED,
    "MetricsUnavailable": FAILED,
}
_NO_METRICS = (
    "Katib found no metrics in its output: is the namespace labelled "
    "katib.kubeflow.org/metrics-collector-injection=enabled?"
)
_LINES_OF_A_LOG = 200
_LONGEST_PAUSE_SECONDS = 30.0
# The Experiment goes on while the cluster's interface is away; so long may it be.
_SECONDS_WITHOUT_AN_ANSWER = 3600.0
_PASSING = (429, 500, 502, 503, 504)
_GONE, _EXISTS = 404, 409
_REMEDY = "is Katib installed, and may the step's service account make experiments and read trials there?"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class KatibSearch:
    """A search by Katib.

    Attributes:
        spec: What is tuned on what; its ``job_dir`` is the step's own folder.
        location: The tuning's job_dir, which the trials' pods see as well: ``gs://``, or a path that means
            the same folder in all of them.
        katib: What each trial asks of the cluster.
        pod: Image and secret of the trials.
        command: Of a trial.
        api_client: Of the cluster; None = that of the pod, or of the kubeconfig file.
        first_pause: Seconds before the second look.
    """

    spec: TuningSpec
    location: str
    katib: KatibArguments
    pod: TrialPodArguments
    command: tuple[str, ...] = COMMAND
    api_client: client.ApiClient | None = None
    first_pause: float = 1.0
    _order: list[str] = field(default_factory=list, repr=False)

    def run(self, report: Report) -> Sequence[Trial]:
        """Makes the Experiment, or finds it again, and follows it to its end; see ``Engine``.

        If the step is told to stop, the Experiment is deleted, and its trials with it.
        """
        if self.spec.request.resume_job:
            log_event(
                "resume_ignored",
                "tune: resumePreviousJobId is ignored: Katib cannot continue a study",
                severity="WARNING",
            )
        cluster = _Cluster(self.api_client or default_client("tune on"), self.katib.katib_namespace)
        name = f"imgpipe-tune-{_digest(absolute_location(self.location), 12)}"
        wanted = self.experiment(name)
        reporter = TrialReporter(self.spec.request, report)
        try:
            _make_or_find(cluster, wanted)
            log_event(
                "job_started", f"tune: following experiment {cluster.namespace}/{name}", step="tune", job=name
            )
            ended, trials = self._follow(cluster, name, reporter)
        except Exception:
            raise
        except BaseException:
            # Told to stop: nothing runs for nobody.
            log_event(
                "job_cancelled", f"tune: told to stop, deleting experiment {name}", step="tune", job=name
            )
            # The signal may have come while a connection was taken from the pool, whose lock then stays held.
            cluster = cluster.with_new_connections()
            if _is_same(cluster.get(name), wanted):
                cluster.delete(name)
            raise
        if _condition(ended, "Failed"):
            raise _failure(ended, trials, cluster.namespace)
        return trials

    def experiment(self, name: str) -> dict[str, Any]:
        """Returns the request; the data that only this pod sees are uploaded."""
        tuned = {parameter.name for parameter in self.spec.request.parameters}
        words = [
            *self._shared_data(),
            f"--job_dir={absolute_location(self.location)}",
            *command_line_arguments(self.spec.training),
        ]
        fixed = [word for word in words if word[2:].partition("=")[0] not in tuned]
        made = experiment(
            name,
            self.spec.request,
            self.spec.training,
            self.command,
            fixed,
            self.katib,
            self.pod,
            seed=self.spec.tuning.seed,
            annotations={},
        )
        made["metadata"]["annotations"][_REQUEST] = _digest(json.dumps(made, sort_keys=True), 32)
        return made

    def _shared_data(self) -> list[str]:
        """Returns the words that name data and labels where the trials find them."""
        manifest, location = self.spec.manifest, absolute_location(self.location)
        data = joined(location, f"{DATA_FOLDER}/{manifest.digest()[:16]}")
        folder = folder_at(data)
        there = folder.names() if is_cloud_path(data) else {}
        words = []
        for argument, split in (("training_data_path", TRAIN), ("validation_data_path", VALIDATION)):
            paths = []
            for shard in with_progress(manifest.splits[split].shards, "tune", f"{split} shards in {data}"):
                path = shard_location(self.spec.dataset, shard)
                if is_cloud_path(data) and not is_cloud_path(path):
                    shard_name = Path(path).name
                    if there.get(shard_name) != shard.bytes:
                        cloud_storage.upload(Path(path), f"{data}/{shard_name}")
                    path = f"{data}/{shard_name}"
                paths.append(path if is_cloud_path(path) else str(Path(path).absolute()))
            words.append(f"--{argument}={shards_pattern(paths)}")
        folder.write("labels.txt", format_labels(manifest.labels).encode())
        return [*words, f"--labels_file={joined(data, 'labels.txt')}"]

    def _follow(
        self, cluster: "_Cluster", name: str, reporter: TrialReporter
    ) -> tuple[dict[str, Any], list[Trial]]:
        """Returns the Experiment when it has ended, and its trials.

        Raises:
            InterruptedRunError: if somebody deletes it, or the cluster does not answer for an hour.
        """
        seconds, answered = self.first_pause, time.monotonic()
        while True:
            try:
                found = cluster.get(name)
                trials = self.trials_of(cluster, name)
                answered = time.monotonic()
            except InterruptedRunError:
                if time.monotonic() - answered > _SECONDS_WITHOUT_AN_ANSWER:
                    raise
                time.sleep(seconds)
                continue
            if found is None:
                raise InterruptedRunError(
                    "the experiment was deleted while it ran", where=name, remedy="start the tuning again"
                )
            reporter.update(trials)
            if _condition(found, "Succeeded") or _condition(found, "Failed"):
                return found, trials
            time.sleep(seconds)
            seconds = min(_LONGEST_PAUSE_SECONDS, seconds * 1.5)

    def trials_of(self, cluster: "_Cluster", name: str) -> list[Trial]:
        """Returns the trials as they stand now, numbered as they were made."""
        found = {one["metadata"]["name"]: one for one in cluster.trials(name)}
        made = sorted(found, key=lambda one: (found[one]["metadata"].get("creationTimestamp", ""), one))
        self._order.extend(one for one in made if one not in self._order)
        return [
            self._trial(cluster, number, found[one])
            for number, one in enumerate(self._order, start=1)
            if one in found
        ]

    def _trial(self, cluster: "_Cluster", number: int, found: Mapping[str, Any]) -> Trial:
        name, status = found["metadata"]["name"], found.get("status") or {}
        request = self.spec.request
        given = {one["name"]: one["value"] for one in found["spec"].get("parameterAssignments", ())}
        values = typed_values(request, given)
        for reverse, parameter in reversed_parameters(request).items():
            value = reversed_value(values[reverse], parameter.minimum, parameter.maximum)
            values[reverse] = type(values[reverse])(value)
        last = _last_condition(found)
        trial = with_trial_files(
            Trial(
                id=number,
                values=values,
                state=_STATES.get(last, RUNNING),
                max_steps=int(values.get("max_steps", self.spec.training.max_steps)),
                started=status.get("startTime") or "",
                ended=status.get("completionTime") or "",
            ),
            absolute_location(self.location),
            name,
        )
        if last == "EarlyStopped":
            return replace(trial, stop_reason=_stop_reason(found, trial))
        if trial.state == FAILED:
            problem, lines, code = cluster.failure_of(name)
            problem = problem or (_NO_METRICS if last == "MetricsUnavailable" else f"Katib calls it {last}")
            return replace(trial, problem=problem, last_lines=lines, exit_code=code)
        return trial


class _Cluster:
    """Katib's objects of one namespace."""

    def __init__(self, api_client: client.ApiClient, namespace: str) -> None:
        self._client = api_client
        self._api, self._core = client.CustomObjectsApi(api_client), client.CoreV1Api(api_client)
        self.namespace = namespace or own_namespace()
        self._failures: dict[str, tuple[str, tuple[str, ...], int]] = {}

    def with_new_connections(self) -> "_Cluster":
        """Returns the same cluster, asked through connections of its own."""
        return _Cluster(client.ApiClient(self._client.configuration), self.namespace)

    def _place(self, plural: str) -> dict[str, Any]:
        return {
            "group": GROUP,
            "version": VERSION,
            "plural": plural,
            "namespace": self.namespace,
            "_request_timeout": 60,
        }

    def get(self, name: str) -> dict[str, Any] | None:
        """Returns the Experiment, or None if there is none."""
        found: dict[str, Any] | None = self._asked(
            lambda: self._api.get_namespaced_custom_object(name=name, **self._place("experiments")),
            {_GONE: None},
        )
        return found

    def create(self, body: Mapping[str, Any]) -> bool:
        """Makes the Experiment; returns whether there was none of its name."""
        return self._asked(
            lambda: bool(self._api.create_namespaced_custom_object(body=body, **self._place("experiments"))),
            {_EXISTS: False},
        )

    def delete(self, name: str) -> None:
        """Deletes the Experiment with its trials, if it is there."""
        self._asked(
            lambda: self._api.delete_namespaced_custom_object(name=name, **self._place("experiments")),
            {_GONE: None},
        )

    def trials(self, name: str) -> list[dict[str, Any]]:
        """Returns the trials of an Experiment."""
        found: list[dict[str, Any]] = self._asked(
            lambda: self._api.list_namespaced_custom_object(
                label_selector=f"{_OF_EXPERIMENT}={name}", **self._place("trials")
            )["items"],
            {},
        )
        return found

    def failure_of(self, trial: str) -> tuple[str, tuple[str, ...], int]:
        """Returns what the output of a trial that failed says: problem, last lines, exit code; asks once."""
        if trial not in self._failures:
            self._failures[trial] = failure_in(self._output_of(trial))
        return self._failures[trial]

    def _output_of(self, trial: str) -> list[str]:
        try:
            pods = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{_OF_TRIAL}={trial}", _request_timeout=60
            ).items
            if not pods:
                return []
            text = self._core.read_namespaced_pod_log(
                pods[-1].metadata.name,
                self.namespace,
                container=_COLLECTOR,
                tail_lines=_LINES_OF_A_LOG,
                _request_timeout=60,
            )
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            log_event("log_unread", f"tune: the log of {trial} cannot be read: {error}", severity="WARNING")
            return []
        # The collector puts time and place before each line.
        return [line.partition("] ")[2] or line for line in text.splitlines()]

    def _asked(self, question: Callable[[], Answer], answers: Mapping[int, Any]) -> Answer:
        """Returns the answer, or what ``answers`` has for a status.

        Raises:
            InterruptedRunError: if the cluster does not answer.
            UnavailableError: if it refuses.
        """
        try:
            return question()
        except client.ApiException as error:
            if error.status in answers:
                return answers[error.status]  # type: ignore[no-any-return]
            if error.status not in _PASSING:
                raise refused(
                    error, f"Katib's experiments and trials in namespace {self.namespace!r}", _REMEDY
                ) from None
            problem = f"{error.status} {error.reason}"
        except urllib3.exceptions.HTTPError as error:
            problem = str(error)
        raise InterruptedRunError(
            f"the cluster does not answer: {problem}",
            remedy="start the step again: it goes on with its experiment",
        ) from None


def _make_or_find(cluster: _Cluster, wanted: Mapping[str, Any]) -> None:
    """Makes the Experiment, unless it is there.

    Raises:
        InvalidArgumentError: if another search was made under this job_dir, or Katib refuses this one.
        OutputError: if somebody else's has the name.
    """
    name = wanted["metadata"]["name"]
    found = cluster.get(name)
    if found is None and cluster.create(wanted):
        log_event("job_made", f"tune: experiment {cluster.namespace}/{name} is made", step="tune", job=name)
        return
    found = found or cluster.get(name) or {"metadata": {}}
    labels = found["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in MANAGED_BY.items()):
        raise OutputError(
            f"experiment {cluster.namespace}/{name} is not one that imgpipe made",
            remedy="give another job_dir; nothing of others is changed",
        )
    if not _is_same(found, wanted):
        raise InvalidArgumentError(
            "another search was made in this job_dir",
            where=f"experiment {cluster.namespace}/{name}",
            remedy="give another job_dir, or delete the experiment",
        )


def _is_same(found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    given = (found or {}).get("metadata", {}).get("annotations") or {}
    return bool(given.get(_REQUEST) == wanted["metadata"]["annotations"][_REQUEST])


def _condition(found: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    conditions = (found.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == kind and one["status"] == "True"), None)


def _last_condition(trial: Mapping[str, Any]) -> str:
    """Returns the state that Katib gives a trial: early stopping before whatever its pod made of that."""
    kinds = ("EarlyStopped", "Succeeded", "MetricsUnavailable", "Killed", "Failed", "Running")
    return next((kind for kind in kinds if _condition(trial, kind)), "")


def _stop_reason(found: Mapping[str, Any], trial: Trial) -> str:
    rules = found["spec"].get("earlyStoppingRules") or [{}]
    at = int(rules[0].get("startStep") or 0)
    limit = float(rules[0].get("value") or 0)
    own = trial.evaluations[at - 1][METRIC] if 0 < at <= len(trial.evaluations) else trial.best_so_far or 0.0
    return (
        f"Katib's medianstop stopped it at step {trial.steps:,} of {trial.max_steps:,}: {METRIC} {own:.4f} "
        f"at evaluation {at} is below {limit:.4f}, the mean of the trials before up to there"
    )


def _failure(ended: Mapping[str, Any], trials: Sequence[Trial], namespace: str) -> PipelineError:
    """Returns the error with which an Experiment failed."""
    failed = [trial for trial in trials if trial.state == FAILED]
    where = f"experiment {namespace}/{ended['metadata']['name']}"
    told = str((_condition(ended, "Failed") or {}).get("message") or "no reason is given")
    if not failed:
        return CheckFailedError(
            f"the experiment failed: {told}", where=where, remedy="see Katib's controller"
        )
    codes = {trial.exit_code for trial in failed}
    last = failed[-1]
    kind = next((one for one in ERROR_CLASSES if one.exit_code == last.exit_code), CheckFailedError)
    error_class = kind if len(codes) == 1 and not kind.retry_can_help else CheckFailedError
    return error_class(
        f"{len(failed)} of {len(trials)} trials failed: {told}; the last: {last.problem}",
        where=where,
        remedy="trials.json says why each of them failed; to try again, delete the experiment or give "
        "another job_dir",
    )


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
