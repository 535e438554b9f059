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
def sound(coloured_dataset, tmp_path):
    """A data set of 3 x 4 validation images."""
    return coloured_dataset(tmp_path / "data", validation=12, shards=3)


def located(folder):
    split = read_manifest(folder).splits[VALIDATION]
    batches = evaluation_batches(
        shard_paths(folder, split),
        shard_examples=[shard.examples for shard in split.shards],
        image_size=8,
        batch_size=4,
    )
    return LocatedBatches(batches, folder, split)


def refused(error, folder):
    with pytest.raises(error) as caught:
        list(located(folder))
    return caught.value


def test_the_batches_of_sound_data_come_as_often_as_one_likes(sound):
    batches = located(sound)
    for _ in range(2):
        assert [len(classes) for _, classes in batches] == [4, 4, 4]


def test_an_image_that_cannot_be_decoded_is_named_by_file_record_and_name(sound, write_dataset, tmp_path):
    records = list(read_split(sound, read_manifest(sound).splits[VALIDATION]))
    records[9] = ImageRecord(records[9].encoded[:60], 1, "", "photos/cut off.png")
    folder = write_dataset(tmp_path / "damaged", {VALIDATION: records}, ("dark", "bright"), shards=3)
    error = refused(InvalidDataError, folder)
    assert error.where == f"{folder / 'validation-00002-of-00003'}, record 1 (photos/cut off.png)"
    assert error.problem.startswith("an image cannot be decoded: ")
    assert "{{" not in error.problem
    assert "[Op" not in error.problem


def test_a_file_that_is_no_image_is_named(sound, write_dataset, tmp_path):
    records = [ImageRecord(b"no image", 1)]
    folder = write_dataset(tmp_path / "damaged", {VALIDATION: records}, ("dark", "bright"))
    assert refused(InvalidDataError, folder).where == f"{folder / 'validation-00000-of-00001'}, record 0"


def test_a_damaged_record_is_named(sound):
    path = sound / "validation-00001-of-00003"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    error = refused(InvalidDataError, sound)
    assert error.where.startswith(f"{path}, record 3")
    assert "checksum" in error.problem


def test_a_shard_that_is_gone_is_named(sound):
    path = sound / "validation-00001-of-00003"
    path.unlink()
    assert str(path) in refused(MissingInputError, sound).problem


def varied(folder, split, shard_examples, augmentation="crop-flip"):
    batches = training_batches(
        shard_paths(folder, split),
        shard_examples=shard_examples,
        image_size=8,
        batch_size=4,
        seed=0,
        augmentation=augmentation,
    )
    return LocatedBatches(batches.take(9), folder, split)


@pytest.mark.parametrize("damaged", ["file", "record", "gone"])
def test_training_on_crops_names_what_is_damaged_too(sound, write_dataset, tmp_path, damaged):
    records = list(read_split(sound, read_manifest(sound).splits[VALIDATION]))
    if damaged == "file":
        records[9] = ImageRecord(records[9].encoded[:60], 1, "", "photos/cut off.png")
    folder = write_dataset(tmp_path / "damaged", {VALIDATION: records}, ("dark", "bright"), shards=3)
    path = folder / "validation-00002-of-00003"
    if damaged == "record":
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)
    if damaged == "gone":
        path.unlink()
    split = read_manifest(folder).splits[VALIDATION]
    with pytest.raises(MissingInputError if damaged == "gone" else InvalidDataError) as caught:
        list(varied(folder, split, [4, 4, 4]))
    assert str(path) in str(caught.value)
    if damaged == "file":
        assert caught.value.where == f"{path}, record 1 (photos/cut off.png)"


def test_a_shard_with_another_number_of_records_is_named(sound):
    split = read_manifest(sound).splits[VALIDATION]
    with pytest.raises(InvalidDataError) as caught:
        list(varied(sound, split, [4, 5, 3]))
    assert "validation-00001-of-00003 holds 4 records, the manifest says 5" in caught.value.problem
    assert "Traceback" not in caught.value.problem


def test_a_jpeg_that_is_cut_off_is_named_as_soon_as_a_crop_reaches_the_cut(encode, write_dataset, tmp_path):
    content = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3)), "JPEG")
    sound, cut = ImageRecord(content, 1), ImageRecord(content[: len(content) * 3 // 4], 1, "", "cut.jpg")
    folder = write_dataset(tmp_path / "damaged", {VALIDATION: [sound, sound, sound, cut]}, ("dark", "bright"))
    split = read_manifest(folder).splits[VALIDATION]
    with pytest.raises(InvalidDataError, match=r"validation-00000-of-00001, record 3 \(cut.jpg\)"):
        list(varied(folder, split, [4]))


_READING = """
import gc, sys, time
from pathlib import Path
from imgpipe.components.common.dataset import VALIDATION, read_manifest, shard_paths
from imgpipe.components.train.input_pipeline import training_batches
from imgpipe.components.train.located_batches import LocatedBatches
from imgpipe.components.train.record_reader import RecordReader
read = RecordReader.read
def disturbed(self, numbers):
    disturb()
    return read(self, numbers)
RecordReader.read = disturbed
folder = Path(sys.argv[1])
split = read_manifest(folder).splits[VALIDATION]
def batches():
    made = training_batches(shard_paths(folder, split), shard_examples=[4, 4, 4], image_size=8, batch_size=4,
                            seed=0, augmentation="crop-flip")
    return iter(LocatedBatches(made, folder, split))
"""


def _run(code, folder):
    root = Path(__file__).parents[3]
    words = [sys.executable, "-c", _READING + code, str(folder)]
    return subprocess.run(words, cwd=root, timeout=60, check=False, capture_output=True, text=True)


def test_a_process_ends_while_batches_are_still_read_ahead(sound):
    """Python would wait for ever for a thread that is in the middle of reading."""
    code = """
def disturb():
    for _ in range(300):
        time.sleep(0.001)
iterator = batches()
for _ in range(3):
    next(iterator)
sys.exit(3)
"""
    assert _run(code, sound).returncode == 3


@pytest.mark.parametrize("end", ["abandoned", "failed"])
def test_the_garbage_collector_may_run_in_the_thread_that_reads(sound, end):
    """It would end there an iterator that nobody has any more, and wait for ever for its own thread."""
    code = f"""
gc.disable()
begun, ended = [], []
def disturb():
    time.sleep(0.05)
    begun.append(1)
    gc.collect()
    ended.append(1)
def one_more():
    iterator = batches()
    next(iterator)
    circle = [iterator]
    circle.append(circle)
    if {end == "failed"}:
        raise RuntimeError(circle)
for _ in range(5):
    try:
        one_more()
    except RuntimeError as error:
        kept = [error]
        kept.append(kept)
        del kept
    time.sleep(0.3)
# Two batches are read ahead, and one more is being made: then the reading rests.
for _ in range(100):
    if len(begun) == len(ended):
        break
    time.sleep(0.1)
print(f"{{len(begun) - len(ended)}} collections never end")
"""
    ended = _run(code, sound)
    assert ended.returncode == 0, ended.stderr
    assert "0 collections never end" in ended.stdout


def test_when_no_record_is_to_blame_the_shards_and_the_reason_are_named(sound):
    def broken():
        yield from ()
        raise tf.errors.DataLossError(None, None, "the network file system lost it")

    with pytest.raises(InvalidDataError) as caught:
        list(LocatedBatches(broken(), sound, read_manifest(sound).splits[VALIDATION]))
    assert "the network file system lost it" in caught.value.problem
    assert "validation-00000-of-00003" in caught.value.where
