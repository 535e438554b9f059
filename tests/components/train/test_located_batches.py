import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imgpipe.components.common.dataset import VALIDATION, read_manifest, shard_paths
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.input_pipeline import evaluation_batches, training_batches
from imgpipe.components.train.located_batches import LocatedBatches


@pytest.fixture
def intact(coloured_dataset, tmp_path):
    """A data set of 3 x 4 validation images."""
    return coloured_dataset(tmp_path / "data", validation=12, shards=3)


def located(folder, *, training=False, shard_examples=None):
    """Returns evaluation batches, or nine training batches with crops, of the validation split."""
    split = read_manifest(folder).splits[VALIDATION]
    values = {
        "shard_examples": shard_examples or [shard.examples for shard in split.shards],
        "image_size": 8,
        "batch_size": 4,
    }
    if training:
        augmented = training_batches(shard_paths(folder, split), seed=0, augmentation="crop-flip", **values)
        return LocatedBatches(augmented.take(9), folder, split)
    return LocatedBatches(evaluation_batches(shard_paths(folder, split), **values), folder, split)


def reading_error(error, folder, **values):
    with pytest.raises(error) as caught:
        list(located(folder, **values))
    return caught.value


def test_batches_can_be_iterated_repeatedly(intact):
    batches = located(intact)
    for _ in range(2):
        assert [len(classes) for _, classes in batches] == [4, 4, 4]


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("encoded", ["truncated", "not an image"])
def test_an_image_that_cannot_be_decoded_is_named(intact, write_dataset, tmp_path, training, encoded):
    records = list(read_split(intact, read_manifest(intact).splits[VALIDATION]))
    content = records[9].encoded[:60] if encoded == "truncated" else b"not an image"
    records[9] = ImageRecord(content, 1, "", "photos/cut off.png")
    folder = write_dataset(tmp_path / "damaged", {VALIDATION: records}, ("dark", "bright"), shards=3)
    error = reading_error(InvalidDataError, folder, training=training)
    assert error.where == f"{folder / 'validation-00002-of-00003'}, record 1 (photos/cut off.png)"
    assert error.problem.startswith("an image cannot be decoded: ")
    assert "{{" not in error.problem
    assert "[Op" not in error.problem


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_damaged_record_is_named(intact, training):
    path = intact / "validation-00001-of-00003"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    error = reading_error(InvalidDataError, intact, training=training)
    assert error.where.startswith(f"{path}, record 3")
    assert "checksum" in error.problem


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_missing_shard_is_named(intact, training):
    path = intact / "validation-00001-of-00003"
    path.unlink()
    assert str(path) in reading_error(MissingInputError, intact, training=training).problem


def test_a_shard_with_another_number_of_records_is_named(intact):
    error = reading_error(InvalidDataError, intact, training=True, shard_examples=[4, 5, 3])
    assert "validation-00001-of-00003 has 4 records, but the manifest says 5" in error.problem
    assert "Traceback" not in error.problem


def test_a_truncated_jpeg_is_named_as_soon_as_a_crop_reaches_the_end(encode, write_dataset, tmp_path):
    content = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3)), "JPEG")
    complete, cut = ImageRecord(content, 1), ImageRecord(content[: len(content) * 3 // 4], 1, "", "cut.jpg")
    records = [complete, complete, complete, cut]
    folder = write_dataset(tmp_path / "damaged", {VALIDATION: records}, ("dark", "bright"))
    error = reading_error(InvalidDataError, folder, training=True)
    assert error.where.endswith("validation-00000-of-00001, record 3 (cut.jpg)")


_READING = """
import gc, sys, time
from pathlib import Path
from imgpipe.components.common.dataset import VALIDATION, read_manifest, shard_paths
from imgpipe.components.train.input_pipeline import training_batches
from imgpipe.components.train.located_batches import LocatedBatches
from imgpipe.components.train.record_reader import RecordReader
read = RecordReader.read
def slow_read(self, indices):
    delay()
    return read(self, indices)
RecordReader.read = slow_read
folder = Path(sys.argv[1])
split = read_manifest(folder).splits[VALIDATION]
def batches():
    made = training_batches(shard_paths(folder, split), shard_examples=[4, 4, 4], image_size=8, batch_size=4,
                            seed=0, augmentation="crop-flip")
    return iter(LocatedBatches(made, folder, split))
"""


def _run(code, folder):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", _READING + code, str(folder)]
    return subprocess.run(command, cwd=root, timeout=60, check=False, capture_output=True, text=True)


def test_a_process_can_exit_while_batches_are_prefetched(intact):
    """Python would wait forever for a thread that is reading."""
    code = """
def delay():
    for _ in range(300):
        time.sleep(0.001)
iterator = batches()
for _ in range(3):
    next(iterator)
sys.exit(3)
"""
    assert _run(code, intact).returncode == 3


@pytest.mark.parametrize("end", ["abandoned", "failed"])
def test_the_garbage_collector_can_run_in_the_prefetching_thread(intact, end):
    """If it destroyed an unreferenced iterator there, it would wait forever for its own thread."""
    code = f"""
gc.disable()
started, ended = [], []
def delay():
    time.sleep(0.05)
    started.append(1)
    gc.collect()
    ended.append(1)
def abandon_iterator():
    iterator = batches()
    next(iterator)
    cycle = [iterator]
    cycle.append(cycle)
    if {end == "failed"}:
        raise RuntimeError(cycle)
for _ in range(5):
    try:
        abandon_iterator()
    except RuntimeError as error:
        kept = [error]
        kept.append(kept)
        del kept
    time.sleep(0.3)
# Reading pauses when two batches are prefetched and a third one is in progress.
for _ in range(100):
    if len(started) == len(ended):
        break
    time.sleep(0.1)
print(f"{{len(started) - len(ended)}} collections never end")
"""
    result = _run(code, intact)
    assert result.returncode == 0, result.stderr
    assert "0 collections never end" in result.stdout


def test_the_shards_and_the_reason_are_named_if_all_records_can_be_read(intact):
    def broken():
        yield from ()
        raise tf.errors.DataLossError(None, None, "the network file system lost it")

    with pytest.raises(InvalidDataError) as caught:
        list(LocatedBatches(broken(), intact, read_manifest(intact).splits[VALIDATION]))
    assert "the network file system lost it" in caught.value.problem
    assert "validation-00000-of-00003" in caught.value.where
