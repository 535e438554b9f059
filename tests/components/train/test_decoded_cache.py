import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from imgpipe.components.train import decoded_cache
from imgpipe.components.train.decoded_cache import CachePlace, DecodedCache, kept_decoded

PLACES = [CachePlace.MEMORY, CachePlace.DISK]
IMAGE = 4 * 4 * 3


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_stored_comes_back_and_what_is_not_is_not_held(place):
    cache = DecodedCache(100, 4, 2, place)
    numbers, pixels = np.array([99, 0, 50]), images(3)
    facts = np.array([[1, 2], [3, 4], [5, 6]])
    assert not cache.holds(np.arange(100)).any()
    cache.store(numbers, pixels, facts)
    assert np.flatnonzero(cache.holds(np.arange(100))).tolist() == [0, 50, 99]
    loaded, loaded_facts = cache.load(numbers[::-1])
    assert (loaded == pixels[::-1]).all()
    assert (loaded_facts == facts[::-1]).all()


def test_a_full_disk_ends_the_keeping_and_not_the_run(monkeypatch, capsys):
    cache = DecodedCache(100, 4, 1, CachePlace.DISK)
    cache.store(np.array([1]), images(1), np.array([[7]]))
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "pwrite", full)
        cache.store(np.array([2, 3]), images(2), np.array([[8], [9]]))
    cache.store(np.array([4]), images(1), np.array([[9]]))
    assert cache.holds(np.arange(5)).tolist() == [False, True, False, False, False]
    assert (cache.load(np.array([1]))[0] == images(1)).all()
    assert "No space left on device" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_file_is_gone_with_the_process_however_it_ends(tmp_path):
    code = (
        "import numpy as np, sys, time\n"
        "from imgpipe.components.train.decoded_cache import *\n"
        "cache = DecodedCache(10, 64, 1, CachePlace.DISK)\n"
        "cache.store(np.arange(10), np.ones((10, 64, 64, 3), np.uint8), np.zeros((10, 1), np.int64))\n"
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
        assert "decoded images are kept in" in process.stdout.readline()
        assert process.stdout.readline() == "stored\n"
        held = [os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
        # It lies there, and has no name even now.
        assert any(name.startswith(str(tmp_path)) for name in held)
        assert list(tmp_path.iterdir()) == []
        process.send_signal(signal.SIGKILL)
    assert list(tmp_path.iterdir()) == []


def choose(monkeypatch, *, training, validation, free=0, **values):
    monkeypatch.setattr(decoded_cache, "_MEMORY_BYTES", 10 * IMAGE)
    monkeypatch.setattr(decoded_cache, "_free_disk_bytes", lambda: free * IMAGE)
    return kept_decoded(
        training_images=training,
        training_size=4,
        validation_images=validation,
        validation_size=4,
        **{"seen": 10**6, **values},
    )


@pytest.mark.parametrize(
    ("training", "validation", "free", "kept"),
    [
        (8, 2, 0, (CachePlace.MEMORY, True)),
        (9, 2, 0, (CachePlace.MEMORY, False)),
        (10, 1, 0, (CachePlace.MEMORY, False)),
        # What training cannot use is left to the validation.
        (11, 10, 0, (CachePlace.NOWHERE, True)),
        (11, 11, 0, (CachePlace.NOWHERE, False)),
        # On a disk that has twice the space.
        (11, 10, 21, (CachePlace.NOWHERE, True)),
        (11, 10, 22, (CachePlace.DISK, True)),
        # Memory is better.
        (10, 1, 99, (CachePlace.MEMORY, False)),
    ],
)
def test_training_and_validation_images_share_one_limit(training, validation, free, kept, monkeypatch):
    assert choose(monkeypatch, training=training, validation=validation, free=free) == kept


@pytest.mark.parametrize(("seen", "kept"), [(8, CachePlace.NOWHERE), (9, CachePlace.MEMORY)])
def test_what_is_seen_once_is_not_kept(seen, kept, monkeypatch):
    assert choose(monkeypatch, training=8, validation=2, seen=seen) == (kept, True)


def test_a_run_that_is_to_be_repeated_need_not_use_the_disk(monkeypatch):
    for disk, kept in ((True, CachePlace.DISK), (False, CachePlace.NOWHERE)):
        assert choose(monkeypatch, training=11, validation=1, free=22, disk=disk) == (kept, True)


def test_a_file_system_in_memory_is_no_disk(monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(decoded_cache.shutil, "disk_usage", lambda _: Usage(0, 0, 1000))
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")  # noqa: S108
    if Path("/dev/shm").is_dir():  # noqa: S108
        assert decoded_cache._free_disk_bytes() == 0
    monkeypatch.setattr(tempfile, "tempdir", "/proc/self")
    assert decoded_cache._free_disk_bytes() == 1000
