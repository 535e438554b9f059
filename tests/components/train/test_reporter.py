import json
import os
import re
import subprocess
import sys
from datetime import datetime

import pytest

from imgpipe.components.common.log import parse_event
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.katib_lines import FILTER
from imgpipe.components.train.reporter import reporter

FIRST = Evaluation(step=5, top_1_accuracy=0.25, top_5_accuracy=0.75, loss=1.5, train_loss=2.0)
SECOND = Evaluation(step=10, top_1_accuracy=0.5, top_5_accuracy=1.0, loss=1.25, train_loss=1.0)
# The default filter of Katib's metrics collector.
KATIB_FILTER = r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)"


def test_every_evaluation_is_a_log_line_that_katib_can_parse(capsys):
    report = reporter("")
    report([FIRST])
    report([FIRST, SECOND])
    lines = capsys.readouterr().out.splitlines()
    events = [parse_event(line) for line in lines]
    assert [(event["event"], event["training_step"]) for event in events] == [
        ("evaluation", 5),
        ("evaluation", 10),
    ]
    assert events[1]["top_1_accuracy"] == 0.5
    found = [{name: float(value) for name, value, *_ in re.findall(KATIB_FILTER, line)} for line in lines]
    first = {"top_1_accuracy": 0.25, "top_5_accuracy": 0.75, "loss": 1.5, "train_loss": 2.0}
    assert found[0] == {**first, "temperature": 1.0}


def test_a_trial_of_katib_has_one_line_with_a_time_per_evaluation(capsys, monkeypatch):
    monkeypatch.setenv("KATIB_TRIAL_NAME", "tune-1")
    report = reporter("")
    report([FIRST])
    report([FIRST, SECOND])
    lines = capsys.readouterr().out.splitlines()
    found = [
        (line, match) for line in lines if (match := re.search(FILTER.format(metric="top_1_accuracy"), line))
    ]
    assert [match.groups() for _, match in found] == [("top_1_accuracy", "0.25"), ("top_1_accuracy", "0.5")]
    times = [datetime.fromisoformat(line.split(" ")[0]) for line, _ in found]
    assert times == sorted(times)
    assert times[0].tzinfo is not None


def test_the_metrics_file_has_one_line_per_evaluation(tmp_path):
    reporter(str(tmp_path))([FIRST])
    reporter(str(tmp_path))([FIRST, SECOND])
    # A resumed training run repeats an evaluation.
    reporter(str(tmp_path))([FIRST, SECOND])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        FIRST.figures(),
        SECOND.figures(),
    ]


@pytest.mark.parametrize("vertex_folder", [False, True])
def test_tensorboard_can_read_every_evaluation(tmp_path, monkeypatch, vertex_folder):
    if vertex_folder:
        monkeypatch.setenv("AIP_TENSORBOARD_LOG_DIR", str(tmp_path / "elsewhere"))
    report = reporter(str(tmp_path))
    report([FIRST])
    report([FIRST, SECOND])
    (file,) = (tmp_path / ("elsewhere" if vertex_folder else "tensorboard")).iterdir()
    values = scalars(file)
    assert values["top_1_accuracy"] == {5: 0.25, 10: 0.5}
    assert values["loss"] == {5: 1.5, 10: 1.25}


def test_the_same_files_are_written_to_cloud_storage(cloud, tmp_path):
    report = reporter("gs://photos/job")
    report([FIRST])
    report([FIRST, SECOND])
    contents = cloud.contents("job/")
    assert len(contents.pop("metrics.jsonl").splitlines()) == 2
    ((name, content),) = contents.items()
    assert name.startswith("tensorboard/events.out.tfevents")
    (tmp_path / "events").write_bytes(content)
    assert scalars(tmp_path / "events")["top_1_accuracy"] == {5: 0.25, 10: 0.5}


def scalars(file):
    """Returns {name: {step: value}} of an event file."""
    values = {}
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        event = tf.compat.v1.Event.FromString(record)
        for value in event.summary.value:
            values.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return values


@pytest.mark.parametrize("trial", ["", "7"])
def test_the_tuner_of_vertex_ai_gets_every_evaluation_in_a_trial(tmp_path, trial):
    """Runs in a separate process, because hypertune reads the environment when it is imported."""
    file = tmp_path / "metrics" / "output.metrics"
    code = (
        "from imgpipe.components.train.evaluation import Evaluation\n"
        "from imgpipe.components.train.reporter import reporter\n"
        "report = reporter('')\n"
        "first = Evaluation(5, 0.25, 0.75, 1.5, 2.0)\n"
        "report([first])\n"
        "report([first, Evaluation(10, 0.5, 1.0, 1.25, 1.0)])\n"
    )
    environment = {**os.environ, "CLOUD_ML_HP_METRIC_FILE": str(file), "CLOUD_ML_TRIAL_ID": trial}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    if not trial:
        assert not file.exists()
        return
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["global_step"], float(line["top_1_accuracy"]), line["trial"]) for line in lines] == [
        ("5", 0.25, "7"),
        ("10", 0.5, "7"),
    ]


def test_a_report_that_cannot_be_written_is_a_warning_and_the_others_are_written(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLOUD_ML_TRIAL_ID", "7")
    # As the folder of root's that Vertex AI sets, which another user cannot write to.
    monkeypatch.setattr("hypertune.HyperTune.__init__", lambda _: (tmp_path / "file" / "metrics").mkdir())
    (tmp_path / "job" / "metrics.jsonl").mkdir(parents=True)
    (tmp_path / "job" / "metrics.jsonl" / "mine").touch()
    report = reporter(str(tmp_path / "job"))
    report([FIRST])
    report([FIRST, SECOND])
    events = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["training_step"] for event in events if event["event"] == "evaluation"] == [5, 10]
    warnings = [event["message"] for event in events if event["event"] == "not_reported"]
    assert len(warnings) == 2
    assert "metrics.jsonl is incomplete" in warnings[0]
    assert "Vertex AI gets no metric from this trial" in warnings[1]
    assert "imgpipe-train-*-vertex" in warnings[1]
    (file,) = (tmp_path / "job" / "tensorboard").iterdir()
    assert scalars(file)["top_1_accuracy"] == {5: 0.25, 10: 0.5}
