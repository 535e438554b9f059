"""Puts a model into job_dir, where the original algorithm put it."""

import re
from pathlib import Path

from components.common.errors import MissingInputError, OutputError
from components.common.provenance import DEPLOYMENT_CONFIG_NAME, PROVENANCE_NAME, read_provenance
from components.common.storage import local_path, publish_folder

MODEL_FOLDER = "model"
# What a model folder of ours holds: TensorFlow's files and our two.
_NAMES = {
    "saved_model.pb",
    "fingerprint.pb",
    "variables",
    "assets",
    DEPLOYMENT_CONFIG_NAME,
    PROVENANCE_NAME,
}


# The models of a tuning's trials lie in the best one's folder, as the original algorithm laid them; a kill
# may have left one half-copied, under a hidden name.
TRIAL_MODEL = re.compile(r"trial_\d+|\.trial_\d+\.[0-9a-f]+\.(partial|old)")


def check_model_target(job_dir: str) -> Path:
    """Returns ``job_dir/model``, the folder that a model will be published to.

    Raises:
        InvalidArgumentError: if job_dir is a URL.
        OutputError: if something stands there that is not a model of ours: it would be replaced.
    """
    target = local_path(job_dir) / MODEL_FOLDER
    if not target.exists() or _is_ours(target):
        return target
    raise OutputError(
        f"{str(target)!r} exists and is not a model that imgpipe wrote",
        remedy="name another job_dir, or move it away; nothing of others is replaced",
    )


def publish_model(model_folder: Path, job_dir: str) -> Path:
    """Copies a model folder to ``job_dir/model`` by write-then-swap and returns that path.

    A model of ours that stood there is replaced; until then it stands there whole. The models of a tuning's
    trials in it stay.

    Raises:
        InvalidArgumentError: if job_dir is a URL.
        OutputError: if ``job_dir/model`` is somebody else's or cannot be written.
    """
    target = check_model_target(job_dir)
    publish_folder(model_folder, target, kept=TRIAL_MODEL)
    return target


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty, or a model that we wrote with nothing added to it."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not TRIAL_MODEL.fullmatch(path.name)}
    if not names:
        return True
    if PROVENANCE_NAME not in names or names - _NAMES:
        return False
    try:
        versions = read_provenance(folder).get("versions")
    except MissingInputError:
        return False
    return isinstance(versions, dict) and "imgpipe" in versions
