import json
import re

import pytest

from imgpipe.components.common import log
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.step import log_error


def test_a_line_is_one_json_object_that_cloud_logging_understands(capsys):
    log.log_event(
        "done", "all\ngood é", severity="WARNING", loss=float("nan"), nested={"x": [float("inf"), 1]}
    )
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    event = json.loads(output)
    assert event["severity"] == "WARNING"
    assert event["message"] == "all\ngood é"
    assert event["time"].endswith("+00:00")
    assert event["loss"] is None
    assert event["nested"] == {"x": [None, 1]}
    assert log.parse_event(output) == event


def test_a_file_name_that_is_not_utf8_is_escaped(capsys):
    log.log_event("done", "read caf\udce9.jpg")
    output = capsys.readouterr().out
    output.encode("utf-8")
    assert json.loads(output)["message"] == "read caf\udce9.jpg"


def test_other_output_is_not_an_event():
    for line in ("", "Epoch 1/5", '{"severity"', '{"severity": 1}', '["severity"]', '{"event": "x"}'):
        assert log.parse_event(line) is None


def test_progress_is_at_most_one_line_per_second_and_per_percent_of_the_time(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    progress = log.Progress("convert", 1000, "images")
    for _ in range(400):
        now[0] += 0.5
        progress.update(int(now[0] * 2), loss=0.5)
    events = [log.parse_event(line) for line in capsys.readouterr().out.splitlines()]
    assert 140 <= len(events) <= 200
    assert events[0]["message"] == "convert: 2 of 1,000 images, 2.0 per second"
    assert {"step": "convert", "done": 2, "total": 1000, "per_second": 2.0, "loss": 0.5}.items() <= events[
        0
    ].items()
    now[0] = 36_000.0
    progress.update(1000)
    capsys.readouterr()
    now[0] += 300
    progress.update(1000)
    assert capsys.readouterr().out == ""


def test_unknown_total_and_with_progress(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now.__setitem__(0, now[0] + 2) or now[0])
    log.Progress("scan", 0, "records").update(4)
    assert log.parse_event(capsys.readouterr().out)["message"] == "scan: 4 records, 2.0 per second"
    log.Progress("train", 20, "steps").update(1)
    assert log.parse_event(capsys.readouterr().out)["message"] == "train: 1 of 20 steps, 2.0 s each"
    assert list(log.with_progress(["a", "b"], "scan", "files")) == ["a", "b"]
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_timed_logs_the_seconds_only_on_success(capsys):
    with log.timed("loaded", "loaded it", size=3):
        pass
    event = log.parse_event(capsys.readouterr().out)
    assert event["event"] == "loaded"
    assert event["seconds"] >= 0
    assert event["size"] == 3
    try:
        with log.timed("loaded", "loaded it"):
            raise ValueError
    except ValueError:
        assert capsys.readouterr().out == ""


@pytest.fixture
def plain(monkeypatch, capsys):
    """Returns the lines that were printed since the last call."""
    monkeypatch.delenv(log.LOG_FORMAT_VARIABLE)
    return lambda: capsys.readouterr().out.splitlines()


def test_plain_lines_have_a_time_the_step_and_what_happened_in_100_columns(plain):
    log.log_event("saved", "train: step 5: saved", step="train", loss=0.5)
    [line] = plain()
    assert re.fullmatch(r"\d\d-\d\d \d\d:\d\d:\d\d train: step 5: saved", line)
    log.log_event("ignored", "convert: " + "a-file.txt is ignored, " * 20 + "x" * 300, severity="WARNING")
    lines = plain()
    assert lines[0].endswith("convert: warning: " + "a-file.txt is ignored, " * 2 + "a-file.txt is")
    assert max(map(len, lines)) == 100
    assert all(line.startswith("    ") for line in lines[1:])
    log.log_event("gpu", "no GPU: it is not usable", severity="WARNING")
    assert plain()[0].endswith(" warning: no GPU: it is not usable")
    log.log_event("odd", "read caf\udce9.jpg")
    assert plain()[0].endswith(" read caf\\udce9.jpg")
    log.log_event("nothing", "")
    assert len(plain()) == 1


def test_the_variable_is_read_when_a_line_is_written(plain, monkeypatch):
    with log.json_events():
        log.log_event("done", "all good")
        assert log.parse_event(plain()[0])["message"] == "all good"
    log.log_event("done", "all good")
    assert log.parse_event(plain()[0]) is None


def test_an_error_is_its_problem_where_it_is_and_what_to_do(plain):
    error = InvalidDataError("a bad row\nwith two lines", where="a.csv, line 2", remedy="correct it")
    log_error("convert", error)
    lines = plain()
    assert lines[0].endswith(" convert: failed")
    assert lines[1:] == [
        "    problem: a bad row with two lines",
        "    where: a.csv, line 2",
        "    what to do: correct it",
    ]


def test_our_lines_and_their_messages_are_found_among_those_of_other_programs(plain):
    log.log_event("started", "convert: started")
    log.log_result("convert", "1,000 images, " * 10 + "/path" * 50 + " is written")
    manifest = "kind: Role\nrules:\n- verbs:\n    - get"
    log_error("convert", InvalidDataError("bad", where="", remedy=f"apply this:\n{manifest}"))
    lines = plain()
    others = [
        "[KFP Executor 2026-11-28 12:00:00,000 INFO]: x",
        "I1128 12:00:00.000 1 launcher_v2.go:1] x",
        "",
    ]
    mixed = [*others, lines[0], *others, "    indented", *lines[1:], *others]
    assert list(log.own_lines(mixed)) == lines
    assert log.messages(mixed) == [
        "convert: started",
        "convert: result: " + "1,000 images, " * 10 + "/path" * 50 + " is written",
        f"convert: failed\nproblem: bad\nwhat to do: apply this:\n{manifest}",
    ]
