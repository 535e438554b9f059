"""The Secret with a key for Cloud Storage: what makes it usable, in a pod and in the cluster's API."""

from collections.abc import Collection
from pathlib import PurePosixPath

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, PipelineError
from imgpipe.components.platforms.kubernetes.pod_spec import STORAGE_KEY_ENTRY, STORAGE_KEY_FOLDER

# A Secret of this name need not exist: pods may have an identity of their own.
DEFAULT_STORAGE_SECRET = "imgpipe-storage"  # noqa: S105 - the name of a Secret
_KEY_FILE = "key.json"


def storage_secret_error(
    secret: str, entries: Collection[str], path: str, *, folder: str = STORAGE_KEY_FOLDER
) -> PipelineError | None:
    """Returns why a Secret cannot be used; None if it can.

    Args:
        secret: Its name.
        entries: The names of its entries; empty = there is no such Secret.
        path: Its entry ``path``; empty = none.
        folder: Where it is mounted.
    """
    fix = (
        f"kubectl create secret generic {secret} --from-file={_KEY_FILE} "
        f"--from-literal={STORAGE_KEY_ENTRY}={STORAGE_KEY_FOLDER}/{_KEY_FILE}"
    )
    if not entries:
        if secret == DEFAULT_STORAGE_SECRET:
            return None
        return MissingInputError(
            f"storage_secret={secret!r}: there is no such Secret in the namespace of the run",
            remedy=f"create it: {fix}; or leave storage_secret at {DEFAULT_STORAGE_SECRET}",
        )
    key = PurePosixPath(path)
    if path and str(key.parent) == folder and key.name in entries:
        return None
    reason = f"its entry path is {path!r}, which is none of its files" if path else "it has no entry path"
    return InvalidArgumentError(
        f"storage_secret={secret!r} cannot be used: {reason}; its entries are {', '.join(sorted(entries))}",
        remedy=f"delete it and create it again: {fix}",
    )
