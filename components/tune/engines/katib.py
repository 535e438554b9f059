"""The search on Kubeflow: a Katib Experiment that runs each trial in a pod."""

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imgpipe.components.common.dataset import (
    MANIFEST_NAME,
    TRAIN,
    VALIDATION,
    serialize_manifest,
    shard_location,
)
from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    InvalidArgumentError,
    PipelineError,
    UnavailableError,
    error_class_of,
)
from imgpipe.components.common.hyperparameters import METRIC
from imgpipe.components.common.log import JSON, LOG_FORMAT_VARIABLE, log_event, with_progress
from imgpipe.components.common.plural import plural
from imgpipe.components.common.webhook import RUN_VARIABLE
from imgpipe.components.platforms.kubernetes import katib, workflow
from imgpipe.components.platforms.kubernetes.client import connect
from imgpipe.components.platforms.kubernetes.katib import (
    Experiment,
    SearchState,
    condition,
    is_being_deleted,
    trial_state,
)
from imgpipe.components.platforms.kubernetes.katib_requests import (
    CONTAINER,
    TRIAL_NAME,
    experiment,
    trial_command,
)
from imgpipe.components.platforms.kubernetes.pod_spec import pod_spec
from imgpipe.components.platforms.polling import poll, retry
from imgpipe.components.platforms.termination import end_job_if_stopped
from imgpipe.components.storage import LocalLocation, Location
from imgpipe.components.train.command_line import command_line_arguments
from imgpipe.components.train.katib_lines import FILTER, KATIB_TRIAL_NAME
from imgpipe.components.tune.arguments import failed_trials_limit
from imgpipe.components.tune.engines.engine import Report, TuningSpec
from imgpipe.components.tune.engines.katib_trials import TrialReader
from imgpipe.components.tune.engines.katib_watch import KatibWatch
from imgpipe.components.tune.engines.reporter import TrialReporter
from imgpipe.components.tune.katib_arguments import KatibArguments, TrialPodArguments
from imgpipe.components.tune.search_space import grid_size
from imgpipe.components.tune.trials import FAILED, RUNNING, Trial

COMMAND = ("python", "-m", "imgpipe.components.tune.remote_trial")
DATA_FOLDER = "data"
_REQUEST_ANNOTATION = "imgpipe/request"


@dataclass(frozen=True)
class KatibSearch:
    """A search by Katib.

    Attributes:
        spec: The search and its data; its ``job_dir`` is a local folder of the step.
        location: The tuning's job_dir, which the trials' pods must see under the same path, e.g. in a bucket.
        katib: The resources of each trial.
        pod: Image and secret of the trials.
        command: The command of a trial.
    """

    spec: TuningSpec
    location: Location
    katib: KatibArguments
    pod: TrialPodArguments
    command: tuple[str, ...] = COMMAND

    def run(self, report: Report) -> Sequence[Trial]:
        """Creates the Experiment, or finds it again, and follows it to its end; see ``Engine``.

        An Experiment that failed is deleted and created again. If the run is stopped, the Experiment is
        deleted with its trials; if only this pod is evicted, it continues.

        Raises:
            UnavailableError: if Katib refuses the search, or it cannot continue.
        """
        if self.spec.request.resume_job:
            log_event(
                "resume_ignored",
                "tune: resumePreviousJobId is ignored: Katib cannot continue a study",
                severity="WARNING",
            )
        name = f"imgpipe-tune-{_digest(str(self.location), 12)}"
        search = self._connect(name)
        body = self.body(name)

        def delete() -> None:
            reconnected = self._connect(name)
            if _has_request_of(reconnected.read(), body):
                reconnected.delete()

        with end_job_if_stopped(
            "tune",
            f"experiment {search.name}",
            end=delete,
            is_stopped=lambda: bool(workflow.own_stop_reason()),
            by_hand=search.delete_command,
        ):
            # The Experiment may have been created although the response was lost.
            retry(lambda: _create_or_find(search, body))
            log_event("job_started", f"tune: following experiment {search.name}", step="tune", job=name)
            try:
                state, trials = self._follow(search, TrialReporter(self.spec.request.max_trials, report))
            except InterruptedRunError:
                _report_left_running(search)
                raise
            except PipelineError:
                # The step does not run again: without it, the best model is not found.
                _delete(search.delete, search)
                raise
            if condition(state.experiment, katib.FAILED):
                _end_trials(search, state)
                raise _failure(state, trials, search.name)
            return trials

    def _connect(self, name: str) -> Experiment:
        return Experiment(connect("tune on", self.katib.katib_namespace), name)

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
            {KATIB_TRIAL_NAME: TRIAL_NAME, LOG_FORMAT_VARIABLE: JSON, "PYTHONUNBUFFERED": "1"},
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
            metrics_format=FILTER.format(metric=METRIC),
            seed=self.spec.tuning.seed,
        )
        body["metadata"]["annotations"][_REQUEST_ANNOTATION] = _digest(json.dumps(body, sort_keys=True), 32)
        if run_id := os.environ.get(RUN_VARIABLE):
            body["metadata"]["labels"][katib.RUN_LABEL] = run_id
        return body

    def _data_arguments(self) -> list[str]:
        """Returns the argument that names the data set where the trials can read it."""
        manifest = self.spec.manifest
        data = self.location / DATA_FOLDER / manifest.digest()[:16]
        uploaded = {} if data.is_local else data.contents()
        splits = {}
        for name in (TRAIN, VALIDATION):
            shards = []
            for shard in with_progress(manifest.splits[name].shards, "tune", f"{name} shards in {data}"):
                location = shard_location(self.spec.dataset, shard).absolute()
                if isinstance(location, LocalLocation) and not data.is_local:
                    # Shards of several folders may have the same name.
                    target = data / f"{shard.sha256[:16]}-{location.name}"
                    if uploaded.get(target.name) != shard.bytes:
                        target.upload(location.path)
                    location = target
                shards.append(replace(shard, path=str(location)))
            splits[name] = replace(manifest.splits[name], shards=tuple(shards))
        (data / MANIFEST_NAME).write(serialize_manifest(replace(manifest, splits=splits)))
        return [f"--dataset={data / MANIFEST_NAME}"]

    def _follow(self, search: Experiment, reporter: TrialReporter) -> tuple[SearchState, list[Trial]]:
        """Returns the search and its trials when all of them have ended.

        Raises:
            InterruptedRunError: if the Experiment is deleted, or the cluster does not respond for an hour.
            UnavailableError: if the search cannot continue.
        """
        reader = TrialReader(self.spec, self.location, search)
        watch = KatibWatch(search, self.spec.tuning.trial_silence_limit)

        def check(response: tuple[SearchState, list[Trial]]) -> None:
            state, trials = response
            if state.experiment is None or is_being_deleted(state.experiment):
                raise InterruptedRunError(
                    "the experiment was deleted while it ran",
                    where=f"experiment {search.name}",
                    remedy="start the tuning again",
                )
            reporter.update(trials)
            if has_ended(response):
                return
            watch.check(state, trials)

        def has_ended(response: tuple[SearchState, list[Trial]]) -> bool:
            state, trials = response
            # Katib counts a trial that it has stopped before the trial has published its model.
            return bool(
                condition(state.experiment, katib.FAILED)
                or (
                    condition(state.experiment, katib.SUCCEEDED)
                    and all(trial.state != RUNNING for trial in trials)
                )
            )

        def read() -> tuple[SearchState, list[Trial]]:
            state = search.read_state()
            return state, reader.trials_of(state)

        return poll(read, has_ended, on_response=check)


