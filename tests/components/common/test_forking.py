"""Work in a copy of a process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from imgpipe.components.common.forking import can_fork, run_in_fork
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not can_fork(), reason="this machine has an accelerator, or is not Linux")


def test_the_exit_code_and_the_output_are_those_of_the_work(tmp_path):
    output = tmp_path / "output"

    def work():
        print("printed")
        subprocess.run(["echo", "by a program"], check=True)
        sys.exit(64)

    assert run_in_fork(work, output) == 64
    assert sorted(output.read_text().splitlines()) == ["by a program", "printed"]
    assert run_in_fork(lambda: None, output) == 0
    assert run_in_fork(lambda: os.kill(os.getpid(), signal.SIGKILL), output) == -signal.SIGKILL
    assert run_in_fork(lambda: 1 / 0, output) == 1
    assert "ZeroDivisionError" in output.read_text()


def test_nothing_remains_of_work_whose_process_is_interrupted(tmp_path):
    program = f"""
import os, pathlib, sys, time
from imgpipe.components.common.forking import run_in_fork
def work():
    pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
    time.sleep(60)
try:
    run_in_fork(work, pathlib.Path({str(tmp_path / "output")!r}))
except KeyboardInterrupt:
    sys.exit(75)
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text(), 30, process=process)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 75
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
