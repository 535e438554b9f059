"""Builds are reproducible."""

import subprocess

import pytest

from containers.build import DOCKERFILE, ROOT, build_flags
from containers.docker import build, docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(2400)]

# Mode, type, owner, link target and digest of every file, without timestamps.
LIST = (
    "cd /opt && find . -printf '%m %y %U:%G %p %l\n' | sort && "
    "find . -type f -print0 | sort -z | xargs -0 sha256sum"
)


def content(image):
    command = ["docker", "run", "--rm", "--network=none", image, "sh", "-c", LIST]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("role", ["data", "launcher"])
def test_a_rebuilt_image_has_the_same_files(images, base, role):
    again = f"imgpipe-test-again-{role}:1"
    try:
        build(ROOT, DOCKERFILE, role, again, [*build_flags(role, base, ""), "--no-cache"])
        first, second = content(images[role]), content(again)
    finally:
        docker("rmi", "--force", again)
    assert len(first) > 1000
    assert sorted(set(first) ^ set(second)) == []
