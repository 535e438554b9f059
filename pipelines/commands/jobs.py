"""describe, list, stream-logs and cancel: the same verbs for every target."""

import dataclasses
import sys
from pathlib import Path

import click

from imgpipe.components.common.errors import CheckFailedError, InvalidArgumentError
from imgpipe.pipelines.commands.grouped_options import IGNORED, RUNNING, GroupedCommand, option
from imgpipe.pipelines.commands.output import (
    exit_on_error,
    format_option,
    is_output_closed,
    notice,
    show_many,
    show_one,
    show_rows,
)
from imgpipe.pipelines.commands.target_options import Jobs, TargetOptions, jobs_of, target_options
from imgpipe.pipelines.targets.jobs import ENDED, Job
from imgpipe.pipelines.targets.vertex_jobs import VertexJobs

_EXAMPLES = """
\b
Examples:
  imgpipe {command}
  imgpipe {command} --target vertex --project my-project --region us-central1
  imgpipe {command} --target kubeflow --host http://localhost:8080
"""


@click.command(
    cls=GroupedCommand,
    epilog=_EXAMPLES.replace("{command}", "describe flowers_1"),
    short_help="Show the state of a job and why it failed.",
)
@click.argument("job")
@target_options
@option("--summarize", group=IGNORED, is_flag=True)
@format_option
@exit_on_error
def describe(job: str, target: TargetOptions, summarize: bool, output_format: str) -> None:
    """Show the state of JOB, of its steps or trials, and why it failed.

    JOB is the job id given to submit, or the target's own name of the job. The exit status is 0 even if the
    job failed: the state shows it.
    """
    if summarize:
        notice("--summarize is ignored: the table is a summary; --format json has every field")
    show_one(dataclasses.asdict(jobs_of(target).describe(job)), output_format)


@click.command(
    "list",
    cls=GroupedCommand,
    epilog=_EXAMPLES.replace("{command}", "list"),
    short_help="List the newest jobs.",
)
@target_options
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Maximum number of jobs."
)
# Only for an error that says what to do.
@option("--filter", "expression", group=RUNNING, hidden=True)
@format_option
@exit_on_error
def list_(target: TargetOptions, limit: int, expression: str, output_format: str) -> None:
    """List the newest jobs that imgpipe started, newest first; on this machine with their accuracy."""
    if expression:
        # Ignoring it would list the wrong jobs.
        raise InvalidArgumentError(
            f"--filter={expression!r} is an expression of gcloud, which imgpipe does not read",
            remedy="filter the list yourself, e.g. imgpipe list --limit 1000 --format json | jq "
            "'.[] | select(.state == \"FAILED\")'",
        )
    jobs = jobs_of(target).list_jobs(limit)
    if target.name == "local" and output_format == "table":
        columns = ("JOB ID", "STATE", "CREATED", "ACCURACY", "DATA", "ARGUMENTS")
        show_rows([_listed_run(job) for job in jobs], columns, output_format)
    else:
        namespace = ("namespace",) if any(job.namespace for job in jobs) else ()
        show_many(jobs, ("job_id", *namespace, "kind", "state", "created", "ended"), output_format)


def _listed_run(job: Job) -> list[str]:
    """Returns the row of a run on this machine."""
    accuracy = job.details.get("accuracy")
    arguments = job.details.get("arguments", {})
    return [
        job.job_id,
        job.state,
        # Times have no fractions of seconds, paths in the current folder are relative.
        job.created[:19],
        "" if accuracy is None else f"{accuracy:.4f}",
        job.details.get("data", "").replace(f"{Path.cwd()}/", ""),
        " ".join(f"{name}={value}" for name, value in arguments.items()),
    ]


@click.command(
    "stream-logs", cls=GroupedCommand, epilog=_EXAMPLES.replace("{command}", "stream-logs flowers_1")
)
@click.argument("job")
@target_options
@click.option("--follow/--no-follow", default=True, show_default=True, help="Continue until JOB has ended.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="local, kubeflow: also the lines of KFP and of libraries.",
)
@option("--polling-interval", group=IGNORED, type=float, default=None)
@exit_on_error
def stream_logs(
    job: str, target: TargetOptions, follow: bool, everything: bool, polling_interval: float | None
) -> None:
    """Print a job's log from its start until the job has ended.

    Ctrl-C stops the printing, not the job. The exit status is 0 if the job succeeded or is still running, and
    76 if it failed or was cancelled.
    """
    if polling_interval is not None:
        notice("--polling-interval is ignored: imgpipe polls for new lines every 1 to 30 seconds")
    print_logs(jobs_of(target), job, follow=follow, everything=everything)


def print_logs(
    jobs: Jobs, job: str, *, follow: bool, everything: bool = False, to_stderr: bool = False
) -> None:
    """Prints the log of a job.

    Raises:
        CheckFailedError: if it failed or was cancelled.
    """
    try:
        options = {} if isinstance(jobs, VertexJobs) else {"everything": everything}
        for line in jobs.logs(job, follow=follow, **options):
            click.echo(line, err=to_stderr)
            if not to_stderr and is_output_closed():
                return
    except KeyboardInterrupt:
        click.echo(f"the job is still running; `imgpipe stream-logs {job}` shows its log again", err=True)
        sys.exit(0)
    ended = jobs.describe(job)
    if ended.state in ("FAILED", "CANCELLED"):
        raise CheckFailedError(
            f"{job} is {ended.state}{': ' if ended.error else ''}{ended.error}",
            where=ended.name,
            remedy="see the log above; `imgpipe describe` names the step",
        )


@click.command(
    cls=GroupedCommand,
    epilog=_EXAMPLES.replace("{command}", "cancel flowers_1"),
    short_help="Stop a job.",
)
@click.argument("job")
@target_options
@exit_on_error
def cancel(job: str, target: TargetOptions) -> None:
    """Stop JOB and what it has started; nothing happens if it has ended."""
    jobs = jobs_of(target)
    state = jobs.describe(job).state
    if state in ENDED:
        notice(f"{job} has already ended; nothing was cancelled")
    elif state == "CANCELLING":
        notice(f"{job} is already being cancelled")
    else:
        jobs.cancel(job)
    state = jobs.describe(job).state
    # The target may not say so yet.
    click.echo(f"{job}: {state if state in ENDED else 'CANCELLING'}")
