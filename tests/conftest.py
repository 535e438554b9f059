"""Fixtures for all tests."""

import resource

import pytest

from tests.servers.cloud_storage import cloud, emulator
from tests.servers.s3 import moto, rclone, s3, s3_of_moto

__all__ = ["bucket", "cloud", "emulator", "moto", "rclone", "s3", "s3_of_moto"]

_OPEN_FILES = 8192


def pytest_configure():
    # TensorFlow keeps the functions of a data set, and so the shards that they read, until the process
    # ends: hundreds of files in a run of all tests. The usual limit is 1,024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


@pytest.fixture(params=["cloud", "s3"])
def bucket(request):
    """An empty bucket of each kind of store."""
    return request.getfixturevalue(request.param)
