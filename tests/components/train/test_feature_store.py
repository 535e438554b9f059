"""Features that several processes share."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from imgpipe.components.train.feature_store import shared_features

ARRAYS = [np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 2, 3])]
WEIGHTS = [np.ones((2, 2), np.float32)]
# Computes slowly, and says so in a file.
SLOW = """
import sys, time
from pathlib import Path
import numpy as np
from imgpipe.components.train.feature_store import shared_features
folder, note, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def compute():
    with note.open("a") as file:
        file.write("computed\\n")
    time.sleep(seconds)
    return [np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 2, 3])]
found = shared_features(folder, {"data": "d"}, [np.ones((2, 2), np.float32)], compute)
assert found[0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
"""


def never():
    raise AssertionError("it was computed again")


def start(tmp_path, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path / "shared"), str(tmp_path / "note"), str(seconds)],
        cwd=Path(__file__).parents[3],
    )


def computed(tmp_path):
    note = tmp_path / "note"
    return note.read_text().count("computed") if note.exists() else 0


def test_what_was_computed_once_is_taken_from_the_folder_and_is_the_same(tmp_path):
    shared_features(tmp_path / "shared", {"data": "d"}, WEIGHTS, lambda: ARRAYS)
    found = shared_features(tmp_path / "shared", {"data": "d"}, WEIGHTS, never)
    for array, theirs in zip(found, ARRAYS, strict=True):
        assert array.dtype == theirs.dtype
        np.testing.assert_array_equal(array, theirs)
    with pytest.raises(ValueError, match="read-only"):
        found[0][0, 0] = 1


@pytest.mark.parametrize(
    ("circumstances", "weights"), [({"data": "other"}, WEIGHTS), ({"data": "d"}, [2 * WEIGHTS[0]])]
)
def test_other_data_and_other_weights_have_features_of_their_own(tmp_path, circumstances, weights):
    shared_features(tmp_path, {"data": "d"}, WEIGHTS, lambda: ARRAYS)
    [found] = shared_features(tmp_path, circumstances, weights, lambda: [np.zeros(2)])
    assert found.tolist() == [0, 0]


def test_trainings_that_begin_together_compute_once(tmp_path):
    started = [start(tmp_path, 0.5) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert computed(tmp_path) == 1


def test_when_the_one_that_computes_is_killed_another_does_it(tmp_path):
    first = start(tmp_path, 600)
    deadline = time.monotonic() + 60
    while not computed(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = start(tmp_path, 0)
    time.sleep(0.3)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert second.wait(60) == 0
    assert computed(tmp_path) == 2
