import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imgpipe.components.train import decoded_cache
from imgpipe.components.train.decoded_cache import CacheLocation, DecodedCache, choose_cache

IMAGE_BYTES = 4 * 4 * 3


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)


@pytest.mark.parametrize("location", [CacheLocation.MEMORY, CacheLocation.DISK])
@pytest.mark.parametrize("multi_label_classes", [0, 1, 8, 70])
def test_stored_examples_are_loaded_and_others_are_not_contained(location, multi_label_classes):
    cache = DecodedCache(100, 4, multi_label_classes, location)
    indices, pixels = np.array([99, 0, 50]), images(3)
    sizes, targets = np.array([[1, 2], [3, 4], [5, 6]], np.int32), np.array([7, 8, 9])
    if multi_label_classes:
        targets = np.random.default_rng(0).integers(0, 2, (3, multi_label_classes)).astype(np.float32)
    assert not cache.contains(np.arange(100)).any()
    cache.store(indices, pixels, sizes, targets)
    assert np.flatnonzero(cache.contains(np.arange(100))).tolist() == [0, 50, 99]
    for loaded, stored in zip(cache.load(indices[::-1]), (pixels, sizes, targets), strict=True):
        assert loaded.dtype == stored.dtype
        np.testing.assert_array_equal(loaded, stored[::-1])


def store(cache, *indices):
    count = len(indices)
    cache.store(np.array(indices), images(count), np.zeros((count, 2), np.int32), np.zeros(count, np.int64))


def test_a_full_disk_ends_the_caching_but_not_the_run(monkeypatch, capsys):
    cache = DecodedCache(100, 4, 0, CacheLocation.DISK)
    store(cache, 1)
    with monkeypatch.context() as patch:

        def disk_full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "pwrite", disk_full)
        store(cache, 2, 3)
    store(cache, 4)
    assert cache.contains(np.arange(5)).tolist() == [False, True, False, False, False]
    assert (cache.load(np.array([1]))[0] == images(1)).all()
    assert "No space left on device" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_file_is_removed_with_the_process_even_if_it_is_killed(tmp_path):
    code = (
        "import numpy as np, sys, time\n"
        "from imgpipe.components.train.decoded_cache import *\n"
        "cache = DecodedCache(10, 64, 0, CacheLocation.DISK)\n"
        "images, sizes = np.ones((10, 64, 64, 3), np.uint8), np.zeros((10, 2), np.int32)\n"
        "cache.store(np.arange(10), images, sizes, np.zeros(10, np.int64))\n"
        "print('stored', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert "caching decoded images in" in process.stdout.readline()
        assert process.stdout.readline() == "stored\n"
        open_files = [os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
        # The file is open in the folder, but has no name.
        assert any(name.startswith(str(tmp_path)) for name in open_files)
        assert list(tmp_path.iterdir()) == []
        process.send_signal(signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def choose(monkeypatch, *, training, validation, free=0, **values):
    monkeypatch.setattr(decoded_cache, "_MEMORY_BYTES", 10 * IMAGE_BYTES)
    monkeypatch.setattr(decoded_cache, "free_disk_bytes", lambda: free * IMAGE_BYTES)
    return choose_cache(
        training_images=training,
        training_size=4,
        validation_images=validation,
        validation_size=4,
        **{"images_seen": 10**6, **values},
    )


@pytest.mark.parametrize(
    ("training", "validation", "free", "expected"),
    [
        (8, 2, 0, (CacheLocation.MEMORY, True)),
        (9, 2, 0, (CacheLocation.MEMORY, False)),
        (10, 1, 0, (CacheLocation.MEMORY, False)),
        # Validation images may use all memory if the training images do not fit.
        (11, 10, 0, (CacheLocation.NONE, True)),
        (11, 11, 0, (CacheLocation.NONE, False)),
        # The disk needs twice the space.
        (11, 10, 21, (CacheLocation.NONE, True)),
        (11, 10, 22, (CacheLocation.DISK, True)),
        # Memory is preferred to the disk.
        (10, 1, 99, (CacheLocation.MEMORY, False)),
    ],
)
def test_training_and_validation_images_share_one_limit(training, validation, free, expected, monkeypatch):
    assert choose(monkeypatch, training=training, validation=validation, free=free) == expected


@pytest.mark.parametrize(("images_seen", "location"), [(8, CacheLocation.NONE), (9, CacheLocation.MEMORY)])
def test_images_that_are_seen_once_are_not_cached(images_seen, location, monkeypatch):
    assert choose(monkeypatch, training=8, validation=2, images_seen=images_seen) == (location, True)


def test_the_disk_can_be_disallowed(monkeypatch):
    for allowed, location in ((True, CacheLocation.DISK), (False, CacheLocation.NONE)):
        assert choose(monkeypatch, training=11, validation=1, free=22, allow_disk=allowed) == (location, True)
