"""What tells one model from another: equal files, equal digest."""

import hashlib
from pathlib import Path

from imgpipe.components.common.dataset import file_sha256


def model_digest(folder: Path) -> str:
    """Returns the SHA-256, in hexadecimal, of the names and contents of all files of a model folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\n{file_sha256(path)}\n".encode())
    return digest.hexdigest()
