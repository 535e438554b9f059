"""How the processors and GPUs of this machine are shared out among trials that run at once."""

import os
import shutil
import subprocess
from dataclasses import dataclass

from imgpipe.components.common.threads import usable_threads

_MOST_THREADS = 1024


@dataclass(frozen=True)
class Share:
    """What one of several trials at a time may use.

    Attributes:
        threads: Processor cores that it may keep busy, at least 1.
        gpus: Value of CUDA_VISIBLE_DEVICES; None on a machine without GPUs.
    """

    threads: int
    gpus: str | None


def shares(parallel: int) -> tuple[Share, ...]:
    """Returns a share for each of the trials that run at once.

    GPUs are dealt out whole; where there are fewer than trials, several trials use one. Cores that do not
    divide go to the first.
    """
    cores, gpus = usable_threads(_MOST_THREADS), visible_gpus()
    return tuple(
        Share(
            threads=max(1, cores // parallel + (place < cores % parallel)),
            gpus=_dealt(gpus, place, parallel) if gpus else None,
        )
        for place in range(parallel)
    )


def visible_gpus() -> tuple[str, ...]:
    """Returns what CUDA_VISIBLE_DEVICES may name for this process, found without loading CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        found = []
        for name in (part.strip() for part in named.split(",")):
            # CUDA ignores all from the first that is none.
            if not name or name.startswith("-"):
                break
            found.append(name)
        return tuple(found)
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        listed = subprocess.run(
            [tool, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in listed.stdout.splitlines() if line.strip())


def _dealt(gpus: tuple[str, ...], place: int, parallel: int) -> str:
    if len(gpus) < parallel:
        return gpus[place % len(gpus)]
    return ",".join(gpus[place::parallel])
