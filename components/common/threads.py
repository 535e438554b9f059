"""How many threads can work at once: what the process may use, not what the machine has."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_threads(most: int = 16) -> int:
    """Returns how many threads can work at once in this process, at least 1.

    A container that may use two of its host's 64 cores gets 2: more threads than that only wait for one
    another, and hold memory. On systems without Linux' control groups it is the number of cores.

    Args:
        most: The answer is no larger.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cores_of_quota()
    return max(1, min(most, cores, cores if quota is None else math.ceil(quota)))


def _cores_of_quota() -> float | None:
    """Returns how many cores' time the container's control group has; None if it is not limited."""
    # Microseconds in a period. Version 2: "200000 100000" or "max 100000"; version 1: two files, -1 = all.
    for quota_name, period_name in (
        ("cpu.max", ""),
        ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"),
        ("cpu,cpuacct/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_period_us"),
    ):
        try:
            words = (_CGROUP / quota_name).read_text(encoding="ascii").split()
            if period_name:
                words += (_CGROUP / period_name).read_text(encoding="ascii").split()
            quota, period = (int(word) for word in words)
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None
