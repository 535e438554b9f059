"""The version changes exactly when the data changes."""

import os

import pytest

from imgpipe.components.common.dataset import Manifest, Shard, Split, write_manifest
from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.data_version.arguments import DataVersionArguments
from imgpipe.components.data_version.data_version import compute_data_version
from imgpipe.components.storage import parse_location


@pytest.fixture
def photos(tmp_path):
    for label in ("daisy", "tulips"):
        (tmp_path / label).mkdir()
        for number in range(3):
            (tmp_path / label / f"{number}.jpg").write_bytes(b"photo" * number)
    return tmp_path


def version(**arguments):
    return compute_data_version(DataVersionArguments(**arguments))


def test_data_version_of_the_user_is_used(photos):
    assert version(data_version="2026-w47", images=str(photos)) == "2026-w47"


def test_same_files_have_the_same_version(photos):
    assert version(images=str(photos)) == version(images=str(photos))


@pytest.mark.parametrize("change", ["content", "name", "added", "removed", "time"])
def test_changed_files_have_another_version(photos, change):
    before = version(images=str(photos))
    photo = photos / "daisy" / "1.jpg"
    if change == "content":
        photo.write_bytes(b"another")
    elif change == "name":
        photo.rename(photos / "tulips" / "4.jpg")
    elif change == "added":
        (photos / "tulips" / "5.jpg").write_bytes(b"")
    elif change == "removed":
        photo.unlink()
    else:
        os.utime(photo, (1, 1))
    assert version(images=str(photos)) != before


def test_tfrecord_patterns_have_a_version(tmp_path):
    for name in ("train-00000-of-00001", "validation-00000-of-00001", "test-00000-of-00001"):
        (tmp_path / name).write_bytes(b"records")
    given = {
        "training_data_path": str(tmp_path / "train-*"),
        "validation_data_path": str(tmp_path / "validation-*"),
        "test_data_path": str(tmp_path / "test-*"),
    }
    versions = [version(**given)]
    assert versions[0].startswith("sha256-")
    for name in ("validation", "test"):
        (tmp_path / f"{name}-00000-of-00001").write_bytes(b"other")
        versions.append(version(**given))
    assert len(set(versions)) == 3


def test_lists_and_output_dir_give_a_unique_version(photos):
    assert version() != version()
    assert version(images=str(photos), output_dir="gs://b/o") != version(
        images=str(photos), output_dir="gs://b/o"
    )


def test_a_cached_data_set_whose_files_were_deleted_is_converted_again(tmp_path, photos):
    output = tmp_path / "output"
    given = {"data_version": "monday", "images": str(photos), "output_dir": str(output)}
    assert version(**given) != version(**given)
    output.mkdir()
    shard = Shard("train-00000-of-00001", 1, 7, "0" * 64)
    write_manifest(output, Manifest(("daisy",), {"train": Split((shard,), (1,))}, {}))
    assert version(**given).startswith("monday-")
    (output / shard.path).write_bytes(b"records")
    assert version(**given) == "monday"
    (output / shard.path).unlink()
    assert version(**given) != "monday"


def test_pattern_without_files_is_an_error(tmp_path):
    with pytest.raises(MissingInputError, match="matches no file"):
        version(
            training_data_path=str(tmp_path / "train-*"), validation_data_path=str(tmp_path / "validation-*")
        )


def test_version_of_objects_depends_on_their_checksums(cloud):
    for number in range(2):
        parse_location(f"gs://photos/daisy/{number}.jpg").write(b"photo %d" % number)
    before = version(images="gs://photos")
    assert version(images="gs://photos/") == before
    # Uploading the same file again does not change the data.
    parse_location("gs://photos/daisy/1.jpg").write(b"photo 1")
    assert version(images="gs://photos") == before
    parse_location("gs://photos/daisy/1.jpg").write(b"another")
    assert version(images="gs://photos") != before
    assert version(images="gs://photos/*/*.jpg").startswith("sha256-")
