"""Model folders in TensorFlow Serving's layout: one numbered folder per version, the highest is served."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgpipe.components.common.dataset import file_sha256
from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.published_model import MODEL_FOLDER, TRIAL_FILES
from imgpipe.components.common.published_model import SAVED_MODEL_NAME as _SAVED_MODEL
from imgpipe.components.common.verification import VERIFICATION_NAME
from imgpipe.components.storage import LocalLocation, Location, ObjectLocation, current_folder, read_unchanged


def version_folders(base: Path) -> dict[int, Path]:
    """Returns the versions in a folder, lowest first: numbered subfolders that contain a SavedModel."""
    if not base.is_dir():
        return {}
    numbered = {
        version: path
        for path in base.iterdir()
        if (version := _version(path.name)) is not None and (path / _SAVED_MODEL).is_file()
    }
    return dict(sorted(numbered.items()))


def served_versions(location: Path) -> dict[int, Path]:
    """Returns the versions at a path, lowest first: a SavedModel, or a run's ``model``, is version 1."""
    for folder in (location, location / MODEL_FOLDER):
        current = Path(str(current_folder(LocalLocation(str(folder)))))
        if (current / _SAVED_MODEL).is_file():
            return {1: current}
    return version_folders(location)


def model_folder_at(location: Path) -> Path:
    """Returns the folder of the SavedModel at a path: itself, a run's ``model``, or the highest version.

    Raises:
        MissingInputError: if none of them contains a SavedModel.
    """
    versions = served_versions(location)
    if not versions:
        if not location.is_dir():
            problem = f"there is no folder {str(location)!r}"
        else:
            problem = (
                f"{str(location)!r} is not a model: no {_SAVED_MODEL} in {location}, "
                f"{location / MODEL_FOLDER} or {location / '1'}, {location / '2'}, ..."
            )
        raise MissingInputError(
            problem, remedy="use the folder of a run, of a SavedModel, or of numbered versions"
        )
    return versions[max(versions)]


@contextmanager
def local_model(location: Location) -> Iterator[Path]:
    """Yields the local folder of a model; a copy of a remote one is removed afterwards.

    Args:
        location: A folder that holds saved_model.pb; a run's, with it in ``model``; or one with numbered
            versions, of which the highest is used.

    Raises:
        MissingInputError: if there is no model.
        InterruptedRunError: if a remote store cannot be reached.
    """
    if isinstance(location, LocalLocation):
        yield model_folder_at(location.path)
        return
    assert isinstance(location, ObjectLocation)  # noqa: S101 - all others are local
    with tempfile.TemporaryDirectory(prefix="imgpipe-model-") as folder:

        def download(current: Location) -> None:
            assert isinstance(current, ObjectLocation)  # noqa: S101 - in the same store
            # Left by an attempt during which the model was replaced.
            shutil.rmtree(folder)
            Path(folder).mkdir()
            for name in _model_files(list(current.contents())):
                current.download_below(Path(folder), name)

        for candidate in (location, location / MODEL_FOLDER):
            read_unchanged(candidate, download)
            if versions := served_versions(Path(folder)):
                yield versions[max(versions)]
                return
        raise MissingInputError(
            f"there is no SavedModel in {location!r} or {location / MODEL_FOLDER!r}",
            remedy="use the folder of a run, of a SavedModel, or of numbered versions",
        )


def check_not_tensorflow_checkpoint(location: Location) -> None:
    """Rejects a checkpoint of TensorFlow, e.g. of the original algorithm: its weights have other names.

    Args:
        location: A folder, or the common beginning of a checkpoint's files, e.g. ``model.ckpt-1000``.

    Raises:
        MissingInputError: if it is one.
        InterruptedRunError: if a remote store cannot be reached.
    """
    is_folder = location.is_folder()
    names = {name.rstrip("/") for name in location.children()} if is_folder else set()
    is_checkpoint = _SAVED_MODEL not in names and any(
        name == "checkpoint" or name.endswith((".index", ".meta")) for name in names
    )
    if not is_folder and location.status() is None:
        is_checkpoint = (location.parent / f"{location.name}.index").status() is not None
    if is_checkpoint or location.name.endswith(".index"):
        raise MissingInputError(
            f"{location!r} is a checkpoint of TensorFlow, e.g. of the original algorithm, whose weights have "
            "other names than imgpipe's",
            remedy="omit pretrained_checkpoint_path and give weights=imagenet, which starts from published "
            "weights of the same networks; or use a SavedModel or checkpoints folder of imgpipe",
        )


def model_digest(folder: Path) -> str:
    """Returns the SHA-256, in hexadecimal, of the names and contents of all files of a model folder.

    Without verification.json, which depends on the images of the evaluation.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != VERIFICATION_NAME:
            digest.update(f"{name}\n{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _model_files(names: list[str]) -> list[str]:
    """Returns the names of the objects that belong to the model or its highest version."""
    files = [name for name in names if not name.endswith("/")]
    if _SAVED_MODEL in files:
        return [name for name in files if not TRIAL_FILES.fullmatch(name.partition("/")[0])]
    folders = {name.removesuffix(f"/{_SAVED_MODEL}") for name in files if name.endswith(f"/{_SAVED_MODEL}")}
    versions = {version: folder for folder in folders if (version := _version(folder)) is not None}
    newest = f"{versions[max(versions)]}/" if versions else None
    return [name for name in files if newest and name.startswith(newest)]


def _version(folder: str) -> int | None:
    """Returns the version number of a folder name, which may have leading zeros; None for other names."""
    return int(folder) if folder.isascii() and folder.isdigit() else None
