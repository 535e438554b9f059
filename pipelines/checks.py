"""What can be known before a job is sent: data, output, buckets, accounts, images.

Each check says what it found and, where something is wrong, the command that mends it. What cannot be checked
from here (no right to look, no network) is a warning: the target itself will say.
"""

import contextlib
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.arguments import Kind
from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    OutputError,
    PipelineError,
    UnavailableError,
)
from imgpipe.components.platforms.vertex.client import is_plain_http
from imgpipe.components.storage.cloud_storage import bucket_and_name, is_cloud_path, list_objects, patience
from imgpipe.components.storage.files import local_path, match_pattern
from imgpipe.pipelines.path_arguments import DATA_KINDS, INPUT_KINDS, WILDCARD, path_arguments, paths_in
from imgpipe.pipelines.target_rules import uri_of_mounted

OK, WARNING, ERROR = "ok", "warning", "error"
_READ = ("storage.objects.get", "storage.objects.list")
_WRITE = (*_READ, "storage.objects.create", "storage.objects.delete")
# Roles on a bucket that hold these permissions.
_READING_ROLES = ("roles/storage.objectViewer", "roles/storage.legacyBucketReader")
_WRITING_ROLES = (
    "roles/storage.objectAdmin",
    "roles/storage.objectUser",
    "roles/storage.admin",
    "roles/storage.legacyBucketOwner",
)
_MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)
# For an answer. A person waits, and the target itself will say what this leaves open.
_SECONDS = 10
# Who else asks for a token must not get Google's.
_REGISTRIES_OF_GOOGLE = re.compile(r"([a-z0-9.-]+\.)?(gcr\.io|pkg\.dev)")


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        status: ``ok``, ``warning`` or ``error``.
        subject: What was looked at, e.g. ``--training_data_path``.
        message: What was found.
        mend: The command or the step that mends it; empty if all is well.
        exit_code: Of an error.
    """

    status: str
    subject: str
    message: str
    mend: str = ""
    exit_code: int = InvalidArgumentError.exit_code


class Google:
    """Google's interfaces, asked with the user's own credentials.

    Args:
        session: Makes the HTTP session when it is first needed.
        endpoint: A server of this machine that stands for all of them; empty = Google's own.
    """

    def __init__(self, session: Callable[[], Any], endpoint: str = "") -> None:
        self._make_session = session
        self._session: Any = None
        self._endpoint = endpoint if is_plain_http(endpoint) else ""

    def ask(self, service: str, path: str, *, post: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Returns status and JSON of an answer.

        Raises:
            UnavailableError: if there are no credentials.
            ConnectionError: if there is no answer.
        """
        response = self._request(f"{self._endpoint or f'https://{service}.googleapis.com'}/{path}", post=post)
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, {}

    def head(self, address: str, headers: Mapping[str, str]) -> int:
        """Returns the status of a HEAD request to any address; only Google's own gets the credentials.

        Raises:
            ConnectionError: if there is no answer.
        """
        if _REGISTRIES_OF_GOOGLE.fullmatch(urllib.parse.urlsplit(address).hostname or ""):
            with contextlib.suppress(UnavailableError):
                return int(self._request(address, headers=headers, method="HEAD").status_code)
        import requests

        try:
            return int(requests.head(address, headers=headers, timeout=_SECONDS).status_code)
        except requests.RequestException as error:
            raise ConnectionError(type(error).__name__) from None

    def _request(
        self,
        address: str,
        *,
        post: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        method: str = "",
    ) -> Any:
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        if self._session is None:
            self._session = self._make_session()
        method = method or ("GET" if post is None else "POST")
        try:
            return self._session.request(method, address, json=post, headers=headers, timeout=_SECONDS)
        except (RequestException, GoogleAuthError) as error:
            raise ConnectionError(type(error).__name__) from None


def check_data(
    values: Mapping[str, Any], *, on_this_machine: bool, no_cloud: UnavailableError | None = None
) -> Iterator[Finding]:
    """Checks that the patterns and folders of the data match something.

    Args:
        values: The job's arguments.
        on_this_machine: Whether local paths are paths of this machine, and not of a pod.
        no_cloud: Why Cloud Storage cannot be asked.
    """
    unasked = no_cloud.problem if no_cloud else ""
    mend = f"{no_cloud.remedy}; if you want it checked" if no_cloud else ""
    for name in path_arguments(*DATA_KINDS):
        value = str(values.get(name) or "")
        subject = f"--{name}"
        if not value:
            continue
        if not is_cloud_path(value) and not on_this_machine:
            yield Finding(WARNING, subject, f"{value} is a path of the pods: it cannot be checked from here")
            continue
        if is_cloud_path(value) and unasked:
            yield Finding(WARNING, subject, f"it cannot be checked: {unasked}", mend)
            continue
        try:
            with patience(_SECONDS):
                yield Finding(OK, subject, _count(name, value))
        except MissingInputError as error:
            yield Finding(
                ERROR,
                subject,
                " ".join(filter(None, (error.problem, error.where))),
                error.remedy,
                error.exit_code,
            )
        except InterruptedRunError:
            # Nor will it answer the next time.
            unasked = "Cloud Storage does not answer from here"
            mend = "see the network of this machine and its proxy (HTTPS_PROXY)"
            yield Finding(WARNING, subject, f"it cannot be checked: {unasked}", mend)
        except PipelineError as error:
            yield Finding(WARNING, subject, f"it cannot be checked: {error.problem}", error.remedy)


