"""Runs a command in an image as strictly as a cluster may."""

import subprocess

STRICT = (
    *("--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--tmpfs=/tmp:mode=1777", "--init"),
)


def in_image(image, *command, flags=()):
    """Returns the finished process, with its output as text."""
    return subprocess.run(
        ["docker", "run", *STRICT, *flags, image, *command], capture_output=True, text=True, timeout=240
    )
