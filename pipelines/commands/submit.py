"""submit and migrate: AI Platform's command line and config.yaml, for today's platforms."""

from pathlib import Path
from typing import Any

import click

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.pipelines.commands.check import check_submission
from imgpipe.pipelines.commands.job_options import JobCommand, read_config, submission_options
from imgpipe.pipelines.commands.jobs import print_logs
from imgpipe.pipelines.commands.output import exit_on_error, format_option, notice, show_one
from imgpipe.pipelines.commands.submission import (
    Submission,
    planned,
    submission_of,
    tell_notices,
)
from imgpipe.pipelines.commands.target_options import TARGETS, jobs_of, place_options
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.jobs import Job, Jobs
from imgpipe.pipelines.targets.kubeflow_jobs import KubeflowJobs
from imgpipe.pipelines.targets.local_jobs import LocalJobs
from imgpipe.pipelines.targets.vertex_jobs import VertexJobs
from imgpipe.pipelines.training_input import with_flags

_EXAMPLES = """
\b
Examples:
  The line of gcloud ai-platform jobs submit training, with its config.yaml:
    imgpipe submit flowers_1 --target vertex --region us-central1 --config config.yaml -- \\
      --training_data_path='gs://bucket/train-*' --validation_data_path='gs://bucket/validation-*' \\
      --job-dir=gs://bucket/flowers_1 --num_classes=5 --max_steps=30000
  What would be sent, and nothing sent:
    imgpipe submit flowers_1 --target vertex --dry-run ...
  All steps from the images to the checked model:
    imgpipe submit flowers_2 --target vertex --as pipeline --pipeline-root gs://bucket/pipelines -- \\
      --images=gs://bucket/flowers --max_steps=30000
  On Kubeflow, on nodes of one kind, with what only that target's form asks for:
    imgpipe submit flowers_4 --target kubeflow --host http://localhost:8080 \\
      --input train_memory=32G --input 'train_node_selector={"pool": "training"}' -- \\
      --images=gs://bucket/flowers --max_steps=30000
  On this machine, in the background:
    imgpipe submit flowers_3 -- --images=flowers --max_steps=1000
\b
The same line again finds the job: nothing is started twice under one job id.
Exit status: 0 if the job was started or found, and with --stream-logs 76 if it failed; otherwise as
`imgpipe run --help` says.
"""


@click.command(cls=JobCommand, epilog=_EXAMPLES)
@place_options
@submission_options
@click.option("--dry-run", is_flag=True, help="Print the request that would be sent, and send nothing.")
@click.option("--check/--no-check", default=True, help="Run `imgpipe check` first.")
@click.option("--stream-logs", "follow", is_flag=True, help="Print what the job writes until it has ended.")
@click.option("--async", "asynchronous", is_flag=True, help="Return at once: as it does in any case.")
@format_option
@exit_on_error
def submit(
    place: dict[str, Any],
    words: tuple[str, ...],
    dry_run: bool,
    check: bool,
    follow: bool,
    asynchronous: bool,
    output_format: str,
    **options: Any,
) -> None:
    """Start a training: the line of gcloud ai-platform jobs submit training, as it is.

    Give the training's own arguments after `--`. The job goes on when this command ends.
    """
    submission = submission_of(place, options, words)
    if follow and (dry_run or asynchronous):
        reason = "--dry-run sends nothing" if dry_run else "--async returns at once"
        notice(f"--stream-logs is ignored: {reason}")
    tell_notices(submission)
    if dry_run:
        show_one(submission.shown(), "yaml" if output_format == "table" else output_format)
        return
    jobs = jobs_of(place, submission.job.config.region)
    if check:
        check_submission(submission, place)
    # Before anything is sent: who kills this command now, knows the name under which the job will be found.
    notice(f"job id: {submission.job.job_id}")
    job, found = send(jobs, submission)
    if found:
        notice("it was submitted before: nothing was started")
    show_one({"job_id": job.job_id, "state": job.state, "kind": job.kind, "name": job.name}, output_format)
    if follow and not asynchronous:
        # stdout is for the answer where a program reads it.
        print_logs(jobs, submission.job.job_id, follow=True, to_stderr=output_format != "table")


def send(jobs: Jobs, submission: Submission) -> tuple[Job, bool]:
    """Starts the job, unless it was started before; returns it and whether it was found.

    Raises:
        PipelineError: as the target refuses.
    """
    if isinstance(jobs, LocalJobs):
        return jobs.submit(submission.job.job_id, submission.parameters, retrain=submission.retrain)
    if isinstance(jobs, KubeflowJobs):
        with submission.run_request() as request:
            return jobs.submit(submission.job.job_id, request)
    assert isinstance(jobs, VertexJobs)  # noqa: S101 - there is no other
    if submission.request is not None:
        return jobs.submit(submission.request)
    return jobs.submit_pipeline(submission.pipeline_job())


@click.command(
    epilog="""
\b
Examples:
  imgpipe migrate config.yaml
  imgpipe migrate config.yaml --target kubeflow
"""
)
@click.argument("config_file", metavar="CONFIG.YAML", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(TARGETS), default="vertex", show_default=True, help="For which.")
@format_option
@exit_on_error
def migrate(config_file: Path, target: str, output_format: str) -> None:
    """Print what AI Platform's CONFIG.YAML becomes: machines, tuning, and what is ignored.

    The training's arguments stand on the command line of `imgpipe submit`, which takes the file as it is;
    what is printed here has placeholders for those that the file leaves open.
    """
    config = read_config(config_file)
    placeholders = {
        "training_data_path": "gs://BUCKET/train-*",
        "validation_data_path": "gs://BUCKET/validation-*",
        "job_dir": config.job_dir or ("/FOLDER/JOB_ID" if target == "local" else "gs://BUCKET/JOB_ID"),
    }
    given = {word[2:].partition("=")[0].replace("-", "_") for word in config.arguments}
    words = [f"--{name}={value}" for name, value in placeholders.items() if name not in given]
    if not config.region and target == "vertex":
        config = with_flags(config, {"region": "us-central1"})
        notice("no region is in the file: us-central1 stands for yours")
    form = "job" if target == "vertex" else "pipeline"
    try:
        submission = planned(
            config.job_id or "JOB_ID", words, config, target=target, form=form, images=Images()
        )
    except InvalidArgumentError as error:
        named = str(config_file) in error.where
        where = error.where if named else ", ".join(filter(None, (str(config_file), error.where)))
        raise InvalidArgumentError(error.problem, where=where, remedy=error.remedy) from None
    tell_notices(submission)
    show_one(submission.shown(), "yaml" if output_format == "table" else output_format)
