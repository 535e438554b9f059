"""Helpers of the tests: conversions in a process of their own, and the files that they write."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "imgpipe.components.convert"]


def run_convert(*flags, **options):
    """Runs the convert command and returns the completed process with its output."""
    return subprocess.run(
        [*COMMAND, *flags], cwd=REPOSITORY, capture_output=True, text=True, check=False, **options
    )


def read_files(folder):
    """Returns the content of every file below a folder by its relative path; None for a subfolder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
