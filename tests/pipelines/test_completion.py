"""Shell completion of imgpipe's commands and options."""

import os
import subprocess

import pytest

from tests.command_line import IMGPIPE


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell):
    result = subprocess.run([IMGPIPE, "completion", shell], capture_output=True, text=True, check=True)
    assert f"_IMGPIPE_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("imgpipe str", "stream-logs"),
        ("imgpipe submit --tar", "--target"),
        ("imgpipe describe --target ku", "kubeflow"),
    ],
)
def test_commands_options_and_values_are_completed(line, completed):
    words = line.split()
    environment = {
        "_IMGPIPE_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    result = subprocess.run(
        [IMGPIPE], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert completed in result.stdout
