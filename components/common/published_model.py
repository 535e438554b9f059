"""Publishes a model to ``job_dir/model``, as the original algorithm did."""

import json
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from imgpipe.components.common.errors import MissingInputError, OutputError
from imgpipe.components.common.provenance import DEPLOYMENT_CONFIG_NAME, FORMATS_FOLDER, PROVENANCE_NAME
from imgpipe.components.storage import cloud_storage
from imgpipe.components.storage.cloud_storage import is_cloud_path
from imgpipe.components.storage.files import absolute_location, joined, publish_folder
from imgpipe.components.storage.folders import CloudFolder

MODEL_FOLDER = "model"
SAVED_MODEL_NAME = "saved_model.pb"
# The content of a model folder: TensorFlow's files, our two, and other formats.
_MODEL_NAMES = {
    SAVED_MODEL_NAME,
    "fingerprint.pb",
    "variables",
    "assets",
    DEPLOYMENT_CONFIG_NAME,
    PROVENANCE_NAME,
    FORMATS_FOLDER,
}
# The models of a tuning's trials are subfolders of the best one's folder, as in the original algorithm.
TRIAL_MODEL = re.compile(r"trial_[\w-]+")
# The hidden, partial copy of a trial's model that a killed process left.
_PARTIAL_TRIAL_MODEL = re.compile(r"\.trial_[\w-]+\.[0-9a-f]+\.(partial|old)")
# The prefix of a model's objects until the upload is complete.
_INCOMING = re.compile(rf"\.{MODEL_FOLDER}\.[0-9a-f]{{32}}\.partial/")


def check_model_target(job_dir: str) -> str:
    """Returns ``job_dir/model``, the folder that a model will be published to.

    Args:
        job_dir: A local folder or ``gs://``.

    Raises:
        InvalidArgumentError: if job_dir is another URL.
        OutputError: if it contains files other than a model that imgpipe wrote, which would be replaced.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    target = joined(absolute_location(job_dir), MODEL_FOLDER)
    if is_cloud_path(target):
        names = _model_objects(target)
        replaceable = not names or _is_our_model(
            {name.partition("/")[0] for name in names}, CloudFolder(target).read
        )
    else:
        replaceable = not Path(target).exists() or _is_our_model_folder(Path(target))
    if replaceable:
        return target
    raise OutputError(
        f"{target!r} exists and is not a model that imgpipe wrote",
        remedy="give another job_dir, or move the folder: imgpipe replaces only its own models",
    )


def publish_model(model_folder: Path, job_dir: str) -> str:
    """Copies a model folder to ``job_dir/model`` by write-then-swap and returns that location.

    An earlier model that imgpipe wrote is replaced, and is complete until then. Cloud Storage renames only
    single objects: the new model is first uploaded completely under another prefix. ``saved_model.pb``,
    without which a model cannot be loaded, is the first object of the old model to be removed and the last
    of the new one to be moved; ``provenance.json``, which identifies a model of imgpipe, is the last to be
    removed and the first to be moved. The models of a tuning's trials are kept.

    Raises:
        InvalidArgumentError: if job_dir is a URL other than ``gs://``.
        OutputError: if ``job_dir/model`` is not a model that imgpipe wrote or cannot be written.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    target = check_model_target(job_dir)
    if is_cloud_path(target):
        publish_model_at(model_folder, target)
    else:
        publish_folder(model_folder, Path(target), kept=TRIAL_MODEL)
    return target


def publish_model_at(model_folder: Path, target: str) -> None:
    """Copies a model folder to a location, local or ``gs://``, like ``publish_model``, unchecked."""
    if not is_cloud_path(target):
        publish_folder(model_folder, Path(target))
        return
    parent, name = target.rsplit("/", 1)
    folder, incoming = CloudFolder(parent), f".{name}.{uuid.uuid4().hex}.partial"
    paths = [path for path in model_folder.rglob("*") if path.is_file()]
    names = sorted((path.relative_to(model_folder).as_posix() for path in paths), key=_publication_order)
    for file in folder.names():
        if _INCOMING.match(file):
            # Left by a killed process.
            folder.remove(file)
    try:
        for file in names:
            cloud_storage.upload(model_folder / file, f"{parent}/{incoming}/{file}")
        for file in sorted(_model_objects(target), key=_publication_order, reverse=True):
            folder.remove(f"{name}/{file}")
        for file in names:
            folder.move(f"{incoming}/{file}", f"{name}/{file}")
    except BaseException:
        for file in CloudFolder(f"{parent}/{incoming}").names():
            folder.remove(f"{incoming}/{file}")
        raise


def fetch_model(location: str, target: Path) -> None:
    """Copies a model folder, local or in Cloud Storage, to a local one, without the models of trials.

    Raises:
        MissingInputError: if an object cannot be read.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if not is_cloud_path(location):
        shutil.copytree(location, target, dirs_exist_ok=True)
        return
    for name in _model_objects(location):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        cloud_storage.download(f"{location}/{name}", target / name)


def _model_objects(target: str) -> list[str]:
    """Returns the objects of a model in Cloud Storage, without the models of trials."""
    return [name for name in CloudFolder(target).names() if not TRIAL_MODEL.fullmatch(name.partition("/")[0])]


def _publication_order(file: str) -> tuple[int, str]:
    return {PROVENANCE_NAME: 0, SAVED_MODEL_NAME: 2}.get(file, 1), file


def _is_our_model_folder(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {
        path.name
        for path in folder.iterdir()
        if not TRIAL_MODEL.fullmatch(path.name) and not _PARTIAL_TRIAL_MODEL.fullmatch(path.name)
    }
    return not names or _is_our_model(names, lambda name: (folder / name).read_bytes())


def _is_our_model(names: set[str], read: Callable[[str], bytes]) -> bool:
    """Whether a folder with these names is a model that imgpipe wrote, without any other files."""
    if PROVENANCE_NAME not in names or names - _MODEL_NAMES:
        return False
    try:
        versions = json.loads(read(PROVENANCE_NAME))["versions"]
    except (OSError, ValueError, KeyError, TypeError, MissingInputError):
        return False
    return isinstance(versions, dict) and "imgpipe" in versions
