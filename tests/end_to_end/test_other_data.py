"""The whole pipeline on folders of classes, with names that need quoting, and on TFRecord patterns."""

import json
from pathlib import Path

from tests.end_to_end.runs import SMALL, run_imgpipe


def test_a_folder_of_classes_with_difficult_names_becomes_a_model(tmp_path, coloured_folder):
    run = run_imgpipe(
        tmp_path / "job with python3 and, commas",
        "--images",
        str(coloured_folder),
        "--train-batch-size",
        "8",
        *SMALL,
    )
    assert run.status == 0, run.shown
    labels = (Path(run.summary["model"]) / "assets" / "labels.txt").read_text(encoding="utf-8")
    assert labels.splitlines() == ['röt, "dark"', "青"]
    assert "青" in Path(run.summary["report"]).read_text(encoding="utf-8")


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
