"""Data and runs for the end-to-end tests."""

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.runs import run_imgpipe


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The main job: `imgpipe run` on the sample, without an argument but where to write."""
    return run_imgpipe(tmp_path_factory.mktemp("digits") / "job")


@pytest.fixture
def coloured_folder(tmp_path):
    """A folder a class, with names that CSV, URLs and careless code break on; 12 images each."""
    folder = tmp_path / "python3 data, größer {{x}}"
    draw = np.random.default_rng(0)
    for label, colour in (('röt, "dark"', (200, 40, 40)), ("青", (40, 40, 200))):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(np.array(colour) + draw.integers(-40, 40, (20, 24, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}.png")
    return folder
