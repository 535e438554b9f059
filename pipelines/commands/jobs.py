"""describe, list, stream-logs and cancel: the same verbs for every target."""

import dataclasses
import sys
from typing import Any

import click

from imgpipe.components.common.errors import CheckFailedError
from imgpipe.pipelines.commands.output import exit_on_error, format_option, notice, show_many, show_one
from imgpipe.pipelines.commands.target_options import jobs_of, place_options
from imgpipe.pipelines.targets.jobs import ENDED, Jobs

_EXAMPLES = """
\b
Examples:
  imgpipe {command}
  imgpipe {command} --target vertex --project my-project --region us-central1
  imgpipe {command} --target kubeflow --host http://localhost:8080
"""


@click.command(epilog=_EXAMPLES.replace("{command}", "describe flowers_1"))
@click.argument("job")
@place_options
@format_option
@exit_on_error
def describe(job: str, place: dict[str, Any], output_format: str) -> None:
    """Show the state of JOB, of its steps or trials, and why it failed.

    JOB is the job id that was given to submit, or the target's own name for it. The exit status is 0 also for
    a job that has failed: the state says so.
    """
    show_one(dataclasses.asdict(jobs_of(place).describe(job)), output_format)


@click.command("list", epilog=_EXAMPLES.replace("{command}", "list"))
@place_options
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many.")
@format_option
@exit_on_error
def list_(place: dict[str, Any], limit: int, output_format: str) -> None:
    """List the newest jobs that imgpipe started, newest first."""
    columns = ("job_id", "kind", "state", "created", "ended")
    show_many(jobs_of(place).list_jobs(limit), columns, output_format)


@click.command("stream-logs", epilog=_EXAMPLES.replace("{command}", "stream-logs flowers_1"))
@click.argument("job")
@place_options
@click.option(
    "--follow/--no-follow", default=True, show_default=True, help="Wait for more until JOB has ended."
)
@exit_on_error
def stream_logs(job: str, place: dict[str, Any], follow: bool) -> None:
    """Print what JOB writes, from its beginning, until it has ended.

    Ctrl-C ends the printing, not the job. The exit status is 0 if the job succeeded or is still at work, and
    76 if it failed or was cancelled.
    """
    print_logs(jobs_of(place), job, follow=follow)


def print_logs(jobs: Jobs, job: str, *, follow: bool, to_stderr: bool = False) -> None:
    """Prints what a job writes and says how it ended.

    Raises:
        CheckFailedError: if it failed or was cancelled.
    """
    try:
        for line in jobs.logs(job, follow=follow):
            click.echo(line, err=to_stderr)
    except KeyboardInterrupt:
        click.echo(f"the job goes on; `imgpipe stream-logs {job}` shows it again", err=True)
        sys.exit(0)
    ended = jobs.describe(job)
    if ended.state in ("FAILED", "CANCELLED"):
        raise CheckFailedError(
            f"{job} is {ended.state}{': ' if ended.error else ''}{ended.error}",
            where=ended.name,
            remedy="the lines above say more; `imgpipe describe` names the step",
        )


@click.command(epilog=_EXAMPLES.replace("{command}", "cancel flowers_1"))
@click.argument("job")
@place_options
@exit_on_error
def cancel(job: str, place: dict[str, Any]) -> None:
    """Stop JOB and what it has started; a job that has ended is left alone."""
    jobs = jobs_of(place)
    if jobs.describe(job).state in ENDED:
        notice(f"{job} had ended before: nothing was cancelled")
    else:
        jobs.cancel(job)
    click.echo(f"{job}: {jobs.describe(job).state}")
