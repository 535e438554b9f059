"""upload: the pipelines with a form, for people who start runs in the browser."""

from typing import Any

import click

from imgpipe.components.common.errors import InvalidArgumentError, UnavailableError
from imgpipe.components.preflight.pipeline_inputs import PIPELINES
from imgpipe.pipelines.commands.grouped_options import GroupedCommand
from imgpipe.pipelines.commands.job_options import file_options, images_of
from imgpipe.pipelines.commands.output import exit_on_error, format_option, show_rows
from imgpipe.pipelines.commands.target_options import TargetOptions, jobs_of, target_options
from imgpipe.pipelines.compiled_pipelines import all_arguments_file, pipeline_file
from imgpipe.pipelines.kubeflow_options import kubeflow_options
from imgpipe.pipelines.targets.kubeflow_jobs import KubeflowJobs
from imgpipe.pipelines.targets.kubeflow_requests import RunRequest


@click.command(
    cls=GroupedCommand,
    epilog="""
\b
Examples:
  imgpipe upload --target kubeflow --host http://localhost:8080 --image-registry registry.example/team
""",
    short_help="Upload the pipelines with a form to Kubeflow.",
)
@target_options
@file_options
@format_option
@exit_on_error
def upload(target: TargetOptions, output_format: str, **options: Any) -> None:
    """Upload the pipelines to Kubeflow Pipelines, for runs that are started in the browser.

    Their forms have few fields; the description on the page of a pipeline is the manual of its form. A
    pipeline that is already there unchanged is not uploaded again.
    """
    if target.name != "kubeflow":
        raise InvalidArgumentError(
            f"--target {target.name} has no form to upload", remedy="use --target kubeflow"
        )
    images, jobs = images_of(options), jobs_of(target)
    added = kubeflow_options(notify_step=options["notify_step"], volumes=options["volume"])
    assert isinstance(jobs, KubeflowJobs)  # noqa: S101 - of that target
    jobs.client.connect()
    uploaded = []
    for name in PIPELINES:
        with pipeline_file("kubeflow", images, name, added) as file:
            ids = RunRequest({}, file).upload(jobs.client)
        if ids is None:
            raise UnavailableError(
                f"the pipeline {name.replace('_', '-')} was rejected: your account may not create pipelines, "
                "or Kubeflow Pipelines is older than 2.16",
                remedy="ask for the role to edit pipelines; with an older Kubeflow Pipelines use "
                f"{all_arguments_file(name, 'kubeflow')}.yaml, whose form has no drop-down lists",
            )
        uploaded.append((name.replace("_", "-"), *ids))
    show_rows(uploaded, ("pipeline", "pipeline_id", "version_id"), output_format)
