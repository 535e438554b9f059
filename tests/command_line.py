"""The command, in a new process and in this one."""

import subprocess
import sys
from pathlib import Path

IMGPIPE = str(Path(sys.executable).parent / "imgpipe")


def run_command(*arguments, cwd):
    """Runs `imgpipe` in a folder and returns the finished process, with its output as text."""
    return subprocess.run([IMGPIPE, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def run_python(code, *arguments, **options):
    """Runs Python code in a new process and returns it, with its output as text."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def run_on_kubeflow(host, *arguments):
    """Runs `imgpipe` in this process on a Kubeflow installation and returns click's result."""
    # Imported here because the tests of the installed command need neither.
    from click.testing import CliRunner

    from imgpipe.pipelines.cli import imgpipe

    arguments = list(map(str, arguments))
    end = arguments.index("--") if "--" in arguments else len(arguments)
    target = ["--target", "kubeflow", "--host", host]
    return CliRunner().invoke(imgpipe, [*arguments[:end], *target, *arguments[end:]])
