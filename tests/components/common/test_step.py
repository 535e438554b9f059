import signal
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgpipe.components.common.arguments import argument
from imgpipe.components.common.errors import EXIT_CODE_INTERRUPTED, InvalidDataError
from imgpipe.components.common.log import parse_event
from imgpipe.components.common.step import run_command, run_component, run_components
from tests.command_line import run_python


@dataclass(frozen=True)
class Sample:
    size: int = argument(1, "Size.")


def events(capsys):
    return [event for line in capsys.readouterr().out.splitlines() if (event := parse_event(line))]


def failed(capsys, command):
    with pytest.raises(SystemExit) as caught:
        run_command("sample", command)
    return caught.value.code, events(capsys)[-1]


def test_a_successful_command_exits_with_zero():
    with pytest.raises(SystemExit) as caught:
        run_command("sample", lambda: None)
    assert caught.value.code == 0


def test_an_error_names_the_arguments_as_flags_to_people_only(capsys, monkeypatch):
    def command():
        raise InvalidDataError("size=2 is wrong", remedy="set size to 1")

    with pytest.raises(SystemExit):
        run_command("sample", command, [Sample])
    assert parse_event(capsys.readouterr().out)["problem"] == "size=2 is wrong"
    monkeypatch.delenv("IMGPIPE_LOG_FORMAT")
    with pytest.raises(SystemExit):
        run_command("sample", command, [Sample])
    shown = capsys.readouterr().out
    assert "problem: --size=2 is wrong" in shown
    assert "what to do: set --size to 1" in shown


def test_the_key_of_the_storage_secret_is_the_credentials_of_the_step_and_its_processes(monkeypatch, capfd):
    monkeypatch.setenv("IMGPIPE_STORAGE_KEY", "/run/key.json")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/run/launcher.json")
    program = "import os; print('child reads', os.environ['GOOGLE_APPLICATION_CREDENTIALS'])"
    with pytest.raises(SystemExit):
        run_command("sample", lambda: subprocess.run([sys.executable, "-c", program], check=True))
    assert "child reads /run/key.json" in capfd.readouterr().out


def test_a_pipeline_error_sets_the_exit_code_and_is_logged(capsys):
    def command():
        raise InvalidDataError("bad row", where="a.csv, line 2", remedy="correct it")

    code, event = failed(capsys, command)
    assert code == InvalidDataError.exit_code
    assert event["event"] == "step_failed"
    assert event["where"] == "a.csv, line 2"
    assert event["retry_can_help"] is False


def test_an_unexpected_error_is_an_internal_error_with_its_location(capsys):
    code, event = failed(capsys, lambda: 1 / 0)
    assert code == 70
    assert "ZeroDivisionError" in event["problem"]
    assert "test_step.py" in event["where"]


def test_ctrl_c_can_be_retried(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def interrupt():
        raise KeyboardInterrupt

    code, event = failed(capsys, interrupt)
    assert code == EXIT_CODE_INTERRUPTED
    assert event["retry_can_help"] is True
    assert signal.getsignal(signal.SIGTERM) == before


SIGTERM_SCENARIOS = {
    "in its work": "os.kill(os.getpid(), signal.SIGTERM)",
    "in work that catches errors": """
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Exception:
            pass""",
    # As if the signal had arrived between a lock's acquisition and the block that releases it.
    "while a finalizer's lock is held": """
        pool, lock = type("Pool", (), {})(), threading.Lock()
        weakref.finalize(pool, lock.acquire)
        lock.acquire()
        os.kill(os.getpid(), signal.SIGTERM)""",
}


@pytest.mark.parametrize("where", list(SIGTERM_SCENARIOS))
def test_sigterm_is_logged_and_can_be_retried(where):
    code = f"""
import os, signal, threading, time, weakref
from imgpipe.components.common.step import run_command
def command():
        {SIGTERM_SCENARIOS[where].strip()}
run_command("sample", command)
"""
    ended = run_python(code, cwd=Path(__file__).parents[3])
    assert ended.returncode == EXIT_CODE_INTERRUPTED, ended
    [event] = map(parse_event, ended.stdout.splitlines())
    assert event["problem"] == "sample was terminated by SIGTERM"
    assert event["retry_can_help"] is True


def test_a_step_whose_output_is_not_read_cleans_up_on_sigterm(tmp_path):
    # KFP's launcher reads it, and ends on the same signal, before the step.
    ended = tmp_path / "ended"
    code = f"""
import time
from pathlib import Path
from imgpipe.components.common.log import log_event
from imgpipe.components.common.step import run_command
from imgpipe.components.platforms.termination import end_job_if_stopped
def command():
    with end_job_if_stopped(
        "sample", "job", end=Path({str(ended)!r}).touch, is_stopped=lambda: True, by_hand=""
    ):
        log_event("started", "started")
        time.sleep(60)
run_command("sample", command)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert b"started" in process.stdout.readline()
    process.stdout.close()
    process.terminate()
    assert process.wait(60) == EXIT_CODE_INTERRUPTED
    assert ended.exists()


def test_an_arguments_dataclass_is_built_from_flat_values(capsys, component_module):
    def sample(dataset: object, arguments: Sample) -> int:
        return arguments.size

    module = component_module(sample=sample)
    artifact = types.SimpleNamespace(path="/somewhere")
    assert run_component(module, "sample", {"dataset": artifact, "size": 7}) == 7
    started, finished = events(capsys)
    assert started["event"] == "step_started"
    assert started["artifacts"] == {"dataset": "/somewhere"}
    assert finished["event"] == "step_finished"
    with pytest.raises(SystemExit):
        run_component(module, "sample", {"size": 7})


@pytest.mark.parametrize(
    ("accurate", "ran"), [(True, ["measure", "gate", "deploy"]), (False, ["measure", "gate"])]
)
def test_components_of_one_step_log_as_steps_and_end_after_one_that_returns_false(
    capsys, component_module, accurate, ran
):
    def measure(result: object, arguments: Sample) -> None:
        result.size = arguments.size

    def deploy(result: object) -> None:
        assert result.size == 7

    module = component_module(measure=measure, gate=lambda: accurate, deploy=deploy)
    result = types.SimpleNamespace(path="/somewhere")
    components = [(module, name) for name in ("measure", "gate", "deploy")]
    # The first step of a form has passed on the settings.
    run_components("publish", components, {"result": result, "settings": {"size": 7}})
    logged = [(event["event"], event["step"]) for event in events(capsys)]
    assert logged == [(kind, name) for name in ran for kind in ("step_started", "step_finished")]


def test_an_error_names_the_component_and_ends_the_step(capsys, component_module):
    def fail() -> None:
        raise InvalidDataError("the image is damaged", remedy="replace it")

    module = component_module(export=lambda: None, gate=fail, deploy=lambda: None)
    with pytest.raises(SystemExit) as caught:
        run_components("publish", [(module, name) for name in ("export", "gate", "deploy")], {})
    assert caught.value.code == InvalidDataError.exit_code
    logged = events(capsys)
    assert (logged[-1]["event"], logged[-1]["step"]) == ("step_failed", "gate")
    assert "deploy" not in [event["step"] for event in logged]
