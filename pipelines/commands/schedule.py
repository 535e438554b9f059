"""schedule: runs of the pipeline on a schedule."""

from typing import Any

import click

from imgpipe.pipelines.ai_platform import check_job_id
from imgpipe.pipelines.commands.check import check_submission
from imgpipe.pipelines.commands.grouped_options import JOB, GroupedCommand, option
from imgpipe.pipelines.commands.job_options import (
    JobCommand,
    schedule_options,
    submission_control_options,
)
from imgpipe.pipelines.commands.output import exit_on_error, format_option, notice, show_many, show_one
from imgpipe.pipelines.commands.submission import Submission, print_notices, submission_of
from imgpipe.pipelines.commands.target_options import (
    TargetOptions,
    check_has_schedules,
    schedule_target_options,
    schedules_of,
)
from imgpipe.pipelines.cron import check_cron
from imgpipe.pipelines.targets.kubeflow_requests import recurrence
from imgpipe.pipelines.targets.kubeflow_schedules import ASSUMED_ZONE, KubeflowSchedules
from imgpipe.pipelines.targets.vertex_jobs import schedule_body

_EXAMPLES = """
\b
Examples:
  imgpipe schedule create nightly --cron '0 3 * * *' --target vertex --region us-central1 \\
    --as pipeline --pipeline-root gs://bucket/pipelines -- --images=gs://bucket/flowers
  Print the request without sending it:
    imgpipe schedule create nightly --cron '0 3 * * *' --dry-run ...
  imgpipe schedule list --target vertex --region us-central1
  imgpipe schedule pause nightly --target kubeflow --host http://localhost:8080
"""


@click.group(epilog=_EXAMPLES, short_help="Run the pipeline on a schedule.")
def schedule() -> None:
    """Run the pipeline on a schedule on Kubeflow or Vertex AI: create, list, pause, resume, delete.

    On this machine, run `imgpipe submit` from cron or systemd.
    """


@schedule.command(cls=JobCommand, epilog=_EXAMPLES)
@click.argument("name")
@option(
    "--cron",
    group=JOB,
    required=True,
    help="Cron expression in UTC: minute, hour, day of month, month, day of week (0 or SUN is Sunday), e.g. "
    "'0 3 * * 1' for Mondays at three; on Vertex AI also 'TZ=Europe/Berlin 0 3 * * 1'.",
)
@schedule_target_options
@schedule_options
@submission_control_options
@format_option
@exit_on_error
def create(
    name: str,
    cron: str,
    target: TargetOptions,
    arguments: tuple[str, ...],
    dry_run: bool,
    check: bool,
    output_format: str,
    **options: Any,
) -> None:
    """Create the schedule NAME, which runs the pipeline.

    The options are those of submit, with the training arguments after `--`. Runs never overlap, and missed
    runs are skipped.
    """
    check_has_schedules(target)
    check_job_id(name, "the schedule's name")
    cron = check_cron(cron, zone_allowed=target.name == "vertex")
    options["form"] = "pipeline"
    submission = submission_of(target, options, [name, *arguments])
    print_notices(submission)
    for argument in ("job_dir", "output_dir"):
        if folder := submission.job.values.get(argument):
            notice(
                f"{argument}={folder} is the same for every run: the second finds the output of the first "
                f"and rejects it if the data has changed; omit {argument}"
            )
    if dry_run:
        shown = _request(name, cron, submission, target)
        show_one(shown, "yaml" if output_format == "table" else output_format)
        return
    schedules = schedules_of(target, submission.job.config.region)
    if check:
        check_submission(submission, target)
    if isinstance(schedules, KubeflowSchedules):
        with submission.run_request() as request:
            created, found = schedules.create_schedule(name, cron, request)
    else:
        created, found = schedules.create_schedule(name, cron, submission.pipeline_job())
    if found:
        notice("the schedule already exists; nothing was created")
    fields = ("name", "state", "cron", "time_zone", "resource")
    show_one({field: getattr(created, field) for field in fields}, output_format)


@schedule.command("list", cls=GroupedCommand, epilog=_EXAMPLES)
@schedule_target_options
@format_option
@exit_on_error
def list_(target: TargetOptions, output_format: str) -> None:
    """List the schedules of imgpipe's pipeline."""
    columns = ("name", "state", "cron", "time_zone", "next_run", "last_job")
    found = schedules_of(target).list_schedules()
    if any(shown.time_zone == ASSUMED_ZONE for shown in found):
        notice(
            "the time zone of the schedules cannot be read from here, and UTC is assumed: set KUBECONFIG, or "
            "see CRON_SCHEDULE_TIMEZONE of ml-pipeline-scheduledworkflow"
        )
    show_many(found, columns, output_format, headers={"next_run": "NEXT RUN (UTC)"})


def _add_command(verb: str, text: str, done: str) -> None:
    @schedule.command(verb, cls=GroupedCommand, epilog=_EXAMPLES, help=text)
    @click.argument("name")
    @schedule_target_options
    @exit_on_error
    def command(name: str, target: TargetOptions) -> None:
        getattr(schedules_of(target), f"{verb}_schedule")(name)
        notice(f"{name} is {done.format(name=name)}")


_add_command(
    "pause",
    "Pause NAME until it is resumed; a running run continues.",
    "paused; resume it with `imgpipe schedule resume {name}`",
)
_add_command("resume", "Resume NAME without the missed runs.", "active")
_add_command("delete", "Delete NAME; its runs remain.", "deleted")


def _request(name: str, cron: str, submission: Submission, target: TargetOptions) -> dict[str, Any]:
    if submission.target == "kubeflow":
        return {**submission.shown(), "kind": "recurring run", "name": name, **recurrence(cron)}
    region = submission.job.config.region or target.region
    for flag, value in (("project", target.project), ("region", region)):
        if not value:
            notice(f"--{flag} is missing: {flag.upper()} is a placeholder")
    parent = f"projects/{target.project or 'PROJECT'}/locations/{region or 'REGION'}"
    return {"kind": "Schedule", **schedule_body(name, cron, parent, submission.shown_pipeline_job())}
