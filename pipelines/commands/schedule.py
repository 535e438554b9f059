"""schedule: runs of the pipeline that start by themselves."""

import re
from typing import Any

import click

from components.common.errors import InvalidArgumentError
from pipelines.commands.check import check_submission
from pipelines.commands.output import errors_told, format_option, notice, show_many, show_one
from pipelines.commands.places import place_options, schedules_of
from pipelines.commands.submission import submission_of, submission_options, tell_notices
from pipelines.targets.kubeflow_jobs import KubeflowJobs
from pipelines.targets.vertex_jobs import VertexJobs

# Smallest and largest number of each field, in their order.
_FIELDS = {
    "minute": (0, 59),
    "hour": (0, 23),
    "day of month": (1, 31),
    "month": (1, 12),
    "day of week": (0, 7),
}
_TERM = re.compile(r"(?:\*|(\d+)(?:-(\d+))?)(?:/(\d+))?")

_EXAMPLES = """
\b
Examples:
  imgpipe schedule create nightly --cron '0 3 * * *' --target vertex --region us-central1 \\
    --as pipeline --pipeline-root gs://bucket/pipelines -- --images=gs://bucket/flowers
  imgpipe schedule list --target vertex --region us-central1
  imgpipe schedule pause nightly --target kubeflow --host http://localhost:8080
"""


@click.group(epilog=_EXAMPLES)
def schedule() -> None:
    """Start runs of the pipeline by the clock: create, list, pause, resume, delete."""


@schedule.command(epilog=_EXAMPLES)
@click.argument("name")
@click.option(
    "--cron",
    required=True,
    help="When, in five fields: minute, hour, day of month, month, day of week; in UTC. '0 3 * * 1' is "
    "Mondays at three.",
)
@place_options
@submission_options
@click.option("--check/--no-check", default=True, help="Run `imgpipe check` first.")
@format_option
@errors_told
def create(
    name: str,
    cron: str,
    place: dict[str, Any],
    words: tuple[str, ...],
    check: bool,
    output_format: str,
    **options: Any,
) -> None:
    """Start a run of the pipeline NAME by the clock.

    Everything is as for submit, with the training's arguments after `--`. Two runs are never at work at the
    same time, and runs that were missed are not made up for.
    """
    check_cron(cron)
    options["form"] = "pipeline"
    submission = submission_of(place, options, [name, *words])
    tell_notices(submission)
    schedules = schedules_of(place)
    if check:
        check_submission(submission, place)
    if isinstance(schedules, KubeflowJobs):
        with submission.file() as file:
            made = schedules.create_schedule(
                name,
                cron,
                submission.parameters,
                file,
                service_account=submission.service_account,
                pipeline_root=submission.pipeline_root,
            )
    else:
        assert isinstance(schedules, VertexJobs)  # noqa: S101 - there is no other
        made = schedules.create_schedule(name, cron, submission.pipeline_job())
    show_one(
        {"name": made.name, "state": made.state, "cron": made.cron, "resource": made.resource}, output_format
    )


@schedule.command("list", epilog=_EXAMPLES)
@place_options
@format_option
@errors_told
def list_(place: dict[str, Any], output_format: str) -> None:
    """List the schedules of imgpipe's pipeline."""
    columns = ("name", "state", "cron", "next_run", "last_job")
    show_many(schedules_of(place).list_schedules(), columns, output_format)


@schedule.command(epilog=_EXAMPLES)
@click.argument("name")
@place_options
@errors_told
def pause(name: str, place: dict[str, Any]) -> None:
    """Start no more runs of NAME until it is resumed; a run that is at work goes on."""
    schedules_of(place).pause_schedule(name)
    notice(f"{name} is paused; `imgpipe schedule resume {name}` starts it again")


@schedule.command(epilog=_EXAMPLES)
@click.argument("name")
@place_options
@errors_told
def resume(name: str, place: dict[str, Any]) -> None:
    """Start runs of NAME again, without those that were missed."""
    schedules_of(place).resume_schedule(name)
    notice(f"{name} is active")


@schedule.command(epilog=_EXAMPLES)
@click.argument("name")
@place_options
@errors_told
def delete(name: str, place: dict[str, Any]) -> None:
    """Remove NAME; runs that it has started stay."""
    schedules_of(place).delete_schedule(name)
    notice(f"{name} is deleted")


def check_cron(cron: str) -> None:
    """Refuses what is no cron expression of five fields.

    Raises:
        InvalidArgumentError: naming the field that is wrong.
    """
    remedy = "write five fields: minute hour day-of-month month day-of-week, e.g. '0 3 * * 1'"
    fields = cron.split()
    if len(fields) != len(_FIELDS):
        raise InvalidArgumentError(f"--cron={cron!r} has {len(fields)} fields, not five", remedy=remedy)
    for text, (name, (smallest, largest)) in zip(fields, _FIELDS.items(), strict=True):
        for term in text.split(","):
            match = _TERM.fullmatch(term)
            numbers = [int(number) for number in (match.group(1), match.group(2)) if number] if match else []
            if not match or any(not smallest <= number <= largest for number in numbers):
                raise InvalidArgumentError(
                    f"--cron={cron!r}: {term!r} is not a {name} ({smallest} to {largest}, or *)",
                    remedy=remedy,
                )
