"""The options that say where jobs are: the target, and how to reach it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.google_credentials import default_credentials
from imgpipe.components.platforms.vertex.client import VertexLocation, check_region
from imgpipe.pipelines.commands.job_options import given
from imgpipe.pipelines.commands.output import notice
from imgpipe.pipelines.targets.jobs import Jobs, Schedules
from imgpipe.pipelines.targets.kubeflow_client import KubeflowClient
from imgpipe.pipelines.targets.kubeflow_jobs import KubeflowJobs
from imgpipe.pipelines.targets.kubeflow_schedules import KubeflowSchedules
from imgpipe.pipelines.targets.local_jobs import RUNS, LocalJobs
from imgpipe.pipelines.targets.vertex_jobs import VertexJobs

TARGETS = ("local", "kubeflow", "vertex")

_OPTIONS = (
    click.option(
        "--target",
        type=click.Choice(TARGETS),
        default="local",
        show_default=True,
        envvar="IMGPIPE_TARGET",
        show_envvar=True,
        help="Where the jobs are.",
    ),
    click.option(
        "--project",
        default="",
        envvar="GOOGLE_CLOUD_PROJECT",
        show_envvar=True,
        help="vertex: the project; by default that of your credentials.",
    ),
    click.option(
        "--region",
        default="",
        envvar="GOOGLE_CLOUD_REGION",
        show_envvar=True,
        help="vertex: the region, e.g. us-central1; the one where your data lies.",
    ),
    click.option(
        "--endpoint",
        default="",
        envvar="IMGPIPE_VERTEX_ENDPOINT",
        show_envvar=True,
        help="vertex: another address of its interface, e.g. a private endpoint.",
    ),
    click.option(
        "--host",
        default="",
        envvar="KFP_ENDPOINT",
        show_envvar=True,
        help="kubeflow: address of Kubeflow Pipelines, e.g. http://localhost:8080 of a port-forward.",
    ),
    click.option(
        "--namespace",
        default="",
        envvar="KFP_NAMESPACE",
        show_envvar=True,
        help="kubeflow: your namespace, where the installation has several users.",
    ),
    click.option(
        "--token",
        default="",
        envvar="KFP_TOKEN",
        show_envvar=True,
        help="kubeflow: bearer token; better given by the variable, which a list of processes does not show.",
    ),
    click.option(
        "--runs",
        type=click.Path(path_type=Path),
        default=RUNS,
        show_default=True,
        help="local: the folder of the runs.",
    ),
)
_NAMES = ("target", "project", "region", "endpoint", "host", "namespace", "token", "runs")
_OF_TARGET = {
    "local": ("runs",),
    "kubeflow": ("host", "namespace", "token"),
    "vertex": ("project", "endpoint"),
}


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--target`` and what each target needs; the command gets them as ``place``."""

    def with_place(*arguments: Any, **options: Any) -> Any:
        place = {name: options.pop(name) for name in _NAMES}
        for target, names in _OF_TARGET.items():
            for name in names:
                if target != place["target"] and given(name):
                    notice(f"--{name} is ignored: it is of target {target}, not {place['target']}")
        return command(*arguments, place=place, **options)

    with_place.__doc__ = command.__doc__
    with_place.__name__ = command.__name__
    # click keeps the options of the decorators below on the function.
    with_place.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    decorated: Callable[..., Any] = with_place
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def jobs_of(place: dict[str, Any], region: str = "") -> Jobs:
    """Returns the jobs of the target that the options name.

    Args:
        place: What ``place_options`` gives.
        region: Of the submission, which has taken the option, the config or the variable, in this order.

    Raises:
        InvalidArgumentError: if an option is missing.
    """
    if place["target"] == "local":
        return LocalJobs(Path(place["runs"]).absolute())
    if place["target"] == "kubeflow":
        if not place["host"]:
            raise InvalidArgumentError(
                "--host is not given",
                remedy="give the address of Kubeflow Pipelines, e.g. http://localhost:8080",
            )
        if not re.match(r"https?://[^/\s]+", place["host"]):
            raise InvalidArgumentError(
                f"--host={place['host']} is not an address",
                remedy="begin it with http:// or https://, e.g. http://localhost:8080",
            )
        return KubeflowJobs(KubeflowClient(place["host"], place["namespace"], place["token"]))
    region = region or place["region"]
    if not region:
        raise InvalidArgumentError(
            "--region is not given", remedy="give the region where your data lies, e.g. --region=us-central1"
        )
    check_region(region)
    return VertexJobs(VertexLocation(place["project"] or _own_project(), region, place["endpoint"]))


def schedules_of(place: dict[str, Any], region: str = "") -> Schedules:
    """Returns the schedules of the target that the options name; see ``jobs_of``.

    Raises:
        InvalidArgumentError: if the target has none, or an option is missing.
    """
    check_has_schedules(place)
    jobs = jobs_of(place, region)
    if isinstance(jobs, KubeflowJobs):
        return KubeflowSchedules(jobs.client)
    assert isinstance(jobs, VertexJobs)  # noqa: S101 - there is no other
    return jobs


def check_has_schedules(place: dict[str, Any]) -> None:
    """Refuses a target without schedules.

    Raises:
        InvalidArgumentError: if it is this machine.
    """
    if place["target"] == "local":
        raise InvalidArgumentError(
            "this machine has no schedules of imgpipe's",
            remedy="use --target kubeflow or vertex; here, let cron or systemd call `imgpipe submit`",
        )


def _own_project() -> str:
    _, project = default_credentials()
    if not project:
        raise InvalidArgumentError("--project is not given", remedy="give it, or set GOOGLE_CLOUD_PROJECT")
    return project
