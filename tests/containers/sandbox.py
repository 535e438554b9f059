"""Runs a command in an image with the restrictions of a strict cluster."""

import subprocess

from containers.docker import SANDBOX_FLAGS


def in_image(image, *command, flags=()):
    """Runs a command in an image and returns the finished process, with its output as text."""
    return subprocess.run(
        ["docker", "run", *SANDBOX_FLAGS, *flags, image, *command],
        capture_output=True,
        text=True,
        timeout=240,
    )
