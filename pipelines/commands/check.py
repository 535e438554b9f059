"""check: finds what is wrong with a job before it is sent."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from imgpipe.components.common.errors import PipelineError, error_class_of
from imgpipe.components.common.plural import plural
from imgpipe.components.common.shared_arguments import NO_TARGET
from imgpipe.components.platforms.vertex.client import authorized_session, check_credentials
from imgpipe.pipelines.checks import (
    ERROR,
    OK,
    WARNING,
    Finding,
    Google,
    check_buckets,
    check_cluster,
    check_data,
    check_images,
    check_local_output,
    check_rights,
)
from imgpipe.pipelines.commands.job_options import JobCommand, submission_options
from imgpipe.pipelines.commands.output import echo_events, exit_on_error, format_option, notice, show_many
from imgpipe.pipelines.commands.submission import Submission, print_notices, submission_of
from imgpipe.pipelines.commands.target_options import TargetOptions, jobs_of, target_options
from imgpipe.pipelines.targets.kubeflow_jobs import KubeflowJobs
from imgpipe.pipelines.targets.vertex_jobs import VertexJobs

_PIPELINE_ROLES = ("data", "serve-tools")

_EXAMPLES = """
\b
Examples:
  imgpipe check --target vertex --region us-central1 --config config.yaml -- --training_data_path=... ...
  imgpipe check -- --images=flowers
\b
It takes the options of `imgpipe submit`, which runs the same checks first, and sends nothing.
Exit status: 0 if there are no errors, warnings included; otherwise that of the first error.
"""


@click.command(cls=JobCommand, epilog=_EXAMPLES, short_help="Check a job before it is submitted.")
@target_options
@submission_options
@format_option
@exit_on_error
def check(target: TargetOptions, arguments: tuple[str, ...], output_format: str, **options: Any) -> None:
    """Check a job before it is submitted: arguments, machines, data, buckets, accounts, images.

    Each finding that is not ok names the command that fixes it.
    """
    submission = submission_of(target, options, arguments)
    print_notices(submission)
    found = findings(submission, target)
    show_many(found, ("status", "subject", "message", "fix"), output_format)
    errors = [finding for finding in found if finding.status == ERROR]
    if errors:
        notice(f"{len(errors)} of {plural(len(found), 'check')} failed; the column FIX says what to do")
        sys.exit(errors[0].exit_code)


def check_submission(submission: Submission, target: TargetOptions) -> None:
    """Prints warnings on stderr, and rejects a submission with errors.

    Raises:
        PipelineError: the first error; further ones are printed.
    """
    found = findings(submission, target)
    first_error = next((finding for finding in found if finding.status == ERROR), None)
    for finding in found:
        if finding.status != OK and finding is not first_error:
            fix = f"; to fix it: {finding.fix}" if finding.fix else ""
            notice(f"{finding.status}: {finding.subject}: {finding.message}{fix}")
    if first_error is not None:
        error_class = error_class_of(first_error.exit_code, PipelineError)
        raise error_class(f"{first_error.subject}: {first_error.message}", remedy=first_error.fix)


def findings(submission: Submission, target: TargetOptions) -> list[Finding]:
    """Returns the findings of all checks of a submission, errors first.

    Raises:
        PipelineError: if the target cannot be reached: no credentials, no response at its address.
    """
    values, local = submission.job.values, target.name == "local"
    found = []
    if not local:
        _check_target(target)
        pools = ", ".join(f"{pool.replicas} x {pool.machine}" for pool in submission.job.pools)
        found.append(Finding(OK, "machines", pools))
    with echo_events():
        found += check_data(values, on_this_machine=local)
    if not local:
        found += _remote_findings(submission, target)
    elif values.get("job_dir"):
        found.append(check_local_output(Path(values["job_dir"]).expanduser().absolute()))
    return sorted(found, key=lambda finding: [ERROR, WARNING, OK].index(finding.status))


def _check_target(target: TargetOptions) -> None:
    """Checks that the target can be reached, which the other checks need."""
    notice(f"checking {target.name}, data and images; --no-check skips this")
    if target.name == "vertex":
        check_credentials(target.endpoint)
        return
    jobs = jobs_of(target)
    assert isinstance(jobs, KubeflowJobs)  # noqa: S101 - it is that target's
    _ = jobs.client.api


def _remote_findings(submission: Submission, target: TargetOptions) -> Iterator[Finding]:
    google = Google(lambda: authorized_session(target.endpoint), target.endpoint)
    yield from check_images(google, _images(submission), registry_needed=target.name == "vertex")
    if target.name != "vertex":
        yield from check_cluster(
            submission.pipeline, submission.parameters, target.namespace, submission.service_account
        )
        return
    jobs = jobs_of(target, submission.job.config.region)
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
            WARNING, "Google Cloud", f"it cannot be reached from here, further checks are skipped: {error}"
        )


def _images(submission: Submission) -> Iterator[str]:
    train_image = submission.parameters.get("train_image", "")
    for pool in submission.job.pools:
        ours = submission.images.of_training(pool.machine.kind, submission.target)
        yield train_image or pool.config.image_uri or ours
    if submission.form == "pipeline":
        deploys = submission.retrain or submission.job.values.get("deploy_target", NO_TARGET) != NO_TARGET
        launches = submission.target == "vertex" or deploys
        for role in (*_PIPELINE_ROLES, *(("launcher",) if launches else ())):
            yield submission.images.of_role(role)
