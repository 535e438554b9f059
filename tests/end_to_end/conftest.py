"""Fixtures of the end-to-end tests: data and runs."""

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.runs import FLOWERS, run_imgpipe


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """`imgpipe run` on the sample, with no argument but the output folder."""
    return run_imgpipe(tmp_path_factory.mktemp("digits") / "job")


@pytest.fixture(scope="session")
def keras_home(tmp_path_factory):
    """The value of KERAS_HOME with the ImageNet weights, for a test on the photos of flowers."""
    if not FLOWERS.is_dir():
        pytest.skip(f"NOT PROVEN: the flower photos are not at {FLOWERS}")
    home = tmp_path_factory.mktemp("keras")
    (home / "models").mkdir()
    for weights in (FLOWERS.parent / "pretrained").glob("*.h5"):
        shutil.copy(weights, home / "models")
    return str(home)


@pytest.fixture
def coloured_folder(tmp_path):
    """Two classes of 12 images; the names of the folders need quoting in CSV, URLs and shells."""
    folder = tmp_path / "python3 data, größer {{x}}"
    generator = np.random.default_rng(0)
    for label, colour in (('röt, "dark"', (200, 40, 40)), ("青", (40, 40, 200))):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(np.array(colour) + generator.integers(-40, 40, (20, 24, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}.png")
    return folder
