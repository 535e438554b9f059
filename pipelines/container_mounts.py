"""Which folders of this machine the steps' containers see, and the parameters as they are seen from there."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.storage.cloud_storage import is_cloud_path

# Paths that a user gives; the parameters of TFRecord files may hold several, separated by commas.
_READ = (
    "train_csv",
    "validation_csv",
    "test_csv",
    "labels_file",
    "images",
    "training_data_path",
    "validation_data_path",
    "pretrained_checkpoint_path",
    "champion",
    "slices_csv",
    "resume_previous_job_id",
)
_SEVERAL = ("training_data_path", "validation_data_path")
_WRITTEN = ("job_dir", "output_dir", "deploy_dir")
# Values of path parameters that are none.
_WORDS = {"champion": ("auto", "none")}
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class ContainerPlaces:
    """Folders of this machine that have the same path in the containers.

    Attributes:
        read: Mounted so that they cannot be written to.
        written: Mounted so that they can.
    """

    read: tuple[str, ...]
    written: tuple[str, ...]


def seen_from_containers(
    parameters: Mapping[str, Any], further: tuple[str, ...] = ()
) -> tuple[dict[str, Any], ContainerPlaces]:
    """Returns a pipeline's parameters with absolute local paths, and the folders that these lie in.

    A folder is mounted for itself and a file by its folder, since a list of images names them from there.
    What is at ``gs://`` stays.

    Args:
        parameters: Of the pipeline.
        further: Folders that are read besides, e.g. that of images which a list names by absolute paths.
    """
    seen = dict(parameters)
    read, written = [Path(path).expanduser().absolute() for path in further], []
    for name in (*_READ, *_WRITTEN):
        value = parameters.get(name, "")
        if not value or value in _WORDS.get(name, ()):
            continue
        paths = [part.strip() for part in value.split(",")] if name in _SEVERAL else [value]
        located = [path if is_cloud_path(path) else str(Path(path).expanduser().absolute()) for path in paths]
        seen[name] = ",".join(located)
        local = [Path(path) for path in located if not is_cloud_path(path)]
        if name in _WRITTEN:
            written += local
        else:
            read += [_folder_of(path) for path in local]
    # What lies in a folder that is written to is seen there: the sample, in the run's own folder.
    outer = [path for path in read if not any(path.is_relative_to(folder) for folder in written)]
    return seen, ContainerPlaces(_without_inner(outer), _without_inner(written))


def _folder_of(path: Path) -> Path:
    """Returns the folder itself, or that of a file, or that in which a pattern begins."""
    for parent in (path, *path.parents):
        if not _PATTERN.search(str(parent)):
            path = parent
            break
    return path.parent if path.is_file() else path


def _without_inner(folders: list[Path]) -> tuple[str, ...]:
    """Returns the folders, each once, without those that lie in another."""
    different = sorted(set(folders))
    return tuple(str(one) for one in different if not any(other in one.parents for other in different))
