"""The whole pipeline on a list of images with several labels each."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import IMGPIPE
from tests.end_to_end.runs import SMALL, run_imgpipe

COLOURS = {"blue": (30, 30, 220), "red": (220, 30, 30), "yellow, bright": (220, 220, 30)}


@pytest.fixture(scope="module")
def image_list(tmp_path_factory):
    """60 images with colours in their quarters, and a list of the colours in each image."""
    folder = tmp_path_factory.mktemp("quarters")
    generator = np.random.default_rng(0)
    lines = []
    for number in range(60):
        pixels = generator.integers(0, 60, (16, 16, 3), dtype=np.uint8)
        names = [name for name in COLOURS if generator.random() < 0.4]
        for quarter, name in zip(generator.permutation(4), names, strict=False):
            rows, columns = (slice(8 * index, 8 * index + 8) for index in divmod(int(quarter), 2))
            pixels[rows, columns] = COLOURS[name]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(",".join([f"{number}.png", *(f'"{name}"' if "," in name else name for name in names)]))
    (folder / "train.csv").write_text("".join(f"{line}\n" for line in lines))
    return folder / "train.csv"


@pytest.fixture(scope="module")
def run(image_list):
    arguments = ["--train-csv", str(image_list), "--multi-label", "true", "--train-batch-size", "8", *SMALL]
    return run_imgpipe(image_list.parent / "job", *arguments)


def test_a_list_with_several_labels_per_row_becomes_a_checked_model(run):
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


def test_the_model_predicts_a_probability_for_each_label(run, image_list, tmp_path):
    arguments = [
        "--model",
        run.summary["model"],
        "--images",
        str(image_list.parent),
        "--output-dir",
        str(tmp_path / "out"),
    ]
    finished = subprocess.run([IMGPIPE, "predict", *arguments], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    (file,) = (tmp_path / "out").glob("predictions-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == 60
    for line in lines:
        assert {prediction["label"] for prediction in line["top"]} == set(COLOURS)
    sums = [sum(prediction["probability"] for prediction in line["top"]) for line in lines]
    assert any(abs(total - 1) > 0.01 for total in sums)


def test_without_multi_label_the_error_suggests_it(image_list, tmp_path):
    run = run_imgpipe(tmp_path / "job", "--train-csv", str(image_list), *SMALL)
    assert run.status == 65
    assert "--multi-label true" in run.shown
