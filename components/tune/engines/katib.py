"""The search on Kubeflow: a Katib Experiment that runs each trial in a pod."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from imgpipe.components.common.dataset import TRAIN, VALIDATION, shard_location
from imgpipe.components.common.errors import (
    ERROR_CLASSES,
    CheckFailedError,
    InterruptedRunError,
    InvalidArgumentError,
    PipelineError,
)
from imgpipe.components.common.hyperparameters import METRIC, reversed_value
from imgpipe.components.common.labels import format_labels
from imgpipe.components.common.log import log_event, with_progress
from imgpipe.components.platforms.kubernetes import katib
from imgpipe.components.platforms.kubernetes.client import connect
from imgpipe.components.platforms.kubernetes.katib import Experiment, condition, trial_state
from imgpipe.components.platforms.kubernetes.katib_requests import (
    CONTAINER,
    TRIAL_NAME,
    experiment,
    reversed_parameters,
    trial_command,
)
from imgpipe.components.platforms.kubernetes.pod_spec import pod_spec
from imgpipe.components.platforms.polling import FIRST_PAUSE_SECONDS, on_termination, poll
from imgpipe.components.storage import LocalLocation, Location
from imgpipe.components.train.command_line import command_line_arguments, shards_pattern
from imgpipe.components.train.katib_lines import FILTER, KATIB_TRIAL_NAME
from imgpipe.components.tune.arguments import failed_trials_limit
from imgpipe.components.tune.engines.engine import Report, TuningSpec
from imgpipe.components.tune.engines.remote import typed_values, with_trial_files
from imgpipe.components.tune.engines.reporter import TrialReporter
from imgpipe.components.tune.katib_arguments import KatibArguments, TrialPodArguments
from imgpipe.components.tune.search_space import grid_size
from imgpipe.components.tune.trial_process import failure_in
from imgpipe.components.tune.trials import FAILED, RUNNING, SUCCEEDED, Trial

COMMAND = ("python", "-m", "imgpipe.components.tune.remote_trial")
DATA_FOLDER = "data"
_REQUEST_ANNOTATION = "imgpipe/request"
_STATES = {
    katib.SUCCEEDED: SUCCEEDED,
    katib.EARLY_STOPPED: SUCCEEDED,
    katib.FAILED: FAILED,
    katib.KILLED: FAILED,
    katib.METRICS_UNAVAILABLE: FAILED,
}
_NO_METRICS = (
    "Katib found no metrics in its output: is the namespace labelled "
    "katib.kubeflow.org/metrics-collector-injection=enabled?"
)


@dataclass(frozen=True)
class KatibSearch:
    """A search by Katib.

    Attributes:
        spec: The search and its data; its ``job_dir`` is a local folder of the step.
        location: The tuning's job_dir, which the trials' pods must see under the same path, e.g. ``gs://``.
        katib: The resources of each trial.
        pod: Image and secret of the trials.
        command: The command of a trial.
        first_pause: Seconds between the first two polls.
    """

    spec: TuningSpec
    location: Location
    katib: KatibArguments
    pod: TrialPodArguments
    command: tuple[str, ...] = COMMAND
    first_pause: float = FIRST_PAUSE_SECONDS
    _order: list[str] = field(default_factory=list, repr=False)
    _failures: dict[str, tuple[str, tuple[str, ...], int]] = field(default_factory=dict, repr=False)

    def run(self, report: Report) -> Sequence[Trial]:
        """Creates the Experiment, or finds it again, and follows it to its end; see ``Engine``.

        SIGTERM deletes the Experiment with its trials.
        """
        if self.spec.request.resume_job:
            log_event(
                "resume_ignored",
                "tune: resumePreviousJobId is ignored: Katib cannot continue a study",
                severity="WARNING",
            )
        name = f"imgpipe-tune-{_digest(str(self.location), 12)}"
        search = Experiment(connect("tune on", self.katib.katib_namespace), name)
        body = self.body(name)

        def delete() -> None:
            log_event(
                "job_cancelled", f"tune: interrupted: deleting experiment {name}", step="tune", job=name
            )
            reconnected = search.with_new_connections()
            if _has_request_of(reconnected.read(), body):
                reconnected.delete()

        with on_termination(delete):
            _create_or_find(search, body)
            log_event("job_started", f"tune: following experiment {search.name}", step="tune", job=name)
            ended, trials = self._follow(search, TrialReporter(self.spec.request.max_trials, report))
        if condition(ended, katib.FAILED):
            raise _failure(ended, trials, search.name)
        return trials

    def body(self, name: str) -> dict[str, Any]:
        """Returns the Experiment; shards that only this pod has are uploaded."""
        request, training, resources = self.spec.request, self.spec.training, self.katib
        tuned = {parameter.name for parameter in request.parameters}
        arguments = [
            *self._data_arguments(),
            f"--job_dir={self.location}",
            *command_line_arguments(training),
        ]
        fixed = [argument for argument in arguments if argument[2:].partition("=")[0] not in tuned]
        pod = pod_spec(
            CONTAINER,
            self.pod.trial_image,
            trial_command([*self.command, *fixed], request),
            {KATIB_TRIAL_NAME: TRIAL_NAME, "PYTHONUNBUFFERED": "1"},
            cpu=resources.trial_cpu,
            memory=resources.trial_memory,
            accelerator_type=resources.trial_accelerator_type,
            accelerator_count=resources.trial_accelerator_count,
            node_selector=resources.node_selector(),
            tolerations=resources.tolerations(),
            service_account=resources.trial_service_account,
            storage_secret=self.pod.trial_storage_secret,
        )
        max_trials = request.max_trials
        if request.algorithm == "GRID_SEARCH":
            max_trials = min(max_trials, grid_size(request))
        body = experiment(
            name,
            request,
            pod,
            max_trials=max_trials,
            max_failed_trials=failed_trials_limit(request.max_failed_trials, request.max_trials),
            evaluations=math.ceil(training.max_steps / training.resolved_steps_per_eval()),
            metrics_format=FILTER.format(metric=request.metric),
            seed=self.spec.tuning.seed,
        )
        body["metadata"]["annotations"][_REQUEST_ANNOTATION] = _digest(json.dumps(body, sort_keys=True), 32)
        return body

    def _data_arguments(self) -> list[str]:
        """Returns the arguments that name the shards and labels where the trials can read them."""
        manifest = self.spec.manifest
        data = self.location / DATA_FOLDER / manifest.digest()[:16]
        uploaded = {} if data.is_local else data.contents()
        arguments = []
        for argument, split in (("training_data_path", TRAIN), ("validation_data_path", VALIDATION)):
            paths = []
            for shard in with_progress(manifest.splits[split].shards, "tune", f"{split} shards in {data}"):
                location = shard_location(self.spec.dataset, shard).absolute()
                if isinstance(location, LocalLocation) and not data.is_local:
                    if uploaded.get(location.name) != shard.bytes:
                        (data / location.name).upload(location.path)
                    location = data / location.name
                paths.append(str(location))
            arguments.append(f"--{argument}={shards_pattern(paths)}")
        labels_file = data / "labels.txt"
        labels_file.write(format_labels(manifest.labels).encode())
        return [*arguments, f"--labels_file={labels_file}"]

    def _follow(self, search: Experiment, reporter: TrialReporter) -> tuple[dict[str, Any], list[Trial]]:
        """Returns the Experiment and its trials when it has ended.

        Raises:
            InterruptedRunError: if the Experiment is deleted, or the cluster does not respond for an hour.
        """

        def check(response: tuple[dict[str, Any] | None, list[Trial]]) -> None:
            found, trials = response
            if found is None:
                raise InterruptedRunError(
                    "the experiment was deleted while it ran",
                    where=f"experiment {search.name}",
                    remedy="start the tuning again",
                )
            reporter.update(trials)

        def has_ended(response: tuple[dict[str, Any] | None, list[Trial]]) -> bool:
            found = response[0] or {}
            return any(condition(found, kind) for kind in (katib.SUCCEEDED, katib.FAILED))

        found, trials = poll(
            lambda: (search.read(), self._trials(search)),
            has_ended,
            on_response=check,
            first_pause=self.first_pause,
        )
        assert found is not None  # noqa: S101 - poll() ends with an Experiment that has ended
        return found, trials

    def _trials(self, search: Experiment) -> list[Trial]:
        """Returns the trials in their current state, numbered in the order of their creation."""
        found = {trial["metadata"]["name"]: trial for trial in search.trials()}
        by_age = sorted(found, key=lambda name: (found[name]["metadata"].get("creationTimestamp", ""), name))
        self._order.extend(name for name in by_age if name not in self._order)
        return [
            self._trial(search, number, found[name])
            for number, name in enumerate(self._order, start=1)
            if name in found
        ]

    def _trial(self, search: Experiment, number: int, found: Mapping[str, Any]) -> Trial:
        name, status = found["metadata"]["name"], found.get("status") or {}
        request = self.spec.request
        assigned = {entry["name"]: entry["value"] for entry in found["spec"].get("parameterAssignments", ())}
        values = typed_values(request, assigned)
        for reverse, parameter in reversed_parameters(request).items():
            value = reversed_value(values[reverse], parameter.minimum, parameter.maximum)
            values[reverse] = type(values[reverse])(value)
        state = trial_state(found)
        trial = with_trial_files(
            Trial(
                id=number,
                values=values,
                state=_STATES.get(state, RUNNING),
                max_steps=int(values.get("max_steps", self.spec.training.max_steps)),
                started=status.get("startTime") or "",
                ended=status.get("completionTime") or "",
            ),
            self.location,
            name,
        )
        if state == katib.EARLY_STOPPED:
            return replace(trial, stop_reason=_stop_reason(found, trial))
        if trial.state == FAILED:
            problem, last_lines, exit_code = self._failure_of(search, name)
            if not problem:
                problem = _NO_METRICS if state == katib.METRICS_UNAVAILABLE else f"Katib reports {state}"
            return replace(trial, problem=problem, last_lines=last_lines, exit_code=exit_code)
        return trial

    def _failure_of(self, search: Experiment, trial: str) -> tuple[str, tuple[str, ...], int]:
        """Returns the problem, last lines and exit code in a trial's log, which is read once."""
        if trial not in self._failures:
            try:
                lines = search.trial_log(trial)
            except PipelineError as error:
                log_event("log_unreadable", f"tune: no log of {trial}: {error.problem}", severity="WARNING")
                lines = []
            self._failures[trial] = failure_in(lines)
        return self._failures[trial]


