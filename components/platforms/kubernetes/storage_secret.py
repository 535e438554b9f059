"""The Secret with the credentials for data in object stores: how pods use it, and what makes it usable."""

import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, PipelineError
from imgpipe.components.platforms.google_credentials import VARIABLE

# A Secret of this name need not exist: pods may have an identity of their own.
DEFAULT_STORAGE_SECRET = "imgpipe-storage"  # noqa: S105 - the name of a Secret
# Its entries are files here. The entry `path`, which names the key file for Cloud Storage, also becomes the
# variable. It is not VARIABLE itself: KFP's launcher, which runs in the same container, would read the
# pipeline root with that key. The entries AWS_... become variables of the step alone, for the same reason.
STORAGE_KEY_FOLDER = "/var/run/imgpipe/storage"
STORAGE_KEY_ENTRY = "path"
STORAGE_KEY_VARIABLE = "IMGPIPE_STORAGE_KEY"
_KEY_FILE = "key.json"
_S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_S3_ENTRIES = (
    *_S3_KEYS,
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)
# The variable is the path of the entry: an authority's certificate, and settings without a variable.
_S3_FILES = ("AWS_CA_BUNDLE", "AWS_CONFIG_FILE")


def use_storage_secret(folder: Path = Path(STORAGE_KEY_FOLDER)) -> None:
    """Makes what is in the pod's Secret, if there is one, the credentials of this process."""
    if key := os.environ.get(STORAGE_KEY_VARIABLE):
        os.environ[VARIABLE] = key
    if not folder.is_dir():
        return
    for name in _S3_ENTRIES:
        if (folder / name).is_file():
            # `kubectl create secret --from-file` keeps the line break at the end of a file.
            os.environ[name] = (folder / name).read_text(encoding="utf-8").strip()
    for name in _S3_FILES:
        if (folder / name).is_file():
            os.environ[name] = str(folder / name)


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
    # The Secret of another program must not be replaced.
    create = f"kubectl create secret generic {'NAME' if entries else secret}"
    for_s3 = " ".join(f"--from-literal={name}=..." for name in (*_S3_KEYS, "AWS_ENDPOINT_URL"))
    key_path = f"--from-literal={STORAGE_KEY_ENTRY}={STORAGE_KEY_FOLDER}/{_KEY_FILE}"
    fix = (
        f"{create} --from-file={_KEY_FILE} {key_path} (for Cloud Storage), or {create} {for_s3} (for S3; AWS "
        "itself needs no AWS_ENDPOINT_URL)"
    )
    if not entries:
        if secret == DEFAULT_STORAGE_SECRET:
            return None
        return MissingInputError(
            f"storage_secret={secret!r}: there is no such Secret in the namespace of the run",
            remedy=f"create it: {fix}; or leave storage_secret at {DEFAULT_STORAGE_SECRET}",
        )
    missing = [name for name in _S3_KEYS if name not in entries]
    key = PurePosixPath(path)
    if len(missing) == 1:
        reason = f"it has no entry {missing[0]}"
    elif path and not (str(key.parent) == folder and key.name in entries):
        reason = f"its entry path is {path!r}, which is none of its files"
    elif missing and not path:
        reason = f"it has neither an entry path nor {' and '.join(_S3_KEYS)}"
    else:
        return None
    return InvalidArgumentError(
        f"storage_secret={secret!r} cannot be used: {reason}; its entries are {', '.join(sorted(entries))}",
        remedy=f"create another one and set storage_secret to its name: {fix}",
    )
