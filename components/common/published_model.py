"""Publishes a model to ``job_dir/model``, as the original algorithm did."""

import json
import re
import shutil
from pathlib import Path

from imgpipe.components.common.errors import MissingInputError, OutputError
from imgpipe.components.common.provenance import (
    DEPLOYMENT_CONFIG_NAME,
    DRIFT_NAME,
    FORMATS_FOLDER,
    PROVENANCE_NAME,
)
from imgpipe.components.common.verification import VERIFICATION_NAME
from imgpipe.components.storage import Location, read_unchanged

MODEL_FOLDER = "model"
SAVED_MODEL_NAME = "saved_model.pb"
# The content of a model folder: TensorFlow's files, our three, and other formats.
_MODEL_NAMES = {
    SAVED_MODEL_NAME,
    "fingerprint.pb",
    "variables",
    "assets",
    DEPLOYMENT_CONFIG_NAME,
    PROVENANCE_NAME,
    DRIFT_NAME,
    FORMATS_FOLDER,
    VERIFICATION_NAME,
}
# The models of a tuning run's trials are subfolders of the best one's folder, as in the original algorithm.
TRIAL_MODEL = re.compile(r"trial_[\w-]+")
# The hidden files and folders beside a published folder; see storage.publication.
_PUBLICATION_FILE = r"\.{name}\.(current|[0-9a-f]+\.(partial|old))"
TRIAL_FILES = re.compile(f"{TRIAL_MODEL.pattern}|{_PUBLICATION_FILE.format(name=TRIAL_MODEL.pattern)}")


def is_publication_file(name: str) -> bool:
    """Whether a file or folder of a job_dir belongs to the publication of its model."""
    return re.fullmatch(_PUBLICATION_FILE.format(name=MODEL_FOLDER), name) is not None


def check_model_target(job_dir: Location) -> Location:
    """Returns ``job_dir/model``, the folder that a model will be published to.

    Raises:
        OutputError: if it contains files other than a model that imgpipe wrote, which would be replaced.
        InterruptedRunError: if a remote store cannot be reached.
    """
    target = job_dir.absolute() / MODEL_FOLDER
    if not _may_be_replaced(target):
        raise OutputError(
            f"{target!r} exists and is not a model that imgpipe wrote",
            remedy="use another job_dir, or move the folder: imgpipe replaces only its own models",
        )
    return target


def publish_model(model_folder: Path, job_dir: Location) -> Location:
    """Copies a model folder to ``job_dir/model`` and returns that location.

    An earlier model that imgpipe wrote is replaced. At any moment, also after a kill, readers find the old
    or the new model; see ``storage.publication``. Readers other than imgpipe's find none for the moment in
    which an object store replaces the objects: ``saved_model.pb``, without which a model cannot be loaded, is
    removed first and written last. ``provenance.json``, which identifies a model of imgpipe, is written
    first. The models of a tuning run's trials are kept.

    Raises:
        OutputError: if ``job_dir/model`` is not a model that imgpipe wrote or cannot be written.
        InterruptedRunError: if a remote store cannot be reached.
    """
    target = check_model_target(job_dir)
    publish_model_at(model_folder, target)
    return target


def publish_model_at(model_folder: Path, target: Location) -> None:
    """Copies a model folder to a location like ``publish_model``, unchecked."""
    target.publish_folder(model_folder, keep=TRIAL_FILES, first=PROVENANCE_NAME, last=SAVED_MODEL_NAME)


def fetch_model(location: Location, target: Path) -> None:
    """Copies a model folder to a local one, which it replaces, without the models of trials.

    Raises:
        MissingInputError: if an object cannot be read.
        InterruptedRunError: if a remote store cannot be reached.
    """

    def copy(folder: Location) -> None:
        # Files of a model that was replaced while it was copied.
        shutil.rmtree(target, ignore_errors=True)
        folder.download_folder(target, ignore=TRIAL_FILES)

    read_unchanged(location, copy)


def _may_be_replaced(folder: Location) -> bool:
    """Whether a folder is empty, or a model that imgpipe wrote, without any other files."""
    try:
        children = {name.rstrip("/") for name in folder.children()}
        names = {name for name in children if not TRIAL_FILES.fullmatch(name)}
        if not names:
            return True
        if PROVENANCE_NAME not in names or names - _MODEL_NAMES:
            return False
        versions = json.loads((folder / PROVENANCE_NAME).read())["versions"]
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError, MissingInputError):
        return False
    return isinstance(versions, dict) and "imgpipe" in versions
