"""The figures on real photos; minutes long, so part of `make proof`."""

import os
import shutil
from pathlib import Path

import pytest

from tests.end_to_end.runs import run_imgpipe

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_frozen_mobilenet_reaches_088_on_the_flowers_in_five_minutes(tmp_path, monkeypatch):
    if not (SHARED / "flowers_224").is_dir():
        pytest.skip(f"NOT PROVEN: the flower photos are not at {SHARED / 'flowers_224'}")
    models = tmp_path / "keras" / "models"
    models.mkdir(parents=True)
    for weights in (SHARED / "pretrained").glob("*.h5"):
        shutil.copy(weights, models)
    monkeypatch.setenv("KERAS_HOME", str(models.parent))
    run = run_imgpipe(
        tmp_path / "job", "--images", os.fspath(SHARED / "flowers_224"), "--model-type", "mobilenet-v2"
    )
    assert run.status == 0, run.shown
    print(run.shown, run.summary)
    assert run.summary["top_1_accuracy"] >= 0.88
    assert run.summary["seconds"]["total"] <= 300
    assert run.summary["overhead_seconds"] <= 25


@pytest.mark.proof
def test_the_digits_take_at_most_two_minutes(digits_run):
    print(digits_run.shown, digits_run.summary)
    assert digits_run.summary["top_1_accuracy"] >= 0.97
    assert digits_run.summary["seconds"]["total"] <= 120
    assert digits_run.summary["overhead_seconds"] <= 25
