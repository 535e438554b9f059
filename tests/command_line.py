"""The installed command, for tests that need a new process."""

import subprocess
import sys
from pathlib import Path

IMGPIPE = str(Path(sys.executable).parent / "imgpipe")


def run_command(*arguments, cwd):
    """Runs `imgpipe` in a folder and returns the finished process, with its output as text."""
    return subprocess.run([IMGPIPE, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
