import dataclasses
import hashlib

import pytest

from imgpipe.components.common.dataset import (
    Manifest,
    Shard,
    Split,
    parse_manifest,
    read_manifest,
    serialize_manifest,
    shard_paths,
    write_manifest,
)
from imgpipe.components.common.errors import InvalidDataError, MissingInputError


def split(*shards):
    return Split(tuple(Shard(path, 2, 10, path * 4) for path in shards), (1, 3))


MANIFEST = Manifest(
    ("rose", "日本"),
    {"validation": split("c"), "train": split("a", "/b")},
    {"source": {"form": "csv"}, "reencoded": [{"path": "caf\udce9.png", "reason": "GIF"}]},
)


def test_a_manifest_round_trips_and_is_serialized_deterministically(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    first = (tmp_path / "manifest.json").read_bytes()
    assert read_manifest(tmp_path) == MANIFEST
    write_manifest(tmp_path, dataclasses.replace(MANIFEST, splits=dict(reversed(MANIFEST.splits.items()))))
    assert (tmp_path / "manifest.json").read_bytes() == first
    assert "日本".encode() in first
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_shard_paths_are_relative_to_the_manifest_or_absolute(tmp_path):
    paths = shard_paths(tmp_path, MANIFEST.splits["train"])
    assert [str(path) for path in paths] == [str(tmp_path / "a"), "/b"]
    assert MANIFEST.splits["train"].examples == 4
    assert MANIFEST.num_classes == 2


def test_the_digest_depends_on_the_images_and_not_on_their_location():
    moved = dataclasses.replace(MANIFEST.splits["train"].shards[0], path="elsewhere/a")
    shards = (moved, MANIFEST.splits["train"].shards[1])
    same = dataclasses.replace(
        MANIFEST, splits={**MANIFEST.splits, "train": Split(shards, (1, 3))}, made_by={}
    )
    assert same.digest() == MANIFEST.digest()
    for other in (
        dataclasses.replace(MANIFEST, labels=("rose", "x")),
        dataclasses.replace(MANIFEST, splits={**MANIFEST.splits, "train": Split(shards[::-1], (1, 3))}),
    ):
        assert other.digest() != MANIFEST.digest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "not JSON"),
        ("[]", "format version"),
        ('{"format_version": 99}', "format version"),
        ('{"format_version": 1, "labels": []}', "is malformed"),
        ('{"format_version": 1, "labels": [], "made_by": {}, "splits": {"train": {}}}', "is malformed"),
    ],
)
def test_a_malformed_manifest_is_rejected_with_its_path(tmp_path, content, message):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InvalidDataError, match=message) as caught:
        read_manifest(tmp_path)
    assert str(tmp_path / "manifest.json") in str(caught.value)
    assert "convert" in str(caught.value)


def test_the_serialization_of_a_single_label_manifest_has_not_changed():
    split = Split((Shard("train-0", 3, 10, "ab"),), (2, 1))
    manifest = Manifest(("a", "b"), {"train": split}, {"rows": 3})
    digest = "8a660e4efcdeccb78a7cbefef25c5f8417588add5e876e38da38fc3458bee239"
    assert manifest.digest() == digest
    text = "aa4aba7cde984b8cdadbed8cb1d9f302434249a16344f2087e257f7c053dbd17"
    assert hashlib.sha256(serialize_manifest(manifest)).hexdigest() == text
    assert not parse_manifest(serialize_manifest(manifest), where="").multi_label


def test_a_multi_label_manifest_round_trips_and_has_another_digest():
    split = Split((Shard("train-0", 3, 10, "ab"),), (3, 3))
    single = Manifest(("a", "b"), {"train": split}, {})
    several = dataclasses.replace(single, multi_label=True)
    assert parse_manifest(serialize_manifest(several), where="") == several
    assert several.digest() != single.digest()
    assert several.splits["train"].examples == 3


def test_a_cached_data_set_whose_files_were_deleted_is_reported_with_the_input_that_converts_again(tmp_path):
    """KFP's launcher downloads nothing for a deleted artifact, and does not fail."""
    with pytest.raises(MissingInputError, match="cannot read the dataset manifest") as error:
        read_manifest(tmp_path / "deleted")
    assert "the convert step wrote" in error.value.remedy
    assert "set data_version to a new name" in error.value.remedy
