"""Shares the features of a frozen backbone between training runs on one machine: the first computes them."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.log import log_event
from imgpipe.components.storage import atomic_write

# Written last.
_COMPLETE = "complete"

Arrays = Sequence[NDArray[Any]]


def shared_features(
    folder: Path, key: Mapping[str, Any], weights: Iterable[Any], compute: Callable[[], Arrays]
) -> Arrays:
    """Returns the arrays of ``compute()``, from the folder if another training run has computed them.

    If another process is computing them, this waits; if that process dies, this one computes them. The arrays
    are memory-mapped, so that all training runs share the memory, and read-only.

    Args:
        folder: The shared folder; created if missing.
        key: Everything that the features depend on besides the weights: JSON values by name.
        weights: The backbone's, as arrays or variables.
        compute: Computes the arrays.

    Raises:
        OSError: if the folder is not writable.
    """
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode())
    for weight in weights:
        digest.update(np.ascontiguousarray(weight).tobytes())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / digest.hexdigest()[:32]
    with (folder / f"{path.name}.lock").open("w") as lock:
        _acquire(lock)
        if not (path / _COMPLETE).is_file():
            for number, array in enumerate(compute()):
                with atomic_write(path / f"{number}.npy") as temporary, temporary.open("wb") as file:
                    np.save(file, array)
            (path / _COMPLETE).touch()
        else:
            log_event("features_shared", "train: using the frozen backbone's features from another trial")
    return [np.load(file, mmap_mode="r") for file in sorted(path.glob("*.npy"))]


def _acquire(lock: Any) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log_event("features_awaited", "train: waiting for another trial to compute the features")
        fcntl.flock(lock, fcntl.LOCK_EX)
