"""The search on Vertex AI: a HyperparameterTuningJob that runs the trials on machines of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imgpipe.components.common.hyperparameters import METRIC
from imgpipe.components.common.log import log_event
from imgpipe.components.custom_job.arguments import CustomJobArguments, RunArguments
from imgpipe.components.custom_job.custom_job import training_command_line, training_job_spec
from imgpipe.components.platforms.vertex.job_requests import digest, tuning_job
from imgpipe.components.platforms.vertex.jobs import TUNING_JOB, failure_of, run_job
from imgpipe.components.storage import parse_location, uri_of_mounted
from imgpipe.components.tune.engines.engine import Report, TuningSpec
from imgpipe.components.tune.engines.remote import typed_values, with_trial_files
from imgpipe.components.tune.engines.reporter import TrialReporter
from imgpipe.components.tune.trials import FAILED, RUNNING, SUCCEEDED, Trial

COMMAND = ("python", "-m", "imgpipe.components.tune.remote_trial")
_STATES = {"SUCCEEDED": SUCCEEDED, "INFEASIBLE": FAILED}


@dataclass(frozen=True)
class VertexSearch:
    """A search by Vertex AI Vizier.

    Attributes:
        spec: What is tuned; the trials' machines see the data and job_dir under the same paths.
        job: The machines and settings of the trials.
        run_arguments: The project, region and images.
        gcp_resources: The output ``gcp_resources``: a job written there is followed, not created again.
        command: The command of a trial.
    """

    spec: TuningSpec
    job: CustomJobArguments
    run_arguments: RunArguments
    gcp_resources: Path
    command: tuple[str, ...] = COMMAND

    def run(self, report: Report) -> Sequence[Trial]:
        """Creates the job, or finds it, and follows it to its end; see ``Engine``.

        Cancels the job if the user cancels the run.
        """
        reporter = TrialReporter(self.spec.request.max_trials, report)
        ended = run_job(
            self.job.location(self.run_arguments),
            TUNING_JOB,
            self.request,
            self.gcp_resources,
            step="tune",
            pipeline_run=self.run_arguments.pipeline_run,
            on_response=lambda job: reporter.update(self.trials_of(job)),
        )
        failure = failure_of(ended)
        if failure is not None:
            raise failure
        return self.trials_of(ended)

    def request(self) -> dict[str, Any]:
        """Returns the request for a HyperparameterTuningJob."""
        if self.spec.request.resume_job:
            log_event(
                "resume_ignored",
                "tune: resumePreviousJobId is ignored: Vertex AI cannot continue a study",
                severity="WARNING",
            )
        tuned = {parameter.name for parameter in self.spec.request.parameters}
        args = training_command_line(
            replace(self.spec.training, job_dir=""),
            self.spec.dataset,
            self.spec.job_dir / "model",
        )
        args = [arg for arg in args if arg[2:].partition("=")[0].replace("-", "_") not in tuned]
        job_dir = uri_of_mounted(str(self.spec.job_dir))
        # Vertex AI creates a folder for every trial below output_uri.
        output_uri = job_dir if job_dir.startswith("gs://") else ""
        return tuning_job(
            "imgpipe-tune",
            training_job_spec(self.job, self.run_arguments, self.command, args, output_uri=output_uri),
            self.spec.request,
            job_label=f"tune-{digest(str(self.spec.job_dir))}",
            **self.job.labels_and_key(self.run_arguments),
        )

    def trials_of(self, job: Any) -> list[Trial]:
        """Returns the trials of a job, with the files that they wrote to job_dir."""
        return [self._trial(trial) for trial in sorted(job.trials, key=lambda trial: int(trial.id))]

    def _trial(self, found: Any) -> Trial:
        values = typed_values(
            self.spec.request, {parameter.parameter_id: parameter.value for parameter in found.parameters}
        )
        state = _STATES.get(found.state.name, RUNNING)
        trial = with_trial_files(
            Trial(
                id=int(found.id),
                values=values,
                state=state,
                max_steps=int(values.get("max_steps", self.spec.training.max_steps)),
                evaluations=tuple(_evaluation(measurement) for measurement in found.measurements),
                problem=found.infeasible_reason if state == FAILED else "",
                started=_time(found.start_time),
                ended=_time(found.end_time),
            ),
            parse_location(self.spec.job_dir),
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
    value = next(metric.value for metric in measurement.metrics if metric.metric_id == METRIC)
    return {"step": int(measurement.step_count), METRIC: float(value)}


def _time(timestamp: Any) -> str:
    return timestamp.isoformat() if timestamp else ""
