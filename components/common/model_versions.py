"""Model folders in TensorFlow Serving's layout: a folder a version, named by a number; the highest serves."""

from pathlib import Path

from components.common.errors import MissingInputError


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
