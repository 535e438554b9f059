import dataclasses

import pytest

from imgpipe.components.common import local_dataset as module
from imgpipe.components.common.dataset import TRAIN, read_manifest, write_manifest
from imgpipe.components.common.errors import InvalidDataError, MissingInputError, OutputError
from imgpipe.components.common.local_dataset import local_dataset
from imgpipe.components.common.split_records import split_records


def in_the_cloud(cloud, source, target):
    """Uploads a data set's shards and writes a manifest of them that lies here."""
    manifest = read_manifest(source)
    splits = {
        name: dataclasses.replace(
            split,
            shards=tuple(
                dataclasses.replace(
                    shard, path=cloud.put(f"data/{shard.path}", (source / shard.path).read_bytes())
                )
                for shard in split.shards
            ),
        )
        for name, split in manifest.splits.items()
    }
    target.mkdir()
    write_manifest(target, dataclasses.replace(manifest, splits=splits))
    return target


def test_shards_of_this_machine_are_used_where_they_lie(coloured_dataset, tmp_path):
    folder = coloured_dataset(tmp_path / "data")
    with local_dataset(folder) as local:
        assert local == folder


def test_shards_in_cloud_storage_are_copied_and_the_copies_removed(cloud, coloured_dataset, tmp_path):
    source = coloured_dataset(tmp_path / "data", shards=3)
    folder = in_the_cloud(cloud, source, tmp_path / "manifest")
    with local_dataset(folder) as local:
        assert read_manifest(local).digest() == read_manifest(source).digest()
        copied = list(split_records(local, read_manifest(local).splits[TRAIN]))
        assert copied == list(split_records(source, read_manifest(source).splits[TRAIN]))
    assert not local.exists()


def test_a_shard_that_has_changed_or_is_gone_is_named(cloud, coloured_dataset, tmp_path):
    folder = in_the_cloud(cloud, coloured_dataset(tmp_path / "data", shards=2), tmp_path / "manifest")
    cloud.put("data/train-00001-of-00002", b"other")
    with (
        pytest.raises(InvalidDataError, match="gs://photos/data/train-00001-of-00002"),
        local_dataset(folder),
    ):
        pass
    (folder / "manifest.json").write_text(
        (folder / "manifest.json").read_text().replace("train-00001", "train-00007")
    )
    with pytest.raises(MissingInputError, match="train-00007"), local_dataset(folder):
        pass


def test_too_small_a_disk_is_told_before_anything_is_copied(cloud, coloured_dataset, tmp_path, monkeypatch):
    folder = in_the_cloud(cloud, coloured_dataset(tmp_path / "data"), tmp_path / "manifest")
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    cloud.requests.clear()
    with pytest.raises(OutputError, match=r"0\.0 GB are free"), local_dataset(folder):
        pass
    assert cloud.requests == []
