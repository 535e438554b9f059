import os
import tempfile
from collections import namedtuple
from pathlib import Path

import pytest

from imgpipe.components.common import resources
from imgpipe.components.common.resources import free_disk_bytes, usable_threads


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """``cgroup({file name: content})`` writes a control group, on a machine with eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)

    def write(files):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)

    return write


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu.max": "something else\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "150000\n"}, 8),
    ],
)
def test_the_quota_of_the_container_limits_the_threads(files, expected, cgroup):
    cgroup(files)
    assert usable_threads() == expected


def test_the_affinity_of_the_process_limits_the_threads(cgroup, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6}, raising=False)
    assert usable_threads() == 3


def test_the_number_of_threads_has_a_limit(cgroup, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert usable_threads() == 16
    assert usable_threads(5) == 5


@pytest.mark.parametrize(("count", "expected"), [(6, 6), (None, 1)])
def test_without_affinity_the_number_of_cores_is_used(count, expected, cgroup, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert usable_threads() == expected


def test_a_file_system_in_memory_does_not_count_as_a_disk(monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: Usage(0, 0, 1000))
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")  # noqa: S108 - nothing is written
    if Path("/dev/shm").is_dir():  # noqa: S108 - the same
        assert free_disk_bytes() == 0
    monkeypatch.setattr(tempfile, "tempdir", "/proc/self")
    assert free_disk_bytes() == 1000
