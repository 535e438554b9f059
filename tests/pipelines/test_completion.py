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
        ("imgpipe run --model-type resnet-5", "plain,resnet-50"),
        ("imgpipe run --multi-label t", "plain,true"),
        ("imgpipe run --images flow", "dir,flow"),
        ("imgpipe tune --train-csv flow", "file,flow"),
        ("imgpipe predict photo", "file,photo"),
        ("imgpipe resume 2030", "plain,20300102-030405"),
        ("imgpipe compare other", "dir,other"),
    ],
)
def test_commands_options_and_values_are_completed(line, completed, tmp_path):
    (tmp_path / "imgpipe-runs" / "20300102-030405").mkdir(parents=True)
    words = line.split()
    environment = {
        "_IMGPIPE_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    result = subprocess.run(
        [IMGPIPE],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert completed in result.stdout
