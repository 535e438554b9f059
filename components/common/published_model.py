"""Puts a model into job_dir, where the original algorithm put it."""

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
# What a model folder of ours holds: TensorFlow's files, our two, and further formats.
_NAMES = {
    SAVED_MODEL_NAME,
    "fingerprint.pb",
    "variables",
    "assets",
    DEPLOYMENT_CONFIG_NAME,
    PROVENANCE_NAME,
    FORMATS_FOLDER,
}


# The models of a tuning's trials lie in the best one's folder, as the original algorithm laid them.
TRIAL_MODEL = re.compile(r"trial_[\w-]+")
# What a kill may have left of one, half-copied, under a hidden name.
_REST_OF_TRIAL = re.compile(r"\.trial_[\w-]+\.[0-9a-f]+\.(partial|old)")
# What is uploaded before it takes the model's place.
_INCOMING = re.compile(rf"\.{MODEL_FOLDER}\.[0-9a-f]{{32}}\.partial/")


def check_model_target(job_dir: str) -> str:
    """Returns ``job_dir/model``, the folder that a model will be published to.

    Args:
        job_dir: A local folder or ``gs://``.

    Raises:
        InvalidArgumentError: if job_dir is another URL.
        OutputError: if something stands there that is not a model of ours: it would be replaced.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    target = joined(absolute_location(job_dir), MODEL_FOLDER)
    if is_cloud_path(target):
        names = _own_names(target)
        ours = not names or _is_ours({name.partition("/")[0] for name in names}, CloudFolder(target).read)
    else:
        ours = not Path(target).exists() or _is_ours_here(Path(target))
    if ours:
        return target
    raise OutputError(
        f"{target!r} exists and is not a model that imgpipe wrote",
        remedy="name another job_dir, or move it away; nothing of others is replaced",
    )


def publish_model(model_folder: Path, job_dir: str) -> str:
    """Copies a model folder to ``job_dir/model`` by write-then-swap and returns that location.

    A model of ours that stood there is replaced; until then it stands there whole. Cloud Storage renames
    single objects only: there the new model is uploaded whole, and ``saved_model.pb``, without
    which nothing is loaded, is the first object of the old one to go and the last of the new one to come;
    ``provenance.json``, by which the folder is known as ours, is the last to go and the first to come. The
    models of a tuning's trials stay.

    Raises:
        InvalidArgumentError: if job_dir is a URL other than ``gs://``.
        OutputError: if ``job_dir/model`` is somebody else's or cannot be written.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    target = check_model_target(job_dir)
    if is_cloud_path(target):
        publish_model_at(model_folder, target)
    else:
        publish_folder(model_folder, Path(target), kept=TRIAL_MODEL)
    return target


def publish_model_at(model_folder: Path, target: str) -> None:
    """Copies a model folder to a location, in the way of ``publish_model``, whatever stands there.

    Args:
        model_folder: To be copied.
        target: A local folder or ``gs://``.
    """
    if not is_cloud_path(target):
        publish_folder(model_folder, Path(target))
        return
    parent, name = target.rsplit("/", 1)
    folder, incoming = CloudFolder(parent), f".{name}.{uuid.uuid4().hex}.partial"
    paths = [path for path in model_folder.rglob("*") if path.is_file()]
    names = sorted((path.relative_to(model_folder).as_posix() for path in paths), key=_arrival)
    for file in folder.names():
        if _INCOMING.match(file):
            # What a kill left.
            folder.remove(file)
    try:
        for file in names:
            cloud_storage.upload(model_folder / file, f"{parent}/{incoming}/{file}")
        for file in sorted(_own_names(target), key=_arrival, reverse=True):
            folder.remove(f"{name}/{file}")
        for file in names:
            folder.move(f"{incoming}/{file}", f"{name}/{file}")
    except BaseException:
        for file in CloudFolder(f"{parent}/{incoming}").names():
            folder.remove(f"{incoming}/{file}")
        raise


def fetch_model(location: str, target: Path) -> None:
    """Copies a model folder, local or in Cloud Storage, to a local one, without trials' models below it.

    Raises:
        MissingInputError: if an object cannot be read.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if not is_cloud_path(location):
        shutil.copytree(location, target, dirs_exist_ok=True)
        return
    for name in _own_names(location):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        cloud_storage.download(f"{location}/{name}", target / name)


def _own_names(target: str) -> list[str]:
    """Returns the objects of a model in Cloud Storage without those of the trials' models below it."""
    return [name for name in CloudFolder(target).names() if not TRIAL_MODEL.fullmatch(name.partition("/")[0])]


def _arrival(file: str) -> tuple[int, str]:
    return {PROVENANCE_NAME: 0, SAVED_MODEL_NAME: 2}.get(file, 1), file


def _is_ours_here(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = {
        path.name
        for path in folder.iterdir()
        if not TRIAL_MODEL.fullmatch(path.name) and not _REST_OF_TRIAL.fullmatch(path.name)
    }
    return not names or _is_ours(names, lambda name: (folder / name).read_bytes())


def _is_ours(names: set[str], read: Callable[[str], bytes]) -> bool:
    """Whether a folder with these names in it is a model that we wrote, with nothing added to it."""
    if PROVENANCE_NAME not in names or names - _NAMES:
        return False
    try:
        versions = json.loads(read(PROVENANCE_NAME))["versions"]
    except (OSError, ValueError, KeyError, TypeError, MissingInputError):
        return False
    return isinstance(versions, dict) and "imgpipe" in versions
