"""The folders of this machine that the steps' containers see, and the parameters with paths valid in both."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgpipe.components.common.arguments import Kind
from imgpipe.components.storage import LocalLocation, parse_location
from imgpipe.pipelines.path_arguments import INPUT_KINDS, WILDCARD, path_arguments, paths_in


@dataclass(frozen=True)
class ContainerMounts:
    """Folders of this machine that have the same path in the containers.

    Attributes:
        read_only: Mounted read-only.
        writable: Mounted read-write.
    """

    read_only: tuple[str, ...]
    writable: tuple[str, ...]


def mounts_for(
    parameters: Mapping[str, Any], further: tuple[str, ...] = ()
) -> tuple[dict[str, Any], ContainerMounts]:
    """Returns a pipeline's parameters with absolute local paths, and the mounts that these paths need.

    A folder is mounted itself. Of a file, its folder is mounted, because a list of images names them relative
    to it. ``gs://`` paths do not change.

    Args:
        parameters: The pipeline's parameters.
        further: More folders to mount read-only, e.g. of images that a list names by absolute paths.
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
    # A writable folder makes what is in it readable too, e.g. the sample in the run's own folder.
    outside = [path for path in read if not any(path.is_relative_to(folder) for folder in written)]
    return absolute, ContainerMounts(_outermost(outside), _outermost(written))


def _folder_of(path: Path) -> Path:
    """Returns a folder itself, the folder of a file, or the innermost folder above a pattern's wildcards."""
    for parent in (path, *path.parents):
        if not WILDCARD.search(str(parent)):
            path = parent
            break
    return path.parent if path.is_file() else path


def _outermost(folders: list[Path]) -> tuple[str, ...]:
    """Returns the folders, each once, without those inside another one."""
    different = sorted(set(folders))
    return tuple(
        str(folder) for folder in different if not any(other in folder.parents for other in different)
    )
