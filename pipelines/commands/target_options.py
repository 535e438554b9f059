"""The options that select a target and its address: local, kubeflow or vertex."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click

from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.platforms.google_credentials import default_credentials, impersonating
from imgpipe.components.platforms.kubeflow.client import KubeflowClient
from imgpipe.components.platforms.vertex.client import VertexLocation, check_region
from imgpipe.pipelines.commands.grouped_options import IGNORED, TARGET, option
from imgpipe.pipelines.commands.job_options import is_on_command_line
from imgpipe.pipelines.commands.output import notice
from imgpipe.pipelines.targets.kubeflow_jobs import KubeflowJobs
from imgpipe.pipelines.targets.kubeflow_schedules import KubeflowSchedules
from imgpipe.pipelines.targets.local_jobs import RUNS, LocalJobs
from imgpipe.pipelines.targets.vertex_jobs import VertexJobs

TARGETS = ("local", "kubeflow", "vertex")
Jobs = LocalJobs | KubeflowJobs | VertexJobs


@dataclass(frozen=True)
class TargetOptions:
    """A target and its address.

    Attributes:
        name: ``local``, ``kubeflow`` or ``vertex``.
    """

    name: str
    project: str
    region: str
    endpoint: str
    host: str
    namespace: str
    token: str
    runs: Path


def _variable_option(name: str, variable: str, text: str, **settings: Any) -> Callable[..., Any]:
    """Declares an option whose default is an environment variable."""
    return option(f"--{name}", group=TARGET, envvar=variable, help=text, **settings)


_OPTIONS = (
    option(
        "--target",
        group=TARGET,
        type=click.Choice(TARGETS),
        default="local",
        show_default=True,
        envvar="IMGPIPE_TARGET",
        help="The platform of the jobs.",
    ),
    _variable_option(
        "project", "GOOGLE_CLOUD_PROJECT", "vertex: the project. Empty = that of your credentials."
    ),
    _variable_option(
        "region", "GOOGLE_CLOUD_REGION", "vertex: the region of your data and the job, e.g. us-central1."
    ),
    _variable_option(
        "endpoint", "IMGPIPE_VERTEX_ENDPOINT", "vertex: another address of the API, e.g. a private endpoint."
    ),
    _variable_option(
        "host",
        "KFP_ENDPOINT",
        "kubeflow: address of Kubeflow Pipelines, e.g. http://localhost:8080 of a port-forward.",
    ),
    _variable_option(
        "namespace", "KFP_NAMESPACE", "kubeflow: your namespace, if the installation has several users."
    ),
    _variable_option(
        "token",
        "KFP_TOKEN",
        "kubeflow: bearer token. Prefer the environment variable: process lists show options.",
    ),
    option(
        "--impersonate-service-account",
        group=TARGET,
        default="",
        help="vertex: act as this service account; you need the role Service Account Token Creator on it.",
    ),
    option("--account", group=IGNORED, default=""),
    option(
        "--runs",
        group=TARGET,
        type=click.Path(path_type=Path),
        default=RUNS,
        show_default=True,
        help="local: the folder of the runs.",
    ),
)
_OPTIONS_OF_TARGET = {
    "local": ("runs",),
    "kubeflow": ("host", "namespace", "token"),
    "vertex": ("project", "endpoint", "impersonate_service_account"),
}


# A schedule is not for the target local, which is accepted for an error that says what to do.
_SCHEDULE_OPTIONS = (
    option(
        "--target",
        group=TARGET,
        type=click.Choice(TARGETS),
        metavar=f"[{'|'.join(TARGETS[1:])}]",
        default="local",
        envvar="IMGPIPE_TARGET",
        help="The platform of the schedule.",
    ),
    *_OPTIONS[1:-1],
)


def target_options(
    command: Callable[..., Any], declared: Sequence[Callable[..., Any]] = _OPTIONS
) -> Callable[..., Any]:
    """Adds ``--target`` and the options of each target; the command gets them as ``target``."""

    @wraps(command)
    def with_target(*arguments: Any, **options: Any) -> Any:
        fields = dataclasses.fields(TargetOptions)[1:]
        options.setdefault("runs", RUNS)
        target = TargetOptions(options.pop("target"), *(options.pop(field.name) for field in fields))
        impersonated, account = options.pop("impersonate_service_account"), options.pop("account")
        if account:
            notice(
                f"--account={account} is ignored: imgpipe uses the application default credentials; to use "
                "that account's, run gcloud auth application-default login"
            )
        for other, names in _OPTIONS_OF_TARGET.items():
            for name in names:
                if other != target.name and is_on_command_line(name):
                    flag = name.replace("_", "-")
                    notice(f"--{flag} is ignored: it is for --target {other}, not {target.name}")
        with impersonating(impersonated if target.name == "vertex" else ""):
            return command(*arguments, target=target, **options)

    decorated: Callable[..., Any] = with_target
    for decorate in reversed(declared):
        decorated = decorate(decorated)
    return decorated


# Adds the options of the targets that have schedules.
schedule_target_options = partial(target_options, declared=_SCHEDULE_OPTIONS)


def jobs_of(target: TargetOptions, region: str = "") -> Jobs:
    """Returns the jobs of a target.

    Args:
        target: The target.
        region: The submission's region, which overrides the target's.

    Raises:
        InvalidArgumentError: if an option is missing.
    """
    if target.name == "local":
        return LocalJobs(Path(target.runs).absolute())
    if target.name == "kubeflow":
        if not target.host:
            raise InvalidArgumentError(
                "--host is missing",
                remedy="use the address of Kubeflow Pipelines, e.g. --host http://localhost:8080",
            )
        if not re.match(r"https?://[^/\s]+", target.host):
            raise InvalidArgumentError(
                f"--host={target.host} is not a URL",
                remedy="start it with http:// or https://, e.g. http://localhost:8080",
            )
        return KubeflowJobs(KubeflowClient(target.host, target.namespace, target.token))
    region = region or target.region
    if not region:
        raise InvalidArgumentError(
            "--region is missing", remedy="use the region of your data, e.g. --region=us-central1"
        )
    check_region(region)
    return VertexJobs(VertexLocation(target.project or _default_project(), region, target.endpoint))


def schedules_of(target: TargetOptions, region: str = "") -> KubeflowSchedules | VertexJobs:
    """Returns the schedules of a target; see ``jobs_of``.

    Raises:
        InvalidArgumentError: if the target has no schedules, or an option is missing.
    """
    check_has_schedules(target)
    jobs = jobs_of(target, region)
    if isinstance(jobs, KubeflowJobs):
        return KubeflowSchedules(jobs.client)
    assert isinstance(jobs, VertexJobs)  # noqa: S101 - there is no other
    return jobs


def check_has_schedules(target: TargetOptions) -> None:
    """Rejects a target without schedules.

    Raises:
        InvalidArgumentError: if the target is local.
    """
    if target.name == "local":
        raise InvalidArgumentError(
            "--target local has no schedules",
            remedy="use --target kubeflow or vertex; locally, run `imgpipe submit` from cron or systemd",
        )


def _default_project() -> str:
    _, project = default_credentials()
    if not project:
        raise InvalidArgumentError("--project is missing", remedy="set it, or GOOGLE_CLOUD_PROJECT")
    return project
