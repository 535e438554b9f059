"""schedule: runs of the pipeline that start by themselves."""

from typing import Any

import click

from imgpipe.pipelines.ai_platform import check_job_id
from imgpipe.pipelines.commands.check import check_submission
from imgpipe.pipelines.commands.job_options import JobCommand, schedule_options
from imgpipe.pipelines.commands.output import exit_on_error, format_option, notice, show_many, show_one
from imgpipe.pipelines.commands.submission import Submission, submission_of, tell_notices
from imgpipe.pipelines.commands.target_options import check_has_schedules, place_options, schedules_of
from imgpipe.pipelines.cron import check_cron
from imgpipe.pipelines.targets.kubeflow_requests import recurrence
from imgpipe.pipelines.targets.kubeflow_schedules import KubeflowSchedules
from imgpipe.pipelines.targets.vertex_jobs import VertexJobs, schedule_body

_EXAMPLES = """
\b
Examples:
  imgpipe schedule create nightly --cron '0 3 * * *' --target vertex --region us-central1 \\
    --as pipeline --pipeline-root gs://bucket/pipelines -- --images=gs://bucket/flowers
  What would be sent, and nothing sent:
    imgpipe schedule create nightly --cron '0 3 * * *' --dry-run ...
  imgpipe schedule list --target vertex --region us-central1
  imgpipe schedule pause nightly --target kubeflow --host http://localhost:8080
"""


@click.group(epilog=_EXAMPLES)
def schedule() -> None:
    """Start runs of the pipeline by the clock: create, list, pause, resume, delete."""


@schedule.command(cls=JobCommand, epilog=_EXAMPLES)
@click.argument("name")
@click.option(
    "--cron",
    required=True,
    help="When, in five fields: minute, hour, day of month, month, day of week (Sunday is 0); in UTC. "
    "'0 3 * * 1' is Mondays at three; on Vertex AI also 'TZ=Europe/Berlin 0 3 * * 1'.",
)
@place_options
@schedule_options
@click.option("--dry-run", is_flag=True, help="Print the request that would be sent, and send nothing.")
@click.option("--check/--no-check", default=True, help="Run `imgpipe check` first.")
@format_option
@exit_on_error
def create(
    name: str,
    cron: str,
    place: dict[str, Any],
    words: tuple[str, ...],
    dry_run: bool,
    check: bool,
    output_format: str,
    **options: Any,
) -> None:
    """Start a run of the pipeline NAME by the clock.

    Everything is as for submit, with the training's arguments after `--`. Two runs are never at work at the
    same time, and runs that were missed are not made up for.
    """
    check_has_schedules(place)
    check_job_id(name, "the schedule's name")
    check_cron(cron, zone_allowed=place["target"] == "vertex")
    options["form"] = "pipeline"
    submission = submission_of(place, options, [name, *words])
    tell_notices(submission)
    for argument in ("job_dir", "output_dir"):
        if folder := submission.job.values.get(argument):
            notice(
                f"{argument}={folder} is the same for every run: the second finds there what the first one "
                f"left, and refuses it if the data has changed; leave {argument} out"
            )
    if dry_run:
        shown = _shown(name, cron, submission, place)
        show_one(shown, "yaml" if output_format == "table" else output_format)
        return
    schedules = schedules_of(place, submission.job.config.region)
    if check:
        check_submission(submission, place)
    if isinstance(schedules, KubeflowSchedules):
        with submission.run_request() as request:
            made, found = schedules.create_schedule(name, cron, request)
    else:
        assert isinstance(schedules, VertexJobs)  # noqa: S101 - there is no other
        made, found = schedules.create_schedule(name, cron, submission.pipeline_job())
    if found:
        notice("it was created before: nothing was made")
    show_one(
        {"name": made.name, "state": made.state, "cron": made.cron, "resource": made.resource}, output_format
    )


@schedule.command("list", epilog=_EXAMPLES)
@place_options
@format_option
@exit_on_error
def list_(place: dict[str, Any], output_format: str) -> None:
    """List the schedules of imgpipe's pipeline."""
    columns = ("name", "state", "cron", "next_run", "last_job")
    show_many(schedules_of(place).list_schedules(), columns, output_format)


@schedule.command(epilog=_EXAMPLES)
@click.argument("name")
@place_options
@exit_on_error
def pause(name: str, place: dict[str, Any]) -> None:
    """Start no more runs of NAME until it is resumed; a run that is at work goes on."""
    schedules_of(place).pause_schedule(name)
    notice(f"{name} is paused; `imgpipe schedule resume {name}` starts it again")


@schedule.command(epilog=_EXAMPLES)
@click.argument("name")
@place_options
@exit_on_error
def resume(name: str, place: dict[str, Any]) -> None:
    """Start runs of NAME again, without those that were missed."""
    schedules_of(place).resume_schedule(name)
    notice(f"{name} is active")


@schedule.command(epilog=_EXAMPLES)
@click.argument("name")
@place_options
@exit_on_error
def delete(name: str, place: dict[str, Any]) -> None:
    """Remove NAME; runs that it has started stay."""
    schedules_of(place).delete_schedule(name)
    notice(f"{name} is deleted")


def _shown(name: str, cron: str, submission: Submission, place: dict[str, Any]) -> dict[str, Any]:
    """Returns what would be sent."""
    if submission.target == "kubeflow":
        return {**submission.shown(), "kind": "recurring run", "name": name, **recurrence(cron)}
    region = submission.job.config.region or place["region"]
    for flag, value in (("project", place["project"]), ("region", region)):
        if not value:
            notice(f"no {flag} is given: {flag.upper()} stands for it")
    parent = f"projects/{place['project'] or 'PROJECT'}/locations/{region or 'REGION'}"
    return {"kind": "Schedule", **schedule_body(name, cron, parent, submission.shown_pipeline_job())}
