import pytest

from imgpipe.components.common import dataset_reader
from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION, read_manifest
from imgpipe.components.common.dataset_reader import local_dataset, locate_record, read_split
from imgpipe.components.common.errors import InternalError, InvalidDataError, MissingInputError, OutputError
from imgpipe.components.common.records import ImageRecord

RECORDS = [ImageRecord(bytes([number]), number % 2 + 1, "", f"{number}.png") for number in range(7)]


@pytest.fixture
def dataset(tmp_path, write_dataset):
    return write_dataset(tmp_path / "data", {"validation": RECORDS}, ["a", "b"], shards=3)


@pytest.fixture
def split(dataset):
    return read_manifest(dataset).splits["validation"]


def test_records_come_shard_by_shard_in_order(dataset, split):
    assert [shard.examples for shard in split.shards] == [2, 2, 3]
    assert list(read_split(dataset, split)) == RECORDS


def test_a_record_is_located_by_its_file_and_its_number_in_it(dataset, split):
    shards = [dataset / shard.path for shard in split.shards]
    locations = [locate_record(dataset, split, index) for index in range(7)]
    assert locations == [
        *(f"{shards[0]}, record {number}" for number in range(2)),
        *(f"{shards[1]}, record {number}" for number in range(2)),
        *(f"{shards[2]}, record {number}" for number in range(3)),
    ]
    with pytest.raises(InternalError):
        locate_record(dataset, split, 7)


def test_a_damaged_record_is_reported_with_file_and_number(dataset, split):
    path = dataset / split.shards[1].path
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidDataError) as caught:
        list(read_split(dataset, split))
    assert f"{path}, record 1" in caught.value.where


def test_a_missing_shard_is_reported(dataset, split):
    path = dataset / split.shards[2].path
    path.unlink()
    with pytest.raises(MissingInputError, match=path.name):
        list(read_split(dataset, split))


def test_local_shards_are_used_without_a_copy(coloured_dataset, tmp_path):
    folder = coloured_dataset(tmp_path / "data")
    with local_dataset(folder, TRAIN, VALIDATION) as local:
        assert local == folder


def test_shards_in_cloud_storage_are_copied_and_the_copies_removed(
    cloud, coloured_dataset, upload_dataset, tmp_path
):
    source = coloured_dataset(tmp_path / "data", shards=3)
    folder = upload_dataset(cloud, source, tmp_path / "manifest")
    with local_dataset(folder, TRAIN, VALIDATION) as local:
        assert read_manifest(local).digest() == read_manifest(source).digest()
        copied = list(read_split(local, read_manifest(local).splits[TRAIN]))
        assert copied == list(read_split(source, read_manifest(source).splits[TRAIN]))
    assert not local.exists()


def test_only_the_shards_of_the_splits_that_are_read_are_copied(
    cloud, coloured_dataset, upload_dataset, tmp_path
):
    source = coloured_dataset(tmp_path / "data", shards=3)
    folder = upload_dataset(cloud, source, tmp_path / "manifest")
    cloud.requests.clear()
    with local_dataset(folder, VALIDATION, TEST) as local:
        manifest = read_manifest(local)
        assert manifest.digest() == read_manifest(source).digest()
        assert list(read_split(local, manifest.splits[VALIDATION]))
        paths = [shard.path for shard in manifest.splits[TRAIN].shards]
    assert all(path.startswith("gs://photos/data/train-") for path in paths)
    read = [path for method, path in cloud.requests if cloud.reads(method, path)]
    assert len(read) == len(manifest.splits[VALIDATION].shards)


def test_a_changed_or_missing_shard_is_reported(cloud, coloured_dataset, upload_dataset, tmp_path):
    folder = upload_dataset(cloud, coloured_dataset(tmp_path / "data", shards=2), tmp_path / "manifest")
    cloud.put("data/train-00001-of-00002", b"other")
    with (
        pytest.raises(InvalidDataError, match="gs://photos/data/train-00001-of-00002"),
        local_dataset(folder, TRAIN),
    ):
        pass
    (folder / "manifest.json").write_text(
        (folder / "manifest.json").read_text().replace("train-00001", "train-00007")
    )
    with pytest.raises(MissingInputError, match="train-00007"), local_dataset(folder, TRAIN):
        pass


def test_a_disk_that_is_too_small_is_reported_before_copying(
    cloud, coloured_dataset, upload_dataset, tmp_path, monkeypatch
):
    folder = upload_dataset(cloud, coloured_dataset(tmp_path / "data"), tmp_path / "manifest")
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(dataset_reader.shutil, "disk_usage", lambda _: usage)
    cloud.requests.clear()
    with pytest.raises(OutputError, match=r"0\.0 GB are free"), local_dataset(folder, TRAIN):
        pass
    assert cloud.requests == []
