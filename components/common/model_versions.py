"""Model folders in TensorFlow Serving's layout: a folder a version, named by a number; the highest serves."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.common import cloud_storage
from components.common.cloud_storage import is_cloud_path
from components.common.errors import MissingInputError
from components.common.storage import local_path


def version_folders(base: Path) -> dict[int, Path]:
    """Returns the versions in a folder, lowest first: subfolders named by a number that hold a SavedModel."""
    if not base.is_dir():
        return {}
    numbered = {
        int(path.name): path
        for path in base.iterdir()
        if path.name.isascii() and path.name.isdigit() and (path / "saved_model.pb").is_file()
    }
    return dict(sorted(numbered.items()))


def model_folder_at(location: Path) -> Path:
    """Returns the folder of the SavedModel that a path means: itself, or its highest version.

    Raises:
        MissingInputError: if there is neither.
    """
    if (location / "saved_model.pb").is_file():
        return location
    versions = version_folders(location)
    if not versions:
        raise MissingInputError(
            f"there is no SavedModel in {str(location)!r}, nor a numbered folder that holds one",
            remedy="give a folder that holds saved_model.pb, or one with numbered versions of a model",
        )
    return versions[max(versions)]


@contextmanager
def local_model(location: str) -> Iterator[Path]:
    """Yields the local folder of a model, local or ``gs://``; a copy from there is removed afterwards.

    Args:
        location: A folder that holds saved_model.pb, or one with numbered versions, of which the highest
            counts.

    Raises:
        MissingInputError: if there is no model.
        InterruptedRunError: if Cloud Storage cannot be reached.
    """
    if not is_cloud_path(location):
        yield model_folder_at(local_path(location))
        return
    base = location.rstrip("/") + "/"
    bucket, prefix = cloud_storage.bucket_and_name(base)
    names = [found.name.removeprefix(prefix) for found in cloud_storage.list_objects(base)]
    with tempfile.TemporaryDirectory(prefix="imgpipe-model-") as folder:
        for name in _newest(names):
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            cloud_storage.download(f"gs://{bucket}/{prefix}{name}", path)
        try:
            yield model_folder_at(Path(folder))
        except MissingInputError:
            raise MissingInputError(
                f"there is no SavedModel in {location!r}", remedy="give a folder that holds saved_model.pb"
            ) from None


def _newest(names: list[str]) -> list[str]:
    """Returns those of an object store's names that belong to the model or its highest version."""
    if "saved_model.pb" in names:
        return [name for name in names if not name.endswith("/")]
    versions = [
        int(parts[0])
        for name in names
        if len(parts := name.split("/")) == 2 and parts[0].isdigit() and parts[1] == "saved_model.pb"
    ]
    newest = f"{max(versions)}/" if versions else "/"
    return [name for name in names if name.startswith(newest) and not name.endswith("/")]