def _count(name: str, value: str) -> str:
    if name != "images" or WILDCARD.search(value):
        found = match_pattern(value)
        return f"{value} is {len(found):,} file{'' if len(found) == 1 else 's'}"
    if is_cloud_path(value):
        first = next(iter(list_objects(f"{value.rstrip('/')}/")), None)
        if first is None:
            raise MissingInputError(f"there is nothing below {value}", remedy="correct the path")
        return f"{value} has objects"
    folder = local_path(value)
    if not folder.is_dir():
        raise MissingInputError(f"there is no folder {value}", remedy="correct the path")
    return f"{value} is a folder"


def check_local_output(folder: Path) -> Finding:
    """Checks that a folder of this machine can be written; makes nothing."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding(OK, "--job-dir", f"{folder} can be written")
    return Finding(
        ERROR,
        "--job-dir",
        f"{existing} cannot be written",
        "name a folder that you may write to",
        OutputError.exit_code,
    )


def check_buckets(
    google: Google, values: Mapping[str, Any], region: str, account: str, project: str, *, pipeline: bool
) -> Iterator[Finding]:
    """Checks that the buckets are there, lie in the region, and may be read and written by who runs the job.

    Args:
        google: Is asked.
        values: The job's arguments.
        region: Of the job.
        account: As which the job runs; empty = Vertex AI's own agent, or a pipeline's default account.
        project: Of the job.
        pipeline: Whether it is a pipeline, and not a job alone.
    """
    written = {
        _bucket(str(values[name]))
        for name in (*path_arguments(Kind.OUTPUT_FOLDER), "pipeline_root")
        if values.get(name)
    }
    read = {
        _bucket(part)
        for name in path_arguments(*INPUT_KINDS)
        for part in paths_in(name, str(values.get(name) or ""))
    }
    if not account:
        account = _default_account(google, project, pipeline=pipeline)
    for bucket in sorted((written | read) - {""}):
        permissions = _WRITE if bucket in written else _READ
        subject = f"gs://{bucket}"
        status, answer = google.ask("storage", f"storage/v1/b/{bucket}")
        if status == 404:
            yield Finding(
                ERROR,
                subject,
                "there is no such bucket",
                f"gcloud storage buckets create gs://{bucket} --location={region}",
                MissingInputError.exit_code,
            )
            continue
        if status != 200:
            yield Finding(WARNING, subject, "you have no right to look at the bucket: it cannot be checked")
            continue
        yield _region_finding(subject, str(answer.get("location", "")), region)
        if account:
            yield from _access_findings(google, bucket, permissions, account)


def _bucket(path: str) -> str:
    path = uri_of_mounted(path.strip())
    return bucket_and_name(path)[0] if is_cloud_path(path) else ""


def _default_account(google: Google, project: str, *, pipeline: bool) -> str:
    """Returns the account as which a job without one runs, or "" if the project's number is not to be had."""
    status, answer = google.ask("cloudresourcemanager", f"v1/projects/{project}")
    if status != 200 or "projectNumber" not in answer:
        return ""
    if pipeline:
        # As Vertex AI Pipelines' documentation has it: Compute Engine's default service account.
        return f"{answer['projectNumber']}-compute@developer.gserviceaccount.com"
    return f"service-{answer['projectNumber']}@gcp-sa-aiplatform-cc.iam.gserviceaccount.com"


def _region_finding(subject: str, location: str, region: str) -> Finding:
    location = location.lower()
    # Of several regions: US, EU, ASIA, or a pair such as NAM4.
    continent = {"us": "us", "eu": "europe", "asia": "asia"}.get(location)
    if location == region or (continent and region.startswith(continent)):
        return Finding(OK, subject, f"it lies in {location}, the job runs in {region}")
    return Finding(
        WARNING,
        subject,
        f"it lies in {location}, but the job runs in {region}: reading is slow, and the traffic is paid for",
        f"--region={location}, or copy the data to a bucket in {region}",
    )


