"""check: what can be known before a job is sent."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from imgpipe.components.common.errors import ERROR_CLASSES
from imgpipe.components.common.shared_arguments import NO_TARGET
from imgpipe.components.platforms.vertex.client import authorized_session, check_credentials
from imgpipe.components.storage.cloud_storage import missing_credentials
from imgpipe.pipelines.checks import (
    ERROR,
    OK,
    WARNING,
    Finding,
    Google,
    check_buckets,
    check_data,
    check_images,
    check_local_output,
    check_rights,
)
from imgpipe.pipelines.commands.job_options import JobCommand, submission_options
from imgpipe.pipelines.commands.output import echo_events, exit_on_error, format_option, notice, show_many
from imgpipe.pipelines.commands.submission import Submission, submission_of, tell_notices
from imgpipe.pipelines.commands.target_options import jobs_of, place_options
from imgpipe.pipelines.targets.kubeflow_jobs import KubeflowJobs
from imgpipe.pipelines.targets.vertex_jobs import VertexJobs

_PIPELINE_ROLES = ("data", "serve-tools")

_EXAMPLES = """
\b
Examples:
  imgpipe check --target vertex --region us-central1 --config config.yaml -- --training_data_path=... ...
  imgpipe check -- --images=flowers
\b
It takes what submit takes, and sends nothing. `imgpipe submit` does the same first.
Exit status: 0 if nothing is wrong, warnings included; otherwise that of the first error.
"""


@click.command(cls=JobCommand, epilog=_EXAMPLES)
@place_options
@submission_options
@format_option
@exit_on_error
def check(place: dict[str, Any], words: tuple[str, ...], output_format: str, **options: Any) -> None:
    """Check a job before it is submitted: arguments, machines, data, buckets, accounts, images.

    Each finding that is not ok names the command that mends it.
    """
    submission = submission_of(place, options, words)
    tell_notices(submission)
    found = findings(submission, place)
    show_many(found, ("status", "subject", "message", "mend"), output_format)
    errors = [one for one in found if one.status == ERROR]
    if errors:
        notice(f"{len(errors)} of {len(found)} checks failed; what mends them stands beside them")
        sys.exit(errors[0].exit_code)


def check_submission(submission: Submission, place: dict[str, Any]) -> None:
    """Tells warnings on stderr, and refuses a submission in which something is wrong.

    Raises:
        PipelineError: of the first error; all of them are told.
    """
    found = findings(submission, place)
    first = next((one for one in found if one.status == ERROR), None)
    for one in found:
        # The first error is told last, by itself.
        if one.status != OK and one is not first:
            notice(
                f"{one.status}: {one.subject}: {one.message}{f'; to mend it: {one.mend}' if one.mend else ''}"
            )
    if first is not None:
        error_class = next(one for one in ERROR_CLASSES if one.exit_code == first.exit_code)
        raise error_class(f"{first.subject}: {first.message}", remedy=first.mend)


def findings(submission: Submission, place: dict[str, Any]) -> list[Finding]:
    """Returns what all checks of a submission found, the errors first.

    Raises:
        PipelineError: if the target cannot be asked at all: no credentials, no answer at its address.
    """
    values, target = submission.job.values, submission.target
    found = []
    if target != "local":
        _check_target(submission, place)
        pools = ", ".join(f"{pool.replicas} x {pool.machine}" for pool in submission.job.pools)
        found.append(Finding(OK, "machines", pools))
    with echo_events():
        # The steps of this machine read public data without credentials; the others have their own.
        found += check_data(
            values,
            on_this_machine=target == "local",
            no_cloud=None if target == "local" else missing_credentials(),
        )
    if target != "local":
        found += _remote_findings(submission, place)
    elif values.get("job_dir"):
        found.append(check_local_output(Path(values["job_dir"]).expanduser().absolute()))
    return sorted(found, key=lambda one: [ERROR, WARNING, OK].index(one.status))


def _check_target(submission: Submission, place: dict[str, Any]) -> None:
    """Asks first whether the target can be asked: nothing else has an answer otherwise."""
    notice(f"checking {submission.target}, data and images; --no-check sends without")
    if submission.target == "vertex":
        check_credentials(place["endpoint"])
        return
    jobs = jobs_of(place)
    assert isinstance(jobs, KubeflowJobs)  # noqa: S101 - it is that target's
    _ = jobs.client.api


def _remote_findings(submission: Submission, place: dict[str, Any]) -> Iterator[Finding]:
    google = Google(lambda: authorized_session(place["endpoint"]), place["endpoint"])
    yield from check_images(google, _images(submission), registry_needed=submission.target == "vertex")
    if submission.target != "vertex":
        return
    jobs = jobs_of(place, submission.job.config.region)
    assert isinstance(jobs, VertexJobs)  # noqa: S101 - it is that target's
    account = submission.service_account
    values = {**submission.job.values, "pipeline_root": submission.pipeline_root}
    pipeline = submission.form == "pipeline"
    try:
        yield from check_rights(google, jobs.location.project, account, pipeline=pipeline)
        yield from check_buckets(
            google, values, jobs.location.region, account, jobs.location.project, pipeline=pipeline
        )
    except ConnectionError as error:
        yield Finding(
            WARNING, "Google Cloud", f"it cannot be reached from here, nothing more was checked: {error}"
        )


def _images(submission: Submission) -> Iterator[str]:
    of_training = submission.parameters.get("train_image", "")
    for pool in submission.job.pools:
        yield of_training or pool.config.image_uri or submission.images.of_training(pool.machine.kind)
    if submission.form == "pipeline":
        deploys = submission.retrain or submission.job.values.get("deploy_target", NO_TARGET) != NO_TARGET
        launches = submission.target == "vertex" or deploys
        for role in (*_PIPELINE_ROLES, *(("launcher",) if launches else ())):
            yield submission.images.of_role(role)
