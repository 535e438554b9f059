import os
import signal
import sys
import time
import types
from dataclasses import dataclass

import pytest

from components.common.arguments import argument
from components.common.errors import EXIT_CODE_INTERRUPTED, InvalidDataError
from components.common.log import parse_event
from components.common.step import run_command, run_component


@dataclass(frozen=True)
class Sample:
    size: int = argument(1, "Size.")


def events(capsys):
    return [event for line in capsys.readouterr().out.splitlines() if (event := parse_event(line))]


def failed(capsys, command):
    with pytest.raises(SystemExit) as caught:
        run_command("sample", command)
    return caught.value.code, events(capsys)[-1]


def test_a_command_that_ends_well_exits_with_zero():
    with pytest.raises(SystemExit) as caught:
        run_command("sample", lambda: None)
    assert caught.value.code == 0


def test_an_explained_error_becomes_its_exit_code_and_a_line(capsys):
    def command():
        raise InvalidDataError("bad row", where="a.csv, line 2", remedy="correct it")

    code, event = failed(capsys, command)
    assert code == InvalidDataError.exit_code
    assert event["event"] == "step_failed"
    assert event["where"] == "a.csv, line 2"
    assert event["retry_can_help"] is False


def test_an_unexpected_error_is_ours_and_names_its_place(capsys):
    code, event = failed(capsys, lambda: 1 / 0)
    assert code == 70
    assert "ZeroDivisionError" in event["problem"]
    assert "test_step.py" in event["where"]


def test_sigterm_and_ctrl_c_can_be_retried(capsys):
    before = signal.getsignal(signal.SIGTERM)

    def interrupt():
        raise KeyboardInterrupt

    for command in (lambda: os.kill(os.getpid(), signal.SIGTERM), interrupt):
        code, event = failed(capsys, command)
        assert code == EXIT_CODE_INTERRUPTED
        assert event["retry_can_help"] is True
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_is_not_taken_for_an_error_of_the_work(capsys):
    def forgiving():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Exception:  # noqa: S110
            pass

    code, _ = failed(capsys, forgiving)
    assert code == EXIT_CODE_INTERRUPTED


def test_a_component_gets_its_arguments_dataclass_from_flat_values(capsys, monkeypatch):
    def sample(dataset: object, arguments: Sample) -> int:
        return arguments.size

    component = types.ModuleType("components.sample.component")
    component.sample = sample
    monkeypatch.setitem(sys.modules, "components.sample", types.ModuleType("components.sample"))
    monkeypatch.setitem(sys.modules, "components.sample.component", component)
    monkeypatch.setitem(sys.modules, "components.sample.sample", types.ModuleType("components.sample.sample"))
    artifact = types.SimpleNamespace(path="/somewhere")
    result = run_component("components.sample.component", "sample", {"dataset": artifact, "size": 7})
    assert result == 7
    started, finished = events(capsys)
    assert started["event"] == "step_started"
    assert started["artifacts"] == {"dataset": "/somewhere"}
    assert finished["event"] == "step_finished"
    with pytest.raises(SystemExit):
        run_component("components.sample.component", "sample", {"size": 7})