def _access_findings(
    google: Google, bucket: str, permissions: Sequence[str], account: str
) -> Iterator[Finding]:
    subject = f"gs://{bucket}"
    writes = len(permissions) > len(_READ)
    what = "written" if writes else "read"
    role = "roles/storage.objectUser" if writes else "roles/storage.objectViewer"
    mend = (
        f"gcloud storage buckets add-iam-policy-binding gs://{bucket} "
        f"--member=serviceAccount:{account} --role={role}"
    )
    status, policy = google.ask("storage", f"storage/v1/b/{bucket}/iam")
    if status != 200:
        yield Finding(
            WARNING,
            subject,
            f"you have no right to see whether {account} may have it {what}",
            f"perhaps: {mend}",
        )
        return
    enough = {*_WRITING_ROLES, *(() if writes else _READING_ROLES)}
    members = {
        member
        for binding in policy.get("bindings", [])
        if binding.get("role") in enough
        for member in binding.get("members", [])
    }
    if members & {f"serviceAccount:{account}", "allUsers", "allAuthenticatedUsers"}:
        yield Finding(OK, subject, f"it can be {what} by {account}")
        return
    # The project may grant what the bucket does not: the bucket alone proves no lack.
    yield Finding(
        WARNING, subject, f"nothing on the bucket lets {account} have it {what}; the project may", mend
    )


def check_rights(google: Google, project: str, account: str, *, pipeline: bool) -> Iterator[Finding]:
    """Checks that Vertex AI is on, that you may start jobs, and that you may have them run as their account.

    Args:
        google: Is asked.
        project: Of the job.
        account: As which the job runs; empty = Vertex AI's own agent.
        pipeline: Whether a pipeline is started, and not a job alone.
    """
    status, answer = google.ask("serviceusage", f"v1/projects/{project}/services/aiplatform.googleapis.com")
    enable = f"gcloud services enable aiplatform.googleapis.com --project={project}"
    if status == 200 and answer.get("state") != "ENABLED":
        yield Finding(
            ERROR, project, "Vertex AI is not enabled in the project", enable, UnavailableError.exit_code
        )
    wanted = ["aiplatform.customJobs.create", "aiplatform.customJobs.get"]
    wanted += ["aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.get"] if pipeline else []
    status, answer = google.ask(
        "cloudresourcemanager", f"v1/projects/{project}:testIamPermissions", post={"permissions": wanted}
    )
    missing = sorted(set(wanted) - set(answer.get("permissions", [])))
    grant = f"gcloud projects add-iam-policy-binding {project} --member=user:YOU --role=roles/aiplatform.user"
    if status != 200:
        yield Finding(WARNING, project, "you have no right to see your own rights: they cannot be checked")
    elif missing:
        yield Finding(ERROR, project, f"you lack {', '.join(missing)}", grant, UnavailableError.exit_code)
    else:
        yield Finding(OK, project, "you may start jobs")
    if not account:
        return
    status, answer = google.ask(
        "iam",
        f"v1/projects/-/serviceAccounts/{account}:testIamPermissions",
        post={"permissions": ["iam.serviceAccounts.actAs"]},
    )
    if status == 404:
        name = account.partition("@")[0]
        yield Finding(
            ERROR,
            account,
            "there is no such account",
            f"gcloud iam service-accounts create {name} --project={project}",
            MissingInputError.exit_code,
        )
    elif status != 200:
        yield Finding(WARNING, account, "it cannot be checked whether you may run jobs as it")
    elif "iam.serviceAccounts.actAs" not in answer.get("permissions", []):
        yield Finding(
            ERROR,
            account,
            "you may not run jobs as this account",
            f"gcloud iam service-accounts add-iam-policy-binding {account} "
            "--member=user:YOU --role=roles/iam.serviceAccountUser",
            UnavailableError.exit_code,
        )
    else:
        yield Finding(OK, account, "you may run jobs as it")


def check_images(google: Google, images: Iterable[str], *, registry_needed: bool) -> Iterator[Finding]:
    """Checks that the images are there.

    Args:
        google: Asks, with credentials that Artifact Registry takes.
        images: Their whole names.
        registry_needed: Whether a name without a registry is an error; a cluster may hold such images itself.
    """
    silent: dict[str, str] = {}
    for image in sorted(set(images)):
        match = re.fullmatch(r"(?:([^/]+[.:][^/]*|localhost)/)?([^:@]+)(?::([^@]+))?(?:@(.+))?", image)
        if not match or not match.group(1):
            yield Finding(
                ERROR if registry_needed else WARNING,
                image,
                "the name has no registry: no machine can fetch it",
                "push the images, and give --image-registry or --images-lock",
            )
            continue
        host, path, tag, digest = match.groups()
        local = host.split(":")[0] in ("127.0.0.1", "localhost")
        address = f"{'http' if local else 'https'}://{host}/v2/{path}/manifests/{digest or tag or 'latest'}"
        try:
            # Its registry is not waited for a second time.
            status = 0 if host in silent else google.head(address, {"Accept": _MANIFESTS})
        except ConnectionError as error:
            silent[host] = str(error)
        if host in silent:
            yield Finding(WARNING, image, f"its registry cannot be reached from here: {silent[host]}")
            continue
        if status == 200:
            yield Finding(OK, image, "the image is there")
        elif status == 404:
            yield Finding(
                ERROR,
                image,
                "there is no such image",
                "push it, or correct its name",
                MissingInputError.exit_code,
            )
        else:
            yield Finding(WARNING, image, f"its registry does not let you look (status {status})")
