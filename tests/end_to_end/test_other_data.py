"""The whole pipeline on folders of classes, with names that need quoting, and on TFRecord patterns."""

import json
from pathlib import Path

from tests.end_to_end.runs import SMALL, run_imgpipe
from tests.servers.mlflow import serve_tracking


def test_a_folder_with_difficult_names_becomes_a_model_and_is_logged(tmp_path, coloured_folder, monkeypatch):
    job_dir = tmp_path / "job with python3 and, commas"
    with serve_tracking() as (address, tracking):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        run = run_imgpipe(job_dir, "--images", str(coloured_folder), "--train-batch-size", "8", *SMALL)
    assert run.status == 0, run.shown
    labels = (Path(run.summary["model"]) / "assets" / "labels.txt").read_text(encoding="utf-8")
    assert labels.splitlines() == ['röt, "dark"', "青"]
    assert "青" in Path(run.summary["report"]).read_text(encoding="utf-8")
    ((run_id, logged),) = tracking.runs.items()
    assert (logged["run_name"], logged["status"]) == (job_dir.name, "FINISHED")
    assert logged["params"]["train/max_steps"] == "3"
    assert list(tracking.metrics(run_id, "top_1_accuracy")) == [3]
    assert tracking.metrics(run_id, "evaluate/top_1_accuracy") == {0: run.summary["top_1_accuracy"]}


def test_tfrecord_patterns_are_used_without_a_copy(tmp_path, digits_run):
    data = digits_run.artifact("convert", "dataset")
    run = run_imgpipe(
        tmp_path / "job",
        "--training-data-path",
        f"{data}/train-*",
        "--validation-data-path",
        f"{data}/validation-0000[0-9]-of-*",
        *SMALL,
    )
    assert run.status == 0, run.shown
    manifest = run.artifact("convert", "dataset") / "manifest.json"
    shards = json.loads(manifest.read_text())["splits"]["train"]["shards"]
    assert [shard["path"] for shard in shards] == [str(data / "train-00000-of-00001")]
    assert list(manifest.parent.glob("train-*")) == []