def _create_or_find(search: Experiment, body: Mapping[str, Any]) -> None:
    """Creates the Experiment unless it exists.

    Raises:
        InvalidArgumentError: if the Experiment of this job_dir is another search.
    """
    found = search.read()
    if found is None and search.create(body):
        name = body["metadata"]["name"]
        log_event("job_created", f"tune: created experiment {search.name}", step="tune", job=name)
    elif not _has_request_of(found or search.read(), body):
        raise InvalidArgumentError(
            "this job_dir was used for another search",
            where=f"experiment {search.name}",
            remedy="give another job_dir, or delete the experiment",
        )


def _has_request_of(found: Mapping[str, Any] | None, body: Mapping[str, Any]) -> bool:
    annotations = (found or {}).get("metadata", {}).get("annotations") or {}
    return bool(annotations.get(_REQUEST_ANNOTATION) == body["metadata"]["annotations"][_REQUEST_ANNOTATION])


def _stop_reason(found: Mapping[str, Any], trial: Trial) -> str:
    rules = found["spec"].get("earlyStoppingRules") or [{}]
    number = int(rules[0].get("startStep") or 0)
    mean = float(rules[0].get("value") or 0)
    is_known = 0 < number <= len(trial.evaluations)
    value = trial.evaluations[number - 1][METRIC] if is_known else trial.best_so_far or 0.0
    return (
        f"Katib's medianstop stopped it at step {trial.steps:,} of {trial.max_steps:,}: {METRIC} {value:.4f} "
        f"at evaluation {number} is below {mean:.4f}, the mean of the earlier trials up to that evaluation"
    )


def _failure(ended: Mapping[str, Any], trials: Sequence[Trial], name: str) -> PipelineError:
    """Returns the error of an Experiment that failed."""
    failed = [trial for trial in trials if trial.state == FAILED]
    reason = str((condition(ended, katib.FAILED) or {}).get("message") or "Katib gives no reason")
    if not failed:
        return CheckFailedError(
            f"the experiment failed: {reason}",
            where=f"experiment {name}",
            remedy="see the log of Katib's controller",
        )
    exit_codes = {trial.exit_code for trial in failed}
    last = failed[-1]
    of_last = next((kind for kind in ERROR_CLASSES if kind.exit_code == last.exit_code), CheckFailedError)
    error_class = of_last if len(exit_codes) == 1 and not of_last.retry_can_help else CheckFailedError
    return error_class(
        f"{len(failed)} of {len(trials)} trials failed: {reason}; the last: {last.problem}",
        where=f"experiment {name}",
        remedy="see trials.json for the reason of each; to try again, delete the experiment or give another "
        "job_dir",
    )


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
