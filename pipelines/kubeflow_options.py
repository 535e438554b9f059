"""What may be added to a pipeline for Kubeflow when it is compiled: volumes and a last step."""

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from imgpipe.components.common.arguments import Kind
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.preflight.path_arguments import INPUT_KINDS, path_arguments, paths_in
from imgpipe.components.storage import is_local, split_volume_uri

# RFC 1123, as for most names in Kubernetes.
_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
# The images' own folders; a volume there would hide them.
_OF_THE_IMAGE = frozenset(
    {"bin", "dev", "etc", "kfp", "lib", "lib64", "opt", "proc", "run", "sys", "usr", "var"}
)


@dataclass(frozen=True)
class KubeflowOptions:
    """What is added to a pipeline.

    Attributes:
        has_notify: Whether a last step calls the webhook.
        volumes: The claim and the folder of each volume of the steps that read or write data.
    """

    has_notify: bool = False
    volumes: tuple[tuple[str, str], ...] = ()


NO_ADDITIONS = KubeflowOptions()


def kubeflow_options(*, notify_step: bool, volumes: Sequence[str]) -> KubeflowOptions:
    """Returns the options of a command line.

    Args:
        notify_step: Whether a last step calls the webhook.
        volumes: Each ``CLAIM:/FOLDER``.

    Raises:
        InvalidArgumentError: naming a volume that is not valid, or a folder that is given twice.
    """
    parsed = tuple(_parse_volume(text) for text in volumes)
    folders = [folder for _, folder in parsed]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise InvalidArgumentError(
            f"--volume gives {twice[0]} twice", remedy="mount each volume at a folder of its own"
        )
    return KubeflowOptions(notify_step, parsed)


def check_paths_are_mounted(options: KubeflowOptions, values: Mapping[str, Any]) -> None:
    """Rejects a local path that is on none of the volumes; without volumes, the cluster may mount others.

    Raises:
        InvalidArgumentError: naming argument and path; also for a deploy_dir on a claim that is not mounted.
    """
    on_volume = split_volume_uri(str(values.get("deploy_dir") or ""))
    if on_volume and on_volume[0] not in [claim for claim, _ in options.volumes]:
        raise InvalidArgumentError(
            f"deploy_dir={values['deploy_dir']}: the steps do not mount the volume {on_volume[0]}",
            remedy=f"add --volume {on_volume[0]}:/FOLDER",
        )
    folders = [PurePosixPath(folder) for _, folder in options.volumes]
    for name in path_arguments(*INPUT_KINDS, Kind.OUTPUT_FOLDER) if folders else ():
        for path in paths_in(name, str(values.get(name) or "")):
            normal = PurePosixPath(posixpath.normpath(path))
            if is_local(path) and not any(normal.is_relative_to(folder) for folder in folders):
                raise InvalidArgumentError(
                    f"{name}={path} is on none of the volumes: {', '.join(map(str, folders))}",
                    remedy="give a path below one of them, or add another --volume",
                )


def _parse_volume(text: str) -> tuple[str, str]:
    """Returns the claim and the folder."""
    claim, _, folder = text.partition(":")
    parts = PurePosixPath(folder).parts
    is_folder = len(parts) > 1 and parts[0] == "/" and ".." not in parts and ":" not in folder
    if not _CLAIM.fullmatch(claim) or not is_folder:
        raise InvalidArgumentError(
            f"--volume={text!r} is not a PersistentVolumeClaim and a folder",
            remedy="write CLAIM:/FOLDER, e.g. photos:/data",
        )
    if parts[1] in _OF_THE_IMAGE:
        raise InvalidArgumentError(
            f"--volume={text!r} would hide the folder /{parts[1]} of the image",
            remedy="mount it elsewhere, e.g. at /data",
        )
    return claim, str(PurePosixPath(folder))
