"""The search on Vertex AI: a HyperparameterTuningJob, whose trials run on machines rented for them."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imgpipe.components.common.hyperparameters import METRIC
from imgpipe.components.common.log import log_event
from imgpipe.components.custom_job.arguments import CustomJobArguments, RunArguments
from imgpipe.components.custom_job.custom_job import custom_job_body, training_words
from imgpipe.components.platforms.vertex.client import service_client
from imgpipe.components.platforms.vertex.follow import follow_job
from imgpipe.components.platforms.vertex.jobs import (
    JOB_LABEL,
    REQUEST_LABEL,
    RUN_LABEL,
    TUNING_JOB,
    failure_of,
    start_job,
)
from imgpipe.components.platforms.vertex.resources import read_job, write_job
from imgpipe.components.platforms.vertex.study_spec import study_spec
from imgpipe.components.tune.engines.engine import Report, TuningSpec
from imgpipe.components.tune.engines.remote import TrialReporter, typed_values, with_trial_files
from imgpipe.components.tune.trials import FAILED, RUNNING, SUCCEEDED, Trial

COMMAND = ("python", "-m", "imgpipe.components.tune.remote_trial")
_STATES = {"SUCCEEDED": SUCCEEDED, "INFEASIBLE": FAILED}


@dataclass(frozen=True)
class VertexSearch:
    """A search by Vertex AI's Vizier.

    Attributes:
        spec: What is tuned on what; the trials' machines see data and job_dir under the same paths.
        job: On what the trials run.
        place: Project, region and images.
        resources: The output ``gcp_resources``: a job that is written there is followed, not started again.
        command: Of a trial.
        first_pause: Seconds before the second question to Vertex AI.
    """

    spec: TuningSpec
    job: CustomJobArguments
    place: RunArguments
    resources: Path
    command: tuple[str, ...] = COMMAND
    first_pause: float = 1.0

    def run(self, report: Report) -> Sequence[Trial]:
        """Starts the job, or finds it again, and follows it to its end; see ``Engine``.

        If the step is told to stop, the job is cancelled.
        """
        new_client = functools.partial(
            service_client, "JobServiceClient", self.place.region, self.job.vertex_endpoint
        )
        client = new_client()
        name = read_job(self.resources)
        if not name:
            if self.spec.request.resume_job:
                log_event(
                    "resume_ignored",
                    "tune: resumePreviousJobId is ignored: Vertex AI cannot continue a study",
                    severity="WARNING",
                )
            parent = f"projects/{self.place.project}/locations/{self.place.region}"
            started, _ = start_job(client, parent, TUNING_JOB, self.body())
            name = started.name
            write_job(self.resources, TUNING_JOB.name, name)
        log_event("job_started", f"tune: following {name}", step="tune", job=name)
        reporter = TrialReporter(self.spec.request, report)
        ended = follow_job(
            new_client,
            name,
            step="tune",
            on_response=lambda job: reporter.update(self.trials_of(job)),
            first_pause=self.first_pause,
        )
        failure = failure_of(ended)
        if failure is not None:
            raise failure
        return self.trials_of(ended)

    def body(self) -> dict[str, Any]:
        """Returns the request for a HyperparameterTuningJob in the JSON form of Vertex AI's REST API."""
        tuned = {parameter.name for parameter in self.spec.request.parameters}
        fixed = training_words(
            replace(self.spec.training, job_dir=""),
            self.spec.manifest,
            self.spec.dataset,
            self.spec.job_dir / "model",
        )
        words = [word for word in fixed if word[2:].partition("=")[0].replace("-", "_") not in tuned]
        alone = custom_job_body(self.job, self.place, words, self.spec.job_dir / "model")
        spec = alone["jobSpec"]
        for pool in spec["workerPoolSpecs"]:
            pool["containerSpec"]["command"] = list(self.command)
        # Vertex AI gives every trial a folder of its own below it.
        prefix = str(self.spec.job_dir).replace("/gcs/", "gs://", 1)
        if prefix.startswith("gs://"):
            spec["baseOutputDirectory"] = {"outputUriPrefix": prefix}
        request = self.spec.request
        body: dict[str, Any] = {
            "displayName": "imgpipe-tune",
            "studySpec": study_spec(request),
            "maxTrialCount": request.max_trials,
            "parallelTrialCount": request.max_parallel_trials,
            "trialJobSpec": spec,
        }
        if request.max_failed_trials:
            body["maxFailedTrialCount"] = request.max_failed_trials
        if "encryptionSpec" in alone:
            body["encryptionSpec"] = alone["encryptionSpec"]
        body["labels"] = {
            **self.job.job_labels(),
            # By it the lines of the trials are found as those of the pipeline's run.
            **({RUN_LABEL: alone["labels"][RUN_LABEL]} if RUN_LABEL in alone["labels"] else {}),
            JOB_LABEL: f"tune-{_digest(str(self.spec.job_dir))}",
            REQUEST_LABEL: _digest(json.dumps(body, sort_keys=True)),
        }
        return body

    def trials_of(self, job: Any) -> list[Trial]:
        """Returns the trials of a job as it stands now, with what they wrote into job_dir."""
        return [self._trial(trial) for trial in sorted(job.trials, key=lambda one: int(one.id))]

    def _trial(self, found: Any) -> Trial:
        given = {one.parameter_id: one.value for one in found.parameters}
        values = typed_values(self.spec.request, given)
        state = _STATES.get(found.state.name, RUNNING)
        trial = with_trial_files(
            Trial(
                id=int(found.id),
                values=values,
                state=state,
                max_steps=int(values.get("max_steps", self.spec.training.max_steps)),
                evaluations=tuple(_evaluation(one) for one in found.measurements),
                problem=found.infeasible_reason if state == FAILED else "",
                started=_time(found.start_time),
                ended=_time(found.end_time),
            ),
            str(self.spec.job_dir),
            found.id,
        )
        if state == SUCCEEDED and self.spec.request.early_stopping and 0 < trial.steps < trial.max_steps:
            return replace(
                trial,
                stop_reason=f"Vertex AI's median rule stopped it at step {trial.steps:,} of "
                f"{trial.max_steps:,}, its best {trial.best_so_far:.4f}",
            )
        return trial


def _evaluation(measurement: Any) -> Mapping[str, Any]:
    value = next(one.value for one in measurement.metrics if one.metric_id == METRIC)
    return {"step": int(measurement.step_count), METRIC: float(value)}


def _time(stamp: Any) -> str:
    return stamp.isoformat() if stamp else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
