"""How the CPU cores and GPUs of this machine are split across trials that run in parallel."""

import os
import shutil
import subprocess
from dataclasses import dataclass

from imgpipe.components.common.resources import usable_threads

_MAX_THREADS = 1024


@dataclass(frozen=True)
class Share:
    """The part of the machine that one of several parallel trials uses.

    Attributes:
        threads: Number of CPU cores, at least 1.
        gpus: Value of CUDA_VISIBLE_DEVICES; None on a machine without GPUs.
    """

    threads: int
    gpus: str | None


def shares(parallel: int) -> tuple[Share, ...]:
    """Returns a share for each of the parallel trials.

    A GPU is never split: with fewer GPUs than trials, several trials use the same one. Cores left over from
    the division go to the first trials.
    """
    cores, gpus = usable_threads(_MAX_THREADS), visible_gpus()
    return tuple(
        Share(
            threads=max(1, cores // parallel + (index < cores % parallel)),
            gpus=_gpus_of_share(gpus, index, parallel) if gpus else None,
        )
        for index in range(parallel)
    )


def visible_gpus() -> tuple[str, ...]:
    """Returns the entries of CUDA_VISIBLE_DEVICES for this process, without loading CUDA."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is not None:
        devices = []
        for name in (part.strip() for part in variable.split(",")):
            # CUDA ignores everything after the first invalid entry.
            if not name or name.startswith("-"):
                break
            devices.append(name)
        return tuple(devices)
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        output = subprocess.run(
            [tool, "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in output.splitlines() if line.strip())


def _gpus_of_share(gpus: tuple[str, ...], index: int, parallel: int) -> str:
    if len(gpus) < parallel:
        return gpus[index % len(gpus)]
    return ",".join(gpus[index::parallel])
