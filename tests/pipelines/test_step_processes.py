"""Steps on this machine are processes of their own, although they start as copies of one."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from imgpipe.components.common.forking import can_fork
from imgpipe.pipelines.targets.step_processes import StepProcesses
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not can_fork(), reason="this machine has an accelerator, or is not Linux")

DATA, TRAIN = "imgpipe-data:1", "registry.example/team/imgpipe-train-cpu@sha256:0"
# Of the standard library; nothing else imports it.
STAND_IN = "colorsys"


@pytest.fixture(scope="module")
def processes():
    with StepProcesses(tensorflow_modules=[STAND_IN]) as started:
        yield started


def command_of(body, folder):
    """Returns KFP's command for a component with this body."""
    code = f"def step():\n{textwrap.indent(textwrap.dedent(body), '    ')}"
    given = json.dumps({"inputs": {}, "outputs": {"outputFile": str(folder / "output.json")}})
    script = 'python3 -m kfp.dsl.executor_main "$program_path/ephemeral_component.py" "$@"'
    return ["sh", "-c", script, code, "--executor_input", given, "--function_to_execute", "step"]


@pytest.fixture
def run(processes, tmp_path):
    """``run(body, image)`` runs a step; returns its exit status."""
    return lambda body, image=DATA, **environment: processes.run(
        image, command_of(body, tmp_path), environment
    )


@pytest.mark.parametrize("image", [DATA, TRAIN])
def test_a_step_that_crashes_does_not_affect_the_next_one(run, image):
    assert run("import sys; sys.exit(64)", image) == 64
    assert run("import os; os.kill(os.getpid(), 9)", image) == -signal.SIGKILL
    assert run("raise ValueError", image) == 1
    assert run("import os; os._exit(75)", image) == 75
    assert run("pass", image) == 0


def test_only_a_step_of_an_image_with_tensorflow_starts_with_its_modules(run):
    body = f"import sys; sys.exit({STAND_IN!r} in sys.modules)"
    assert (run(body, TRAIN), run(body, DATA)) == (1, 0)


def test_what_a_step_changes_is_not_seen_by_the_next_one(run, tmp_path):
    written = tmp_path / "written"
    body = f"""
        import os, random, sys
        with open({str(written)!r}, "a") as file:
            print(os.getpid(), random.random(), os.environ.pop("NAME"), "changed" in vars(sys), file=file)
        sys.changed = os.environ["OTHER"] = "x"
    """
    assert [run(body, NAME=name) for name in ("a", "b")] == [0, 0]
    first, second = (line.split() for line in written.read_text().splitlines())
    assert first[0] != second[0]
    assert first[1] != second[1], "all steps draw the same random numbers"
    assert (first[2:], second[2:]) == (["a", "False"], ["b", "False"])


@pytest.fixture
def start(tmp_path):
    """``start(body)`` runs a step by a process in a group of its own, which ignores SIGTERM as a run does."""
    started = []

    def run(body):
        program = f"""
            import signal, sys
            from imgpipe.pipelines.targets.step_processes import StepProcesses
            signal.signal(signal.SIGTERM, lambda *_: None)
            with StepProcesses([]) as processes:
                print("status", processes.run({TRAIN!r}, {command_of(body, tmp_path)!r}, {{}}), flush=True)
                sys.stdin.read()
        """
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if group_exists(process):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()


def group_exists(process):
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_step_handles_the_signal_of_its_group_and_the_others_outlive_it(start):
    body = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        print("started", flush=True)
        time.sleep(60)
    """
    process = start(body)
    while "started" not in process.stdout.readline():
        pass
    os.killpg(process.pid, signal.SIGTERM)
    assert "status 75\n" in iter(process.stdout.readline, "")
    process.stdin.close()
    assert process.wait(10) == 0
    assert not group_exists(process)


@pytest.mark.parametrize("body", ["pass", "import time; time.sleep(0.5)"])
def test_nothing_remains_of_a_run_that_was_killed(start, body):
    process = start(body)
    if body == "pass":
        assert "status 0\n" in iter(process.stdout.readline, "")
    process.kill()
    process.wait()
    wait_until(lambda: not group_exists(process), 10)
