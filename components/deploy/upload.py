"""Uploads a model to a bucket, each to a folder of its own."""

from pathlib import Path

from imgpipe.components.common.errors import (
    InvalidArgumentError,
    MissingInputError,
    must_be_writable,
)
from imgpipe.components.common.log import timed
from imgpipe.components.common.verification import VERIFICATION_NAME, Verification, parse_verification
from imgpipe.components.storage import parse_location, split_volume_uri

# TensorFlow Serving expects a folder with numbered versions.
VERSION = "1"
_DIGEST_DIGITS = 16


def upload_model(model_folder: Path, deploy_dir: str, digest: str) -> str:
    """Uploads a model to ``deploy_dir/<digest>/1`` unless it exists, and returns ``deploy_dir/<digest>``.

    A server that restarts finds the model it has served before, even if others were uploaded since. Files
    that are missing or have another size, e.g. after an interrupted upload, are uploaded again.
    verification.json is written beside the folder ``1``: a later rollback to this model is verified with it.

    Raises:
        OutputError: if the bucket or the volume is not writable.
        InterruptedRunError: if a remote store cannot be reached.
    """
    folder = digest[:_DIGEST_DIGITS]
    base = parse_location(deploy_dir) / folder
    paths = {
        path.relative_to(model_folder).as_posix(): path for path in model_folder.rglob("*") if path.is_file()
    }
    targets = {
        name if name == VERIFICATION_NAME else f"{VERSION}/{name}": path for name, path in paths.items()
    }
    existing = base.contents()
    # saved_model.pb is uploaded last: without it, no server loads the folder.
    missing = sorted(
        (name for name, path in targets.items() if existing.get(name) != path.stat().st_size),
        key=lambda name: (name.endswith("/saved_model.pb"), name),
    )
    if missing:
        writable = must_be_writable(
            f"to {deploy_dir!r}, here {base}", "let user 65534, as which the step runs, write there"
        )
        with timed("uploaded", f"deploy: the model is in {base}"), writable:
            for name in missing:
                (base / name).upload(targets[name])
    # On a volume, the path here is not the servers'.
    return f"{deploy_dir.rstrip('/')}/{folder}" if split_volume_uri(deploy_dir) else str(base)


def read_uploaded_verification(storage_uri: str) -> Verification | None:
    """Returns the verification of an uploaded model; None if an earlier version of imgpipe has uploaded it.

    Raises:
        InterruptedRunError: if a remote store cannot be reached.
    """
    try:
        location = parse_location(storage_uri) / VERIFICATION_NAME
        return parse_verification(location.read(), str(location))
    except (MissingInputError, InvalidArgumentError, FileNotFoundError):
        return None
