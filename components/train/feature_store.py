"""Features of a frozen backbone that trainings on one machine share: the first computes them for all."""

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.log import log_event
from imgpipe.components.storage.files import written_whole

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_BETWEEN_LINES = 60.0

Arrays = Sequence[NDArray[Any]]


def shared_features(
    folder: Path, circumstances: Mapping[str, Any], weights: Iterable[Any], compute: Callable[[], Arrays]
) -> Arrays:
    """Returns what ``compute`` returns, from the folder if another training has computed it.

    While another process computes the same, it is waited for; if that process dies, this one computes. The
    arrays are mapped into memory, which all trainings share, and must not be written to.

    Args:
        folder: Of the trainings that share; made if it is missing.
        circumstances: All that the features depend on but the weights: JSON values by name.
        weights: The backbone's, as arrays or variables.
        compute: Gives the arrays.

    Raises:
        OSError: if the folder cannot be written to.
    """
    digest = hashlib.sha256(json.dumps(dict(circumstances), sort_keys=True).encode())
    for weight in weights:
        digest.update(np.ascontiguousarray(weight).tobytes())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / digest.hexdigest()[:32]
    with (folder / f"{path.name}.lock").open("w") as lock:
        _wait_for(lock)
        if not path.is_dir():
            arrays = compute()
            with written_whole(path) as temporary:
                temporary.mkdir()
                for number, array in enumerate(arrays):
                    np.save(temporary / f"{number}.npy", array)
        else:
            log_event("features_shared", "train: the frozen backbone's features are there from another trial")
    return [np.load(file, mmap_mode="r") for file in sorted(path.glob("*.npy"))]


def _wait_for(lock: Any) -> None:
    """Takes the lock; now and then a line says that the process is alive."""
    told = 0.0
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - told > _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                log_event("features_awaited", "train: another trial computes the frozen backbone's features")
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        else:
            return
