import pytest

from imgpipe.components.common.dataset import read_manifest
from imgpipe.components.common.errors import InternalError, InvalidDataError, MissingInputError
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.common.split_records import record_place, split_records

RECORDS = [ImageRecord(bytes([number]), number % 2 + 1, "", f"{number}.png") for number in range(7)]


@pytest.fixture
def dataset(tmp_path, write_dataset):
    return write_dataset(tmp_path / "data", {"validation": RECORDS}, ["a", "b"], shards=3)


@pytest.fixture
def split(dataset):
    return read_manifest(dataset).splits["validation"]


def test_records_come_shard_by_shard_in_order(dataset, split):
    assert [shard.examples for shard in split.shards] == [2, 2, 3]
    assert list(split_records(dataset, split)) == RECORDS


def test_the_place_of_a_record_is_its_file_and_its_number_there(dataset, split):
    shards = [dataset / shard.path for shard in split.shards]
    places = [record_place(dataset, split, index) for index in range(7)]
    assert places == [
        *(f"{shards[0]}, record {number}" for number in range(2)),
        *(f"{shards[1]}, record {number}" for number in range(2)),
        *(f"{shards[2]}, record {number}" for number in range(3)),
    ]
    with pytest.raises(InternalError):
        record_place(dataset, split, 7)


def test_a_damaged_record_is_named_by_file_and_number(dataset, split):
    path = dataset / split.shards[1].path
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidDataError) as caught:
        list(split_records(dataset, split))
    assert f"{path}, record 1" in caught.value.where


def test_a_missing_shard_is_named(dataset, split):
    path = dataset / split.shards[2].path
    path.unlink()
    with pytest.raises(MissingInputError, match=path.name):
        list(split_records(dataset, split))
