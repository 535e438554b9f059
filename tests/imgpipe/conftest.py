"""A run that several tests of the API read."""

import numpy as np
import pytest
from PIL import Image

import imgpipe
from tests.components.conftest import linear_model

__all__ = ["linear_model"]

LABELS = ("daisy", "rose", "tulip")
# Small and quick: what is tested is the way there and back, not the accuracy.
QUICK = {
    "model_type": "resnet-18",
    "weights": "none",
    "image_size": 32,
    "max_steps": 4,
    "train_batch_size": 8,
}


@pytest.fixture(scope="session")
def flowers(tmp_path_factory):
    """A folder with a subfolder of 20 pictures for each label; the labels differ in colour."""
    folder = tmp_path_factory.mktemp("flowers")
    draw = np.random.default_rng(0)
    for index, label in enumerate(LABELS):
        (folder / label).mkdir()
        for number in range(20):
            pixels = draw.integers(0, 60, (16, 16, 3), dtype=np.uint8)
            pixels[..., index] += 150
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def finished_run(flowers, tmp_path_factory):
    return imgpipe.run(
        images=flowers, job_dir=tmp_path_factory.mktemp("run") / "job", progress=False, **QUICK
    )
