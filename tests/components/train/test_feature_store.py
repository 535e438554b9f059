import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from imgpipe.components.train.feature_store import shared_features
from tests.waiting import wait_until

ARRAYS = [np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 2, 3])]
WEIGHTS = [np.ones((2, 2), np.float32)]
# Computes slowly and records each computation in a file.
SLOW = """
import sys, time
from pathlib import Path
import numpy as np
from imgpipe.components.train.feature_store import shared_features
folder, record, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def compute():
    with record.open("a") as file:
        file.write("computed\\n")
    time.sleep(seconds)
    return [np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 2, 3])]
arrays = shared_features(folder, {"data": "d"}, [np.ones((2, 2), np.float32)], compute)
assert arrays[0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
"""


def start(tmp_path, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path / "shared"), str(tmp_path / "record"), str(seconds)],
        cwd=Path(__file__).parents[3],
    )


def count_computations(tmp_path):
    record = tmp_path / "record"
    return record.read_text().count("computed") if record.exists() else 0


def test_features_are_computed_once_and_then_read_unchanged(tmp_path):
    shared_features(tmp_path / "shared", {"data": "d"}, WEIGHTS, lambda: ARRAYS)
    read = shared_features(
        tmp_path / "shared", {"data": "d"}, WEIGHTS, lambda: pytest.fail("features were computed again")
    )
    for array, expected in zip(read, ARRAYS, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    with pytest.raises(ValueError, match="read-only"):
        read[0][0, 0] = 1


@pytest.mark.parametrize(
    ("key", "weights"), [({"data": "other"}, WEIGHTS), ({"data": "d"}, [2 * WEIGHTS[0]])]
)
def test_other_data_and_other_weights_have_separate_features(tmp_path, key, weights):
    shared_features(tmp_path, {"data": "d"}, WEIGHTS, lambda: ARRAYS)
    [array] = shared_features(tmp_path, key, weights, lambda: [np.zeros(2)])
    assert array.tolist() == [0, 0]


def test_concurrent_training_runs_compute_once(tmp_path):
    processes = [start(tmp_path, 0.5) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert count_computations(tmp_path) == 1


def test_another_process_computes_if_the_first_one_is_killed(tmp_path):
    first = start(tmp_path, 600)
    wait_until(lambda: count_computations(tmp_path))
    second = start(tmp_path, 0)
    time.sleep(0.3)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert second.wait(60) == 0
    assert count_computations(tmp_path) == 2
