import pytest

from components.common.dataset import VALIDATION, read_manifest, shard_paths
from components.common.errors import InvalidDataError, MissingInputError
from components.common.quiet_tensorflow import tf
from components.common.records import ImageRecord
from components.common.split_records import split_records
from components.train.input_pipeline import evaluation_batches
from components.train.located_batches import LocatedBatches


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
    records = list(split_records(sound, read_manifest(sound).splits[VALIDATION]))
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


def test_when_no_record_is_to_blame_the_shards_and_the_reason_are_named(sound):
    def broken():
        yield from ()
        raise tf.errors.DataLossError(None, None, "the network file system lost it")

    with pytest.raises(InvalidDataError) as caught:
        list(LocatedBatches(broken(), sound, read_manifest(sound).splits[VALIDATION]))
    assert "the network file system lost it" in caught.value.problem
    assert "validation-00000-of-00003" in caught.value.where
