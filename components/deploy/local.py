"""Deploys to a local folder in TensorFlow Serving's layout, which a server may watch."""

import json
import re
import shutil
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    must_be_writable,
)
from imgpipe.components.common.log import log_event
from imgpipe.components.common.model_folder import model_digest, version_folders
from imgpipe.components.common.published_model import SAVED_MODEL_NAME
from imgpipe.components.common.shared_arguments import LOCAL_TARGET
from imgpipe.components.common.verification import VERIFICATION_NAME, read_verified_model
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deployment import Deployment
from imgpipe.components.storage import copy_folder, local_path, move_folder

_POLL_SECONDS = 0.2
_REQUEST_TIMEOUT_SECONDS = 5.0


def deploy_locally(model_folder: Path, arguments: DeployArguments) -> Deployment:
    """Adds a model to a folder as its latest version, if its files are those that the export step verified.

    The new version appears in one step. If the latest version is the same model, nothing changes. Older
    versions are kept: to roll back, remove the latest.

    Args:
        model_folder: The model that the export step published.
        arguments: ``deploy_dir``, and optionally ``serving_url``: if the server there does not serve the new
            version in time, the version is removed.

    Raises:
        MissingInputError: if the export step did not write the model.
        CheckFailedError: if the model's files were changed after the export, or it is not served; the
            previous version still serves.
        OutputError: if the folder is not writable.
        InterruptedRunError: if the server at ``serving_url`` cannot be reached.
    """
    read_verified_model(model_folder)
    base = local_path(arguments.deploy_dir)
    digest = model_digest(model_folder)
    versions = version_folders(base)
    if versions and model_digest(versions[max(versions)]) == digest:
        return _deployment(base, max(versions), digest, changed=False)
    incoming = base / f".incoming-{uuid.uuid4().hex}"
    try:
        with must_be_writable(f"to {str(base)!r}"):
            # Servers do not read the images of the verification.
            copy_folder(model_folder, incoming, ignore=re.compile(re.escape(VERIFICATION_NAME)))
        version = _add_version(incoming, base)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    if arguments.serving_url:
        _check_served(base, version, arguments)
    return _deployment(base, version, digest, changed=True)


def _deployment(base: Path, version: int, digest: str, *, changed: bool) -> Deployment:
    folder = base / str(version)
    return Deployment(LOCAL_TARGET, base.absolute().name, str(version), str(folder), 100, changed, digest)


def _add_version(incoming: Path, base: Path) -> int:
    """Moves the folder to the next version; another deployment may do so at the same time."""
    while True:
        # Includes numbered folders without a model.
        taken = [int(path.name) for path in base.iterdir() if path.name.isascii() and path.name.isdigit()]
        version = max(taken, default=0) + 1
        try:
            # Fails if a folder with files has that name.
            move_folder(incoming, base / str(version), last=SAVED_MODEL_NAME)
        except OSError:
            if not (base / str(version)).exists():
                raise
        else:
            return version


def _check_served(base: Path, version: int, arguments: DeployArguments) -> None:
    """Waits until the server reports that it serves the version; otherwise removes the version.

    Raises:
        CheckFailedError: with the server's reason.
        InterruptedRunError: if the server was never reached.
    """
    url = f"{arguments.serving_url.rstrip('/')}/v1/models/{arguments.resolved_name()}"
    deadline = time.monotonic() + arguments.deploy_timeout_seconds
    is_reached, reason = False, ""
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=_REQUEST_TIMEOUT_SECONDS) as response:  # noqa: S310 - the user's URL
                statuses = json.load(response)["model_version_status"]
        except (OSError, ValueError, KeyError) as error:
            reason = f"{url} does not respond: {error}"
            statuses = []
            is_reached = is_reached or isinstance(error, urllib.error.HTTPError)
        else:
            is_reached = True
        status = next((status for status in statuses if status["version"] == str(version)), None)
        if status is not None and status["state"] == "AVAILABLE":
            log_event("served", f"deploy: {url} serves version {version}")
            return
        if status is not None and status["status"].get("error_message"):
            reason = str(status["status"]["error_message"])
            break
        time.sleep(_POLL_SECONDS)
    # First: without it, no server loads the folder.
    (base / str(version) / SAVED_MODEL_NAME).unlink()
    shutil.rmtree(base / str(version), ignore_errors=True)
    message = f"version {version} was rolled back: {reason or 'the server did not serve it in time'}"
    if not is_reached:
        raise InterruptedRunError(message, remedy="start the server at serving_url, or correct the address")
    raise CheckFailedError(
        message, where=url, remedy="see the server's log; the previous version still serves"
    )
