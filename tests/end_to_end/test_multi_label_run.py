"""The whole pipeline on images with several labels each, from a list of them."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.runs import IMGPIPE, SMALL, run_imgpipe

COLOURS = {"blue": (30, 30, 220), "red": (220, 30, 30), "yellow, bright": (220, 220, 30)}


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """60 pictures whose quarters have colours, and a list of which are in each."""
    folder = tmp_path_factory.mktemp("quarters")
    draw = np.random.default_rng(0)
    lines = []
    for number in range(60):
        pixels = draw.integers(0, 60, (16, 16, 3), dtype=np.uint8)
        there = [name for name in COLOURS if draw.random() < 0.4]
        for quarter, name in zip(draw.permutation(4), there, strict=False):
            rows, columns = (slice(8 * one, 8 * one + 8) for one in divmod(int(quarter), 2))
            pixels[rows, columns] = COLOURS[name]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(",".join([f"{number}.png", *(f'"{name}"' if "," in name else name for name in there)]))
    (folder / "train.csv").write_text("".join(f"{line}\n" for line in lines))
    return folder / "train.csv"


@pytest.fixture(scope="module")
def run(listed):
    words = ["--train-csv", str(listed), "--multi-label", "true", "--train-batch-size", "8", *SMALL]
    return run_imgpipe(listed.parent / "job", *words)


def test_a_list_with_several_labels_a_row_becomes_a_checked_model(run):
    assert run.status == 0, run.shown
    model = Path(run.summary["model"])
    assert (model / "assets" / "labels.txt").read_text(encoding="utf-8").splitlines() == list(COLOURS)
    assert json.loads((model / "provenance.json").read_text())["multi_label"] is True
    page = Path(run.summary["report"]).read_text(encoding="utf-8")
    assert "mean average precision" in page
    results = {event["step"]: event for event in run.events if event["event"] == "step_result"}
    assert results["convert"]["rows"] == results["convert"]["written"] == 60
    assert 0 < results["evaluate"]["mean_average_precision"] <= 1
    assert set(results) >= {"convert", "validate", "train", "evaluate", "export", "gate"}


def test_the_model_predicts_a_probability_for_each_label(run, listed, tmp_path):
    words = [
        "--model",
        run.summary["model"],
        "--images",
        str(listed.parent),
        "--output-dir",
        str(tmp_path / "out"),
    ]
    finished = subprocess.run([IMGPIPE, "predict", *words], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    (file,) = (tmp_path / "out").glob("predictions-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 60
    for line in lines:
        assert {one["label"] for one in line["top"]} == set(COLOURS)
    assert any(abs(sum(one["probability"] for one in line["top"]) - 1) > 0.01 for line in lines)


def test_without_the_argument_the_run_ends_with_a_hint_to_it(listed, tmp_path):
    run = run_imgpipe(tmp_path / "job", "--train-csv", str(listed), *SMALL)
    assert run.status == 65
    assert "multi_label=true" in run.shown
