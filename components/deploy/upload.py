"""Puts a model where servers of a cluster read it: a folder of its own for each model."""

from pathlib import Path

from imgpipe.components.common.log import timed
from imgpipe.components.storage import cloud_storage

# Servers of TensorFlow Serving's layout want a version below the folder that they are given.
VERSION = "1"
_DIGITS = 16


def upload_model(model_folder: Path, deploy_dir: str, digest: str) -> str:
    """Uploads a model to ``deploy_dir/<digest>/1`` unless it is there, and returns ``deploy_dir/<digest>``.

    A server that restarts finds the model that it served before, whatever was uploaded since.

    Raises:
        OutputError: if the bucket may not be written.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    base = f"{deploy_dir.rstrip('/')}/{digest[:_DIGITS]}"
    # Uploaded last: where it is, everything is.
    last = "saved_model.pb"
    if cloud_storage.object_at(f"{base}/{VERSION}/{last}") is not None:
        return base
    names = sorted(
        path.relative_to(model_folder).as_posix() for path in model_folder.rglob("*") if path.is_file()
    )
    with timed("uploaded", f"deploy: the model is in {base}"):
        for name in [*(name for name in names if name != last), last]:
            cloud_storage.upload(model_folder / name, f"{base}/{VERSION}/{name}")
    return base
