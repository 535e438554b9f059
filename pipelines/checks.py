"""Checks before a job is sent: data, output, buckets, accounts, images.

Each check returns findings, with the command that fixes a problem. What cannot be checked from here (no
permission, no network) is a warning: the target itself will report a problem.
"""

import contextlib
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.arguments import Kind, with_flags
from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    OutputError,
    PipelineError,
    UnavailableError,
)
from imgpipe.components.platforms.kubernetes.storage_secret import (
    DEFAULT_STORAGE_SECRET,
    storage_secret_error,
)
from imgpipe.components.platforms.vertex.client import is_plain_http
from imgpipe.components.preflight.inputs import check_local_folder, found_input
from imgpipe.components.preflight.path_arguments import INPUT_KINDS, path_arguments, paths_in
from imgpipe.components.preflight.preflight import check_cluster_access
from imgpipe.components.storage import Location, ObjectLocation, deadline, parse_location, uri_of_mounted
from imgpipe.components.storage.cloud_storage import CloudStorageLocation

OK, WARNING, ERROR = "ok", "warning", "error"
_READ = ("storage.objects.get", "storage.objects.list")
_WRITE = (*_READ, "storage.objects.create", "storage.objects.delete")
# Roles on a bucket that include these permissions.
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
# Deadline of a request. It is short because a person waits, and the target checks everything again.
_SECONDS = 10
# Namespace and ServiceAccount of KFP's pods: kubeflow/pipelines, manifests/kustomize/base/pipeline, 2.17.
_PODS_NAMESPACE, _PIPELINE_ACCOUNT = "kubeflow", "pipeline-runner"
# In a user's namespace: manifests/kustomize/base/installs/multi-user/api-service/params.env, 2.17.
_USER_ACCOUNT = "default-editor"
# Only these registries get Google's token.
_GOOGLE_REGISTRIES = re.compile(r"([a-z0-9.-]+\.)?(gcr\.io|pkg\.dev)")


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        status: ``ok``, ``warning`` or ``error``.
        subject: What was checked, e.g. ``--training_data_path``.
        message: What was found.
        fix: The command or action that fixes a problem; may be empty.
        exit_code: The exit code of an error.
    """

    status: str
    subject: str
    message: str
    fix: str = ""
    exit_code: int = InvalidArgumentError.exit_code


class Google:
    """A client of Google's REST APIs with the user's credentials.

    Args:
        session: Creates the HTTP session when it is first needed.
        endpoint: A local server that replaces all of them; empty = Google's own.
    """

    def __init__(self, session: Callable[[], Any], endpoint: str = "") -> None:
        self._make_session = session
        self._session: Any = None
        self._endpoint = endpoint if is_plain_http(endpoint) else ""

    def request(self, service: str, path: str, *, post: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Returns status and JSON of a response.

        Raises:
            UnavailableError: if there are no credentials.
            ConnectionError: if there is no response.
        """
        response = self._send(f"{self._endpoint or f'https://{service}.googleapis.com'}/{path}", post=post)
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, {}

    def head(self, address: str, headers: Mapping[str, str]) -> int:
        """Returns the status of a HEAD request to any address; only Google's registries get credentials.

        Raises:
            ConnectionError: if there is no response.
        """
        if _GOOGLE_REGISTRIES.fullmatch(urllib.parse.urlsplit(address).hostname or ""):
            with contextlib.suppress(UnavailableError):
                return int(self._send(address, headers=headers, method="HEAD").status_code)
        import requests

        try:
            return int(requests.head(address, headers=headers, timeout=_SECONDS).status_code)
        except requests.RequestException as error:
            raise ConnectionError(type(error).__name__) from None

    def _send(
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


def check_data(values: Mapping[str, Any], *, on_this_machine: bool) -> Iterator[Finding]:
    """Checks that the files and folders of the input exist.

    Args:
        values: The job's arguments.
        on_this_machine: Whether the steps run on this machine, not in a pod: local paths are its own, and
            without credentials, public data is read.
    """
    unreachable: dict[type[Location], tuple[str, str]] = {}
    for name in path_arguments(*INPUT_KINDS):
        value = str(values.get(name) or "")
        subject = f"--{name}"
        if not paths_in(name, value):
            continue
        location = parse_location(value)
        store = type(location)
        if location.is_local and not on_this_machine:
            yield Finding(
                WARNING, subject, f"{value} is a path in the pods, which cannot be checked from here"
            )
            continue
        if isinstance(location, ObjectLocation) and not on_this_machine:
            error = location.missing_credentials()
            if error is not None:
                unreachable[store] = error.problem, f"to have it checked: {error.remedy}"
        if store in unreachable:
            reason, fix = unreachable[store]
            yield Finding(WARNING, subject, f"it cannot be checked: {reason}", fix)
            continue
        try:
            with deadline(_SECONDS):
                yield Finding(OK, subject, found_input(name, value))
        except MissingInputError as error:
            yield Finding(
                ERROR,
                subject,
                " ".join(filter(None, (error.problem, error.where))),
                with_flags(error.remedy, path_arguments(*INPUT_KINDS)),
                error.exit_code,
            )
        except InterruptedRunError:
            # The next request would time out, too.
            service = location.service if isinstance(location, ObjectLocation) else subject
            reason, fix = (
                f"{service} does not respond",
                "check this machine's network and proxy (HTTPS_PROXY)",
            )
            unreachable[store] = reason, fix
            yield Finding(WARNING, subject, f"it cannot be checked: {reason}", fix)
        except PipelineError as error:
            yield Finding(WARNING, subject, f"it cannot be checked: {error.problem}", error.remedy)


def check_local_output(folder: Path) -> Finding:
    """Checks that a local folder can be written, without creating it."""
    try:
        check_local_folder("job_dir", folder)
    except OutputError as error:
        return Finding(ERROR, "--job-dir", error.problem, error.remedy, error.exit_code)
    return Finding(OK, "--job-dir", f"{folder} can be written")


def check_buckets(
    google: Google, values: Mapping[str, Any], region: str, account: str, project: str, *, pipeline: bool
) -> Iterator[Finding]:
    """Checks that the buckets exist, are in the job's region, and grant the job's account access.

    Args:
        google: Google's APIs.
        values: The job's arguments.
        region: The job's region.
        account: The job's account; empty = Vertex AI's agent, or a pipeline's default account.
        project: The job's project.
        pipeline: Whether it is a pipeline, not only a training job.
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
        status, response = google.request("storage", f"storage/v1/b/{bucket}")
        if status == 404:
            yield Finding(
                ERROR,
                subject,
                "the bucket does not exist",
                f"gcloud storage buckets create gs://{bucket} --location={region}",
                MissingInputError.exit_code,
            )
            continue
        if status != 200:
            yield Finding(WARNING, subject, "it cannot be checked: you are not allowed to see the bucket")
            continue
        yield _region_finding(subject, str(response.get("location", "")), region)
        if account:
            yield from _access_findings(google, bucket, permissions, account)


def _bucket(path: str) -> str:
    path = uri_of_mounted(path.strip())
    location = parse_location(path)
    return location.bucket if isinstance(location, CloudStorageLocation) else ""


def _default_account(google: Google, project: str, *, pipeline: bool) -> str:
    """Returns the default account of jobs, or "" if the project's number cannot be read."""
    status, response = google.request("cloudresourcemanager", f"v1/projects/{project}")
    if status != 200 or "projectNumber" not in response:
        return ""
    if pipeline:
        # Vertex AI Pipelines uses Compute Engine's default service account.
        return f"{response['projectNumber']}-compute@developer.gserviceaccount.com"
    return f"service-{response['projectNumber']}@gcp-sa-aiplatform-cc.iam.gserviceaccount.com"


def _region_finding(subject: str, location: str, region: str) -> Finding:
    location = location.lower()
    # Multi-regions are US, EU, ASIA; dual-regions, such as NAM4, are not mapped.
    continent = {"us": "us", "eu": "europe", "asia": "asia"}.get(location)
    if location == region or (continent and region.startswith(continent)):
        return Finding(OK, subject, f"it is in {location}, the job runs in {region}")
    return Finding(
        WARNING,
        subject,
        f"it is in {location}, but the job runs in {region}: reads are slow, and the traffic is charged",
        f"--region={location}, or copy the data to a bucket in {region}",
    )


def _access_findings(
    google: Google, bucket: str, permissions: Sequence[str], account: str
) -> Iterator[Finding]:
    subject = f"gs://{bucket}"
    writes = len(permissions) > len(_READ)
    access = "write to" if writes else "read"
    role = "roles/storage.objectUser" if writes else "roles/storage.objectViewer"
    fix = (
        f"gcloud storage buckets add-iam-policy-binding gs://{bucket} "
        f"--member=serviceAccount:{account} --role={role}"
    )
    status, policy = google.request("storage", f"storage/v1/b/{bucket}/iam")
    if status != 200:
        yield Finding(
            WARNING,
            subject,
            f"you are not allowed to see whether {account} may {access} it",
            f"if it may not: {fix}",
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
        yield Finding(OK, subject, f"{account} may {access} it")
        return
    # A warning only: the project may grant what the bucket does not.
    yield Finding(
        WARNING, subject, f"the bucket does not allow {account} to {access} it; the project may", fix
    )


def check_rights(google: Google, project: str, account: str, *, pipeline: bool) -> Iterator[Finding]:
    """Checks that Vertex AI is enabled, and that you may start jobs and run them as their account.

    Args:
        google: Google's APIs.
        project: The job's project.
        account: The job's account; empty = Vertex AI's agent.
        pipeline: Whether it is a pipeline, not only a training job.
    """
    status, response = google.request(
        "serviceusage", f"v1/projects/{project}/services/aiplatform.googleapis.com"
    )
    enable = f"gcloud services enable aiplatform.googleapis.com --project={project}"
    if status == 200 and response.get("state") != "ENABLED":
        yield Finding(
            ERROR, project, "Vertex AI is not enabled in the project", enable, UnavailableError.exit_code
        )
    needed = ["aiplatform.customJobs.create", "aiplatform.customJobs.get"]
    needed += ["aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.get"] if pipeline else []
    status, response = google.request(
        "cloudresourcemanager", f"v1/projects/{project}:testIamPermissions", post={"permissions": needed}
    )
    missing = sorted(set(needed) - set(response.get("permissions", [])))
    grant = f"gcloud projects add-iam-policy-binding {project} --member=user:YOU --role=roles/aiplatform.user"
    if status != 200:
        yield Finding(WARNING, project, "your permissions cannot be checked: you are not allowed to see them")
    elif missing:
        yield Finding(ERROR, project, f"you lack {', '.join(missing)}", grant, UnavailableError.exit_code)
    else:
        yield Finding(OK, project, "you may start jobs")
    if not account:
        return
    status, response = google.request(
        "iam",
        f"v1/projects/-/serviceAccounts/{account}:testIamPermissions",
        post={"permissions": ["iam.serviceAccounts.actAs"]},
    )
    if status == 404:
        name = account.partition("@")[0]
        yield Finding(
            ERROR,
            account,
            "the account does not exist",
            f"gcloud iam service-accounts create {name} --project={project}",
            MissingInputError.exit_code,
        )
    elif status != 200:
        yield Finding(WARNING, account, "it cannot be checked whether you may run jobs as it")
    elif "iam.serviceAccounts.actAs" not in response.get("permissions", []):
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
    """Checks that the images exist.

    Args:
        google: A client with credentials for Artifact Registry.
        images: Full names of the images.
        registry_needed: Whether a name without a registry is an error; a cluster may have such images itself.
    """
    unreachable: dict[str, str] = {}
    for image in sorted(set(images)):
        match = re.fullmatch(r"(?:([^/]+[.:][^/]*|localhost)/)?([^:@]+)(?::([^@]+))?(?:@(.+))?", image)
        if not match or not match.group(1):
            yield Finding(
                ERROR if registry_needed else WARNING,
                image,
                "the name has no registry, so no machine can pull it"
                if registry_needed
                else "the name has no registry: the steps run only on nodes that already have the image",
                "push the images, and give --image-registry or --images-lock",
            )
            continue
        host, path, tag, digest = match.groups()
        local = host.split(":")[0] in ("127.0.0.1", "localhost")
        address = f"{'http' if local else 'https'}://{host}/v2/{path}/manifests/{digest or tag or 'latest'}"
        try:
            # A registry that timed out is not tried again.
            status = 0 if host in unreachable else google.head(address, {"Accept": _MANIFESTS})
        except ConnectionError as error:
            unreachable[host] = str(error)
        if host in unreachable:
            yield Finding(WARNING, image, f"its registry cannot be reached from here: {unreachable[host]}")
            continue
        if status == 200:
            yield Finding(OK, image, "the image exists")
        elif status == 404:
            yield Finding(
                ERROR,
                image,
                "the image does not exist",
                "push it, or correct its name",
                MissingInputError.exit_code,
            )
        else:
            yield Finding(WARNING, image, f"its registry denies access (status {status})")


def check_cluster(
    pipeline: str, values: Mapping[str, Any], namespace: str, account: str
) -> Iterator[Finding]:
    """Checks the storage Secret and the permissions of the pods' account, with the kubeconfig file.

    Args:
        pipeline: The name of the pipeline's file.
        values: The run's parameters.
        namespace: The namespace of the run's pods; empty = Kubeflow's default.
        account: Their ServiceAccount; empty = Kubeflow's default.
    """
    # Imported here: the client takes a second to load.
    from imgpipe.components.platforms.kubernetes.client import connect, read_secret

    namespace = namespace or _PODS_NAMESPACE
    secret = str(values.get("storage_secret", DEFAULT_STORAGE_SECRET))
    account = account or (_PIPELINE_ACCOUNT if namespace == _PODS_NAMESPACE else _USER_ACCOUNT)
    user = f"system:serviceaccount:{namespace}:{account}"
    try:
        cluster = connect("read the Secret in", namespace, in_cluster=False)
        entries = read_secret(cluster, secret, timeout_seconds=_SECONDS)
        yield _finding("storage_secret", storage_secret_error(secret, entries, entries.get("path", "")))
    except PipelineError as error:
        yield Finding(WARNING, "storage_secret", f"it cannot be checked: {error.problem}", error.remedy)
        # A user without access to Secrets can have the right to ask what the account may do.
        if not (isinstance(error, UnavailableError) and error.status):
            return
    try:
        check_cluster_access(
            pipeline,
            values,
            lambda purpose, other: connect(purpose, other or namespace, in_cluster=False),
            account=user,
        )
        yield _finding(user, None)
    except UnavailableError as error:
        # You may lack the permission to ask.
        status = WARNING if error.status else ERROR
        yield Finding(status, user, error.problem, error.remedy, error.exit_code)
    except PipelineError as error:
        yield Finding(WARNING, user, f"it cannot be checked: {error.problem}", error.remedy)


def _finding(subject: str, error: PipelineError | None) -> Finding:
    if error is None:
        return Finding(OK, subject, "nothing is missing")
    return Finding(ERROR, subject, error.problem, error.remedy, error.exit_code)
