"""The CPU cores, memory and disk of this process."""

import ctypes
import math
import os
import platform
import shutil
import tempfile
from pathlib import Path

from imgpipe.components.common.plural import plural

_CGROUP = Path("/sys/fs/cgroup")
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


def usable_threads(limit: int = 16) -> int:
    """Returns how many threads can run in parallel in this process, from 1 to ``limit``.

    In a container limited to two of its host's 64 cores this is 2: more threads would only wait for one
    another and hold memory. On systems without Linux control groups it is the number of cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota()
    return max(1, min(limit, cores, cores if quota is None else math.ceil(quota)))


def describe_machine() -> str:
    """Returns e.g. ``Linux x86_64, 2 cores, 24 GiB memory``: the system, and what this process may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = plural(usable_threads(limit=4096), "core")
    return f"{platform.system()} {platform.machine()}, {cores}, {memory:.0f} GiB memory"


def _cpu_quota() -> float | None:
    """Returns the number of cores in the container's CPU quota; None if there is no quota."""
    # Microseconds in a period. Version 2: "200000 100000" or "max 100000"; version 1: two files, -1 = all.
    for quota_name, period_name in (
        ("cpu.max", ""),
        ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"),
        ("cpu,cpuacct/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_period_us"),
    ):
        try:
            values = (_CGROUP / quota_name).read_text(encoding="ascii").split()
            if period_name:
                values += (_CGROUP / period_name).read_text(encoding="ascii").split()
            quota, period = (int(value) for value in values)
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def release_free_memory() -> None:
    """Returns freed memory between blocks that are still in use to the operating system.

    The C library does this by itself only at the end of its heap: the memory of large temporary arrays
    stays allocated to the process. Does nothing where the C library lacks glibc's ``malloc_trim``.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def free_disk_bytes() -> int:
    """Returns the free space for temporary files; 0 if they are in memory."""
    folder = Path(tempfile.gettempdir()).resolve()
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        mounts = []
    # The last mount on the longest path is the effective one.
    file_systems = {fields[1]: fields[2] for fields in mounts}
    for parent in (folder, *folder.parents):
        if str(parent) in file_systems:
            in_memory = file_systems[str(parent)] in _MEMORY_FILE_SYSTEMS
            return 0 if in_memory else shutil.disk_usage(folder).free
    return shutil.disk_usage(folder).free