def _create_or_find(search: Experiment, body: Mapping[str, Any]) -> None:
    """Creates the Experiment unless it exists; one that failed is replaced.

    Raises:
        InvalidArgumentError: if the Experiment of this job_dir is another search.
        InterruptedRunError: if the previous Experiment is still being deleted.
    """
    name = body["metadata"]["name"]
    found = search.read()
    if found is not None and condition(found, katib.FAILED) and not is_being_deleted(found):
        log_event(
            "job_replaced",
            f"tune: experiment {search.name} failed before: it is deleted, and the search starts again",
            severity="WARNING",
            step="tune",
            job=name,
        )
        search.delete()
        found = search.read()
    if found is not None and (is_being_deleted(found) or condition(found, katib.FAILED)):
        search.wait_until_deleted()
        found = None
    if found is None and search.create(body):
        log_event("job_created", f"tune: created experiment {search.name}", step="tune", job=name)
    elif not _has_request_of(found or search.read(), body):
        raise InvalidArgumentError(
            "this job_dir was used for another search",
            where=f"experiment {search.name}",
            remedy="give another job_dir, or delete the experiment",
        )


def _end_trials(search: Experiment, state: SearchState) -> None:
    """Deletes the trials that run although their search has failed: Katib leaves them running."""
    for trial in state.trials:
        name = trial["metadata"]["name"]
        pods = state.pods.get(name, [])
        if trial_state(trial) in ("", katib.RUNNING) or any(
            pod.status.phase in ("Pending", "Running") for pod in pods
        ):
            log_event("trial_deleted", f"tune: deleting trial {name}, which is still running", trial=name)
            _delete(functools.partial(search.delete_trial, name), search)


def _delete(delete: Callable[[], None], search: Experiment) -> None:
    """Deletes what runs although its search has ended; reports what must be deleted by hand."""
    try:
        retry(delete)
    except PipelineError as error:
        log_event("not_deleted", f"tune: {error.problem}", severity="WARNING")
        _report_left_running(search)


def _report_left_running(search: Experiment) -> None:
    log_event(
        "job_left_running",
        f"tune: experiment {search.name} may still be running. To end it: {search.delete_command}",
        severity="WARNING",
    )


def _has_request_of(found: Mapping[str, Any] | None, body: Mapping[str, Any]) -> bool:
    annotations = (found or {}).get("metadata", {}).get("annotations") or {}
    return bool(annotations.get(_REQUEST_ANNOTATION) == body["metadata"]["annotations"][_REQUEST_ANNOTATION])


def _failure(state: SearchState, trials: Sequence[Trial], name: str) -> PipelineError:
    """Returns the error of an Experiment that failed."""
    refused = condition(state.suggestion, katib.FAILED)
    if refused:
        return UnavailableError(
            f"Katib refused the search: {refused.get('message') or refused.get('reason')}",
            where=f"experiment {name}",
            remedy="change the setting that the message names; these settings are for Katib 0.19",
        )
    failed = [trial for trial in trials if trial.state == FAILED]
    reason = str((condition(state.experiment, katib.FAILED) or {}).get("message") or "Katib gives no reason")
    if not failed:
        return CheckFailedError(
            f"the experiment failed: {reason}",
            where=f"experiment {name}",
            remedy="see the log of Katib's controller",
        )
    exit_codes = {trial.exit_code for trial in failed}
    last = failed[-1]
    of_last = error_class_of(last.exit_code, CheckFailedError)
    error_class = of_last if len(exit_codes) == 1 and not of_last.retry_can_help else CheckFailedError
    return error_class(
        f"{len(failed)} of {plural(len(trials), 'trial')} failed: {reason}; the last: {last.problem}",
        where=f"experiment {name}",
        remedy="see trials.json for the reason of each; with the same job_dir, the search starts again",
    )


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
