"""The folders that are mounted into the steps' containers, and parameters with paths that are valid there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgpipe.components.common.arguments import Kind
from imgpipe.components.preflight.path_arguments import INPUT_KINDS, WILDCARD, path_arguments, paths_in
from imgpipe.components.storage import LocalLocation, parse_location


def mounts_for(
    parameters: Mapping[str, Any], further: tuple[str, ...] = ()
) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Returns a pipeline's parameters with absolute local paths, and the folders that these paths need.

    A folder is mounted itself. For a file, its folder is mounted, because the paths in a list of images are
    relative to that folder. ``gs://`` paths do not change.

    Args:
        parameters: The pipeline's parameters.
        further: More folders to mount read-only, e.g. for images that a list names by absolute path.

    Returns:
        The parameters, the folders that are only read, and those that are written.
    """
    absolute = dict(parameters)
    read = [Path(path).expanduser().absolute() for path in further]
    written: list[Path] = []
    for name in path_arguments(*INPUT_KINDS, Kind.EARLIER_JOB, Kind.OUTPUT_FOLDER):
        paths = [parse_location(path).absolute() for path in paths_in(name, parameters.get(name, ""))]
        if not paths:
            continue
        absolute[name] = ",".join(map(str, paths))
        local = [path.path for path in paths if isinstance(path, LocalLocation)]
        if name in path_arguments(Kind.OUTPUT_FOLDER):
            written += local
        else:
            read += [_folder_of(path) for path in local]
    # Folders in a writable folder are mounted with it, e.g. the sample in the run's folder.
    outside = [path for path in read if not any(path.is_relative_to(folder) for folder in written)]
    return absolute, _outermost(outside), _outermost(written)


def _folder_of(path: Path) -> Path:
    """Returns the folder itself, the folder of a file, or the folder above a pattern's first wildcard."""
    for parent in (path, *path.parents):
        if not WILDCARD.search(str(parent)):
            path = parent
            break
    return path.parent if path.is_file() else path


def _outermost(folders: list[Path]) -> tuple[str, ...]:
    """Returns the distinct folders, without those inside another of them."""
    distinct = sorted(set(folders))
    return tuple(str(folder) for folder in distinct if not any(other in folder.parents for other in distinct))
