import dataclasses
import hashlib
import json

import pytest

from imgpipe.components.common.dataset import (
    Manifest,
    Shard,
    Split,
    file_sha256,
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


def test_a_manifest_comes_back_and_is_always_the_same_bytes(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    first = (tmp_path / "manifest.json").read_bytes()
    assert read_manifest(tmp_path) == MANIFEST
    write_manifest(tmp_path, dataclasses.replace(MANIFEST, splits=dict(reversed(MANIFEST.splits.items()))))
    assert (tmp_path / "manifest.json").read_bytes() == first
    assert "日本".encode() in first
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_shards_lie_beside_the_manifest_or_where_they_say(tmp_path):
    paths = shard_paths(tmp_path, MANIFEST.splits["train"])
    assert [str(path) for path in paths] == [str(tmp_path / "a"), "/b"]
    assert MANIFEST.splits["train"].examples == 4
    assert MANIFEST.num_classes == 2


def test_the_digest_follows_the_images_and_not_their_place():
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
    ("content", "said"),
    [
        ("not json", "not JSON"),
        ("[]", "format version"),
        ('{"format_version": 99}', "format version"),
        ('{"format_version": 1, "labels": []}', "lacks a part"),
        ('{"format_version": 1, "labels": [], "made_by": {}, "splits": {"train": {}}}', "lacks a part"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_path(tmp_path, content, said):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InvalidDataError, match=said) as caught:
        read_manifest(tmp_path)
    assert str(tmp_path / "manifest.json") in str(caught.value)
    assert "convert" in str(caught.value)


def test_a_missing_manifest_is_missing_input(tmp_path):
    with pytest.raises(MissingInputError, match="convert step"):
        read_manifest(tmp_path)


def test_file_sha256_is_of_the_whole_file(tmp_path):
    (tmp_path / "x").write_bytes(b"x" * 1_000_000)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"x" * 1_000_000).hexdigest()
    json.dumps(dataclasses.asdict(MANIFEST))


def test_a_manifest_of_single_labels_has_the_bytes_that_it_always_had():
    split = Split((Shard("train-0", 3, 10, "ab"),), (2, 1))
    manifest = Manifest(("a", "b"), {"train": split}, {"rows": 3})
    digest = "8a660e4efcdeccb78a7cbefef25c5f8417588add5e876e38da38fc3458bee239"
    assert manifest.digest() == digest
    text = "aa4aba7cde984b8cdadbed8cb1d9f302434249a16344f2087e257f7c053dbd17"
    assert hashlib.sha256(serialize_manifest(manifest)).hexdigest() == text
    assert not parse_manifest(serialize_manifest(manifest), where="").multi_label


def test_a_multi_label_manifest_comes_back_as_one_and_has_another_digest():
    split = Split((Shard("train-0", 3, 10, "ab"),), (3, 3))
    single = Manifest(("a", "b"), {"train": split}, {})
    several = dataclasses.replace(single, multi_label=True)
    assert parse_manifest(serialize_manifest(several), where="") == several
    assert several.digest() != single.digest()
    assert several.splits["train"].examples == 3
