"""Deploys into a folder in TensorFlow Serving's layout, which a server there watches."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from imgpipe.components.common.errors import (
    CheckFailedError,
    InterruptedRunError,
    MissingInputError,
    OutputError,
)
from imgpipe.components.common.log import log_event, parse_event
from imgpipe.components.common.model_folder import model_digest, version_folders
from imgpipe.components.common.shared_arguments import LOCAL_TARGET
from imgpipe.components.deploy.arguments import DeployArguments
from imgpipe.components.deploy.deployment import Deployment
from imgpipe.components.storage.files import local_path

_POLL_SECONDS = 0.2
_REQUEST_SECONDS = 5.0


def deploy_locally(model_folder: Path, arguments: DeployArguments) -> Deployment:
    """Makes a model the highest version of a folder, once a process of its own has answered with it.

    A server sees the new version whole or not at all. If the highest version is this very model, nothing
    is changed. Older versions stay: to go back, remove the highest.

    Args:
        model_folder: What the export step published.
        arguments: ``deploy_dir``; with ``serving_url``, the server there must serve the new version in
            time, or it is taken back.

    Raises:
        MissingInputError: if there is no model.
        CheckFailedError: if it does not answer; what was served before is served still.
        OutputError: if the folder cannot be written.
        InterruptedRunError: if the server at ``serving_url`` cannot be reached.
    """
    if not (model_folder / "saved_model.pb").is_file():
        raise MissingInputError(
            f"there is no SavedModel in {str(model_folder)!r}", remedy="give what the export step published"
        )
    base = local_path(arguments.deploy_dir)
    digest = model_digest(model_folder)
    versions = version_folders(base)
    if versions and model_digest(versions[max(versions)]) == digest:
        return _deployment(base, max(versions), digest, changed=False)
    incoming = base / f".incoming-{uuid.uuid4().hex}"
    try:
        try:
            shutil.copytree(model_folder, incoming)
        except OSError as error:
            raise OutputError(
                f"cannot write to {str(base)!r}: {error.strerror or error}",
                remedy="free some space, or name a folder that you may write to",
            ) from None
        _check_in_fresh_process(incoming)
        version = _numbered(incoming, base)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    if arguments.serving_url:
        _check_served(base, version, arguments)
    return _deployment(base, version, digest, changed=True)


def _deployment(base: Path, version: int, digest: str, *, changed: bool) -> Deployment:
    folder = base / str(version)
    return Deployment(LOCAL_TARGET, base.absolute().name, str(version), str(folder), 100, changed, digest)


def _numbered(incoming: Path, base: Path) -> int:
    """Gives the folder the next number; another deployment may take one at the same time."""
    while True:
        # Also above a numbered folder that holds no model.
        taken = [int(path.name) for path in base.iterdir() if path.name.isascii() and path.name.isdigit()]
        version = max(taken, default=0) + 1
        try:
            # Fails if a folder with content is there.
            os.rename(incoming, base / str(version))
        except OSError:
            if not (base / str(version)).exists():
                raise
        else:
            return version


def _check_in_fresh_process(folder: Path) -> None:
    result = subprocess.run(
        # The current folder may hold a folder `components` of the user's own.
        [sys.executable, "-P", "-m", "imgpipe.components.deploy.probe", f"--model={folder}"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if result.returncode == 0:
        return
    events = [event for event in map(parse_event, result.stdout.splitlines()) if event]
    reason = next(
        (str(event["problem"]) for event in events if event["event"] == "step_failed"),
        f"the process that loaded it ended with status {result.returncode}",
    )
    raise CheckFailedError(
        f"the model is not deployed: {reason}",
        remedy="export a model that passes its check; what was served before is served still",
    )


def _check_served(base: Path, version: int, arguments: DeployArguments) -> None:
    """Waits until the server says that it serves the version; takes the version back if it does not.

    Raises:
        CheckFailedError: with the server's reason.
        InterruptedRunError: if the server was never reached.
    """
    url = f"{arguments.serving_url.rstrip('/')}/v1/models/{arguments.resolved_name()}"
    deadline = time.monotonic() + arguments.deploy_timeout_seconds
    reached, reason = False, ""
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=_REQUEST_SECONDS) as answer:  # noqa: S310 - the user's URL
                statuses = json.load(answer)["model_version_status"]
        except (OSError, ValueError, KeyError) as error:
            reason = f"{url} does not answer: {error}"
            statuses = []
            reached = reached or isinstance(error, urllib.error.HTTPError)
        else:
            reached = True
        status = next((one for one in statuses if one["version"] == str(version)), None)
        if status is not None and status["state"] == "AVAILABLE":
            log_event("served", f"deploy: version {version} is served at {url}")
            return
        if status is not None and status["status"].get("error_message"):
            reason = str(status["status"]["error_message"])
            break
        time.sleep(_POLL_SECONDS)
    withdrawn = base / f".withdrawn-{version}-{uuid.uuid4().hex}"
    os.rename(base / str(version), withdrawn)
    shutil.rmtree(withdrawn, ignore_errors=True)
    message = f"version {version} was taken back: {reason or 'the server did not serve it in time'}"
    remedy = "see the server's log; what was served before is served still"
    if not reached:
        raise InterruptedRunError(message, remedy="start the server at serving_url, or correct the address")
    raise CheckFailedError(message, where=url, remedy=remedy)
