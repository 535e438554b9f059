"""submit and migrate: AI Platform's command line and config.yaml, for the current platforms."""

from pathlib import Path
from typing import Any

import click

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.pipelines.commands.check import check_submission
from imgpipe.pipelines.commands.grouped_options import RUNNING, option
from imgpipe.pipelines.commands.job_options import (
    JobCommand,
    read_config,
    submission_control_options,
    submission_options,
)
from imgpipe.pipelines.commands.jobs import print_logs
from imgpipe.pipelines.commands.output import exit_on_error, format_option, notice, show_one
from imgpipe.pipelines.commands.submission import (
    Submission,
    plan_submission,
    print_notices,
    submission_of,
)
from imgpipe.pipelines.commands.target_options import TARGETS, Jobs, TargetOptions, jobs_of, target_options
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.jobs import Job
from imgpipe.pipelines.targets.kubeflow_jobs import KubeflowJobs
from imgpipe.pipelines.targets.local_jobs import LocalJobs
from imgpipe.pipelines.training_input import with_overrides

_EXAMPLES = """
\b
Examples:
  The command line of gcloud ai-platform jobs submit training, with its config.yaml:
    imgpipe submit flowers_1 --target vertex --region us-central1 --config config.yaml -- \\
      --training_data_path='gs://bucket/train-*' --validation_data_path='gs://bucket/validation-*' \\
      --job-dir=gs://bucket/flowers_1 --num_classes=5 --max_steps=30000
  Print the request without sending it:
    imgpipe submit flowers_1 --target vertex --dry-run ...
  All steps from the images to the checked model:
    imgpipe submit flowers_2 --target vertex --as pipeline --pipeline-root gs://bucket/pipelines -- \\
      --images=gs://bucket/flowers --max_steps=30000
  On Kubeflow, on selected nodes, with inputs that only this target has:
    imgpipe submit flowers_4 --target kubeflow --host http://localhost:8080 \\
      --input train_memory=32G --input 'train_node_selector={"pool": "training"}' -- \\
      --images=gs://bucket/flowers --max_steps=30000
  On this machine, in the background:
    imgpipe submit flowers_3 -- --images=flowers --max_steps=1000
\b
The same command again finds the job: a job id is never started twice.
Exit status: 0 if the job was started or found, and with --stream-logs 76 if it failed; otherwise see
`imgpipe run --help`.
"""


@click.command(
    cls=JobCommand, epilog=_EXAMPLES, short_help="Start a job with the options of gcloud ai-platform."
)
@target_options
@submission_options
@submission_control_options
@option(
    "--stream-logs", "follow", group=RUNNING, is_flag=True, help="Print the job's log until it has ended."
)
@option(
    "--async", "asynchronous", group=RUNNING, is_flag=True, help="Return immediately, which is the default."
)
@format_option
@exit_on_error
def submit(
    target: TargetOptions,
    arguments: tuple[str, ...],
    dry_run: bool,
    check: bool,
    follow: bool,
    asynchronous: bool,
    output_format: str,
    **options: Any,
) -> None:
    """Start a training job with the options of gcloud ai-platform jobs submit training.

    Give the training arguments after `--`. The job continues when this command ends.
    """
    submission = submission_of(target, options, arguments)
    if follow and (dry_run or asynchronous):
        reason = "--dry-run sends nothing" if dry_run else "--async returns immediately"
        notice(f"--stream-logs is ignored: {reason}")
    print_notices(submission)
    if dry_run:
        show_one(submission.shown(), "yaml" if output_format == "table" else output_format)
        return
    jobs = jobs_of(target, submission.job.config.region)
    if check:
        check_submission(submission, target)
    # Printed first, so that the job can be found if this command is killed now.
    notice(f"job id: {submission.job.job_id}")
    job, found = send(jobs, submission)
    if found:
        notice("the job already exists; nothing was started")
    show_one({"job_id": job.job_id, "state": job.state, "kind": job.kind, "name": job.name}, output_format)
    if follow and not asynchronous:
        # With --format json or yaml, stdout has only the result.
        print_logs(jobs, submission.job.job_id, follow=True, to_stderr=output_format != "table")


def send(jobs: Jobs, submission: Submission) -> tuple[Job, bool]:
    """Starts the job if it does not exist yet; returns it and whether it already existed.

    Raises:
        PipelineError: if the target rejects it.
    """
    if isinstance(jobs, LocalJobs):
        return jobs.submit(submission.job.job_id, submission.parameters, retrain=submission.retrain)
    if isinstance(jobs, KubeflowJobs):
        with submission.run_request() as request:
            return jobs.submit(submission.job.job_id, request)
    if submission.request is not None:
        return jobs.submit(*submission.request)
    return jobs.submit_pipeline(submission.pipeline_job())


@click.command(
    epilog="""
\b
Examples:
  imgpipe migrate config.yaml
  imgpipe migrate config.yaml --target kubeflow
""",
    short_help="Convert AI Platform's config.yaml and print the result.",
)
@click.argument("config_file", metavar="CONFIG.YAML", type=click.Path(path_type=Path))
@click.option(
    "--target", type=click.Choice(TARGETS), default="vertex", show_default=True, help="The new platform."
)
@format_option
@exit_on_error
def migrate(config_file: Path, target: str, output_format: str) -> None:
    """Convert AI Platform's CONFIG.YAML to a request, and print it with the fields that are ignored.

    `imgpipe submit` takes the file unchanged, with the training arguments on its command line. Here,
    arguments that are not in the file are printed as placeholders.
    """
    config = read_config(config_file)
    placeholders = {
        "training_data_path": "gs://BUCKET/train-*",
        "validation_data_path": "gs://BUCKET/validation-*",
        "job_dir": config.job_dir or ("/FOLDER/JOB_ID" if target == "local" else "gs://BUCKET/JOB_ID"),
    }
    given = {argument[2:].partition("=")[0].replace("-", "_") for argument in config.arguments}
    arguments = [f"--{name}={value}" for name, value in placeholders.items() if name not in given]
    if not config.region and target == "vertex":
        config = with_overrides(config, {"region": "us-central1"})
        notice("the file has no region: us-central1 is a placeholder")
    form = "job" if target == "vertex" else "pipeline"
    try:
        submission = plan_submission(
            config.job_id or "JOB_ID", arguments, config, target=target, form=form, images=Images()
        )
    except InvalidArgumentError as error:
        has_file = str(config_file) in error.where
        where = error.where if has_file else ", ".join(filter(None, (str(config_file), error.where)))
        raise InvalidArgumentError(error.problem, where=where, remedy=error.remedy) from None
    print_notices(submission)
    show_one(submission.shown(), "yaml" if output_format == "table" else output_format)
