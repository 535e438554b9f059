"""Uploads a model to a bucket, each to a folder of its own."""

from pathlib import Path

from imgpipe.components.common.log import timed
from imgpipe.components.storage import parse_location

# TensorFlow Serving expects a folder with numbered versions.
VERSION = "1"
_DIGEST_DIGITS = 16


def upload_model(model_folder: Path, deploy_dir: str, digest: str) -> str:
    """Uploads a model to ``deploy_dir/<digest>/1`` unless it exists, and returns ``deploy_dir/<digest>``.

    A server that restarts finds the model it has served before, even if others were uploaded since.

    Raises:
        OutputError: if the bucket is not writable.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    base = parse_location(deploy_dir) / digest[:_DIGEST_DIGITS]
    # Uploaded last: it marks a complete upload.
    last = "saved_model.pb"
    if (base / VERSION / last).status() is not None:
        return str(base)
    names = sorted(
        path.relative_to(model_folder).as_posix() for path in model_folder.rglob("*") if path.is_file()
    )
    with timed("uploaded", f"deploy: the model is in {base}"):
        for name in [*(name for name in names if name != last), last]:
            (base / VERSION / name).upload(model_folder / name)
    return str(base)
