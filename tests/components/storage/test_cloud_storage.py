from pathlib import Path

import pytest

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    OutputError,
)
from imgpipe.components.storage import cloud_storage, find_files, parse_location

CONTENT = bytes(range(256)) * 400
DOWNLOAD = "/download/"


def first_times(count, fault, part=""):
    """Returns a fault for the first ``count`` requests with ``part`` in their path."""
    seen = []

    def fault_of(_, path):
        if part not in path or len(seen) >= count:
            return ""
        seen.append(path)
        return fault

    return fault_of


def test_objects_are_written_read_listed_renamed_and_removed(cloud, tmp_path):
    bucket = parse_location("gs://photos/")
    photo = bucket / "é" / "one two.jpg"
    photo.write(CONTENT)
    assert photo.read() == CONTENT
    assert photo.read_range(1, 4) == CONTENT[1:5]
    assert photo.status().size == len(CONTENT)
    assert photo.status().checksum == photo.status().checksum != 0
    assert (bucket / "nothing").status() is None
    photo.download(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    with photo.local_copy() as copy:
        assert copy.read_bytes() == CONTENT
    assert not copy.exists()
    (bucket / "b").upload(tmp_path / "copy")
    (bucket / "b").rename(bucket / "c/d")
    assert bucket.contents() == {"c/d": len(CONTENT), "é/one two.jpg": len(CONTENT)}
    assert bucket.children() == ["c/", "é/"]
    assert bucket.children(1) == ["c/"]
    (bucket / "c/d").remove()
    (bucket / "c/d").remove()
    assert cloud.contents() == {"é/one two.jpg": CONTENT}


def test_patterns_match_objects_as_they_match_files(cloud):
    for name in (
        "data/train-00000-of-00002",
        "data/train-00001-of-00002",
        "data/train-x",
        "data/.train-1",
        "data/a/b",
    ):
        cloud.put(name, b"x")

    def matches(pattern):
        return [str(file) for file in find_files(pattern)]

    assert matches("gs://photos/data/train-0000[0-9]-of-0000?") == [
        "gs://photos/data/train-00000-of-00002",
        "gs://photos/data/train-00001-of-00002",
    ]
    assert matches("gs://photos/data/*") == [
        "gs://photos/data/train-00000-of-00002",
        "gs://photos/data/train-00001-of-00002",
        "gs://photos/data/train-x",
    ]
    assert matches("gs://photos/data/train-x, gs://photos/*/a/?") == [
        "gs://photos/data/a/b",
        "gs://photos/data/train-x",
    ]
    with pytest.raises(MissingInputError) as caught:
        find_files("gs://photos/data/eval-*")
    assert "'gs://photos/data/' contains: .train-1, a/, train-00000-of-00002" in str(caught.value)


def test_a_listing_can_begin_and_end_at_a_name_and_skip_folders_and_hidden_files(cloud):
    for name in ("a", "b", "c", "d", "b/x", ".e", ".f/g"):
        cloud.put(name, b"x")
    bucket = parse_location("gs://photos")
    assert [name for name, _ in bucket.list_files(first="b", last="c", recursive=False)] == ["b", "c"]
    assert [name for name, _ in bucket.list_files(skip_hidden=True)] == ["a", "b", "b/x", "c", "d"]


@pytest.mark.parametrize("fault", ["503", "reset", "short"])
def test_transient_faults_are_retried(cloud, fault, tmp_path):
    cloud.put("a", CONTENT)
    bucket = parse_location("gs://photos")
    cloud.fault = first_times(3, fault)
    assert (bucket / "a").read() == CONTENT
    cloud.fault = first_times(3, fault)
    (bucket / "a").download(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    for action in (
        lambda: (bucket / "a").status().size,
        bucket.contents,
        lambda: (bucket / "b").upload(tmp_path / "copy"),
        lambda: (bucket / "c").write(CONTENT),
        lambda: (bucket / "c").rename(bucket / "d"),
        lambda: (bucket / "a").remove(),
    ):
        cloud.fault = first_times(2, fault)
        action()
    assert cloud.contents() == {"b": CONTENT, "d": CONTENT}


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_storage_that_cannot_be_reached_is_an_error_that_a_retry_can_help(cloud, fault, monkeypatch):
    cloud.put("a", CONTENT)
    cloud.fault = lambda *_: fault
    monkeypatch.setattr(cloud_storage, "RETRY_SECONDS", 0.2)
    with pytest.raises(InterruptedRunError, match="gs://photos/a") as caught:
        parse_location("gs://photos/a").read()
    assert "start it again" in str(caught.value)
    with pytest.raises(InterruptedRunError, match="cannot write"):
        parse_location("gs://photos/b").write(b"x")
    # A connection that was reset may have written the object, and then completely.
    assert {"b": b"x", **cloud.contents()} == {"a": CONTENT, "b": b"x"}


def test_a_copy_without_space_is_an_output_error(cloud):
    cloud.put("a", CONTENT)
    with pytest.raises(OutputError, match=r"gs://photos/a[\s\S]*No space left[\s\S]*TMPDIR"):
        parse_location("gs://photos/a").download(Path("/dev/full"))


def test_a_missing_object_or_bucket_is_named(cloud):
    missing = parse_location("gs://no-such-bucket/x")
    for action in (missing.read, missing.contents):
        with pytest.raises(MissingInputError, match="no-such-bucket"):
            action()
    with pytest.raises(MissingInputError, match="there is no object 'gs://photos/x'"):
        parse_location("gs://photos/x").read()
    with pytest.raises(OutputError, match="no-such-bucket"):
        missing.write(b"x")
    with pytest.raises(InvalidArgumentError, match="has no bucket"):
        parse_location("gs:///x")
