import json

from imgpipe.components.common import log


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
