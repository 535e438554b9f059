from pathlib import Path

import pytest

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    OutputError,
)
from imgpipe.components.storage import cloud_storage
from imgpipe.components.storage.cloud_storage import (
    bucket_and_name,
    delete_object,
    download,
    list_objects,
    match_objects,
    move_object,
    names_below,
    object_at,
    read_object,
    upload,
    write_object,
)
from imgpipe.components.storage.files import local_copy, match_pattern, read_file

CONTENT = bytes(range(256)) * 400
DOWNLOAD = "/download/"


def first_times(count, fault, part=""):
    """A fault that the first ``count`` requests meet whose path has ``part``."""
    seen = []

    def fault_of(_, path):
        if part not in path or len(seen) >= count:
            return ""
        seen.append(path)
        return fault

    return fault_of


def test_objects_are_written_read_listed_moved_and_deleted(cloud, tmp_path):
    write_object("gs://photos/é/one two.jpg", CONTENT)
    assert read_object("gs://photos/é/one two.jpg") == read_file("gs://photos/é/one two.jpg") == CONTENT
    found = object_at("gs://photos/é/one two.jpg")
    assert (found.name, found.size) == ("é/one two.jpg", len(CONTENT))
    assert found.checksum == object_at("gs://photos/é/one two.jpg").checksum != 0
    assert object_at("gs://photos/nothing") is None
    download("gs://photos/é/one two.jpg", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    with local_copy("gs://photos/é/one two.jpg") as copy:
        assert copy.read_bytes() == CONTENT
    assert not copy.exists()
    upload(tmp_path / "copy", "gs://photos/b")
    move_object("gs://photos/b", "gs://photos/c/d")
    assert [found.name for found in list_objects("gs://photos/")] == ["c/d", "é/one two.jpg"]
    assert names_below("gs://photos/", 10) == ["c/", "é/"]
    delete_object("gs://photos/c/d")
    delete_object("gs://photos/c/d")
    assert cloud.contents() == {"é/one two.jpg": CONTENT}


def test_patterns_mean_in_a_bucket_what_they_mean_in_a_folder(cloud):
    for name in (
        "data/train-00000-of-00002",
        "data/train-00001-of-00002",
        "data/train-x",
        "data/.train-1",
        "data/a/b",
    ):
        cloud.put(name, b"x")
    assert [found.name for found in match_objects("gs://photos/data/train-0000[0-9]-of-0000?")] == [
        "data/train-00000-of-00002",
        "data/train-00001-of-00002",
    ]
    assert match_pattern("gs://photos/data/*") == [
        "gs://photos/data/train-00000-of-00002",
        "gs://photos/data/train-00001-of-00002",
        "gs://photos/data/train-x",
    ]
    assert match_pattern("gs://photos/data/train-x, gs://photos/*/a/?") == [
        "gs://photos/data/a/b",
        "gs://photos/data/train-x",
    ]
    with pytest.raises(MissingInputError) as caught:
        match_pattern("gs://photos/data/eval-*")
    assert "'gs://photos/data/' holds: .train-1, a/, train-00000-of-00002" in str(caught.value)


def test_a_listing_may_begin_and_end_at_a_name_and_leave_out_folders(cloud):
    for name in ("a", "b", "c", "d", "b/x"):
        cloud.put(name, b"x")
    found = list_objects("gs://photos/", first="b", last="c", within_folder=True)
    assert [one.name for one in found] == ["b", "c"]


@pytest.mark.parametrize("fault", ["503", "reset", "short"])
def test_what_can_pass_is_tried_again(cloud, fault, tmp_path):
    cloud.put("a", CONTENT)
    cloud.fault = first_times(3, fault)
    assert read_object("gs://photos/a") == CONTENT
    cloud.fault = first_times(3, fault)
    download("gs://photos/a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    for action in (
        lambda: object_at("gs://photos/a").size,
        lambda: [one.name for one in list_objects("gs://photos/a")],
        lambda: upload(tmp_path / "copy", "gs://photos/b"),
        lambda: write_object("gs://photos/c", CONTENT),
        lambda: move_object("gs://photos/c", "gs://photos/d"),
        lambda: delete_object("gs://photos/a"),
    ):
        cloud.fault = first_times(2, fault)
        action()
    assert cloud.contents() == {"b": CONTENT, "d": CONTENT}


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_storage_that_does_not_answer_is_an_error_that_a_retry_can_help(cloud, fault, monkeypatch):
    cloud.put("a", CONTENT)
    cloud.fault = lambda *_: fault
    monkeypatch.setattr(cloud_storage, "RETRY_SECONDS", 0.2)
    with pytest.raises(InterruptedRunError, match="gs://photos/a") as caught:
        read_object("gs://photos/a")
    assert "start it again" in str(caught.value)
    with pytest.raises(InterruptedRunError, match="cannot write"):
        write_object("gs://photos/b", b"x")
    # A connection that was reset may have brought the object all the same, and then the whole of it.
    assert {"b": b"x", **cloud.contents()} == {"a": CONTENT, "b": b"x"}


def test_a_copy_for_which_there_is_no_room_is_an_output_error(cloud):
    cloud.put("a", CONTENT)
    with pytest.raises(OutputError, match=r"gs://photos/a[\s\S]*No space left[\s\S]*TMPDIR"):
        download("gs://photos/a", Path("/dev/full"))


def test_what_is_not_there_is_named(cloud):
    for action in (read_object, lambda uri: list(list_objects(uri))):
        with pytest.raises(MissingInputError) as caught:
            action("gs://no-such-bucket/x")
        assert "no-such-bucket" in str(caught.value)
    with pytest.raises(MissingInputError, match="there is no object 'gs://photos/x'"):
        read_object("gs://photos/x")
    with pytest.raises(OutputError, match="no-such-bucket"):
        write_object("gs://no-such-bucket/x", b"x")
    with pytest.raises(InvalidArgumentError, match="names no bucket"):
        bucket_and_name("gs:///x")
