import os
import socket
from pathlib import Path

import pytest

from imgpipe.components.common.errors import (
    InterruptedRunError,
    InvalidArgumentError,
    MissingInputError,
    OutputError,
)
from imgpipe.components.storage import find_files, parse_location, remote_requests

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


@pytest.fixture(params=["cloud", "s3", "s3_of_moto"])
def bucket(request):
    return request.getfixturevalue(request.param)


def test_objects_are_written_read_listed_renamed_and_removed(bucket, tmp_path):
    folder = parse_location(f"{bucket.uri}/")
    photo = folder / "é" / "one two.jpg"
    photo.write(CONTENT)
    assert photo.read() == CONTENT
    assert photo.read_range(1, 4) == CONTENT[1:5]
    assert photo.status().size == len(CONTENT)
    assert photo.status() == photo.status()
    assert (folder / "nothing").status() is None
    photo.download(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    with photo.local_copy() as copy:
        assert copy.read_bytes() == CONTENT
    assert not copy.exists()
    (folder / "b").upload(tmp_path / "copy")
    (folder / "b").rename(folder / "c/d")
    assert folder.contents() == {"c/d": len(CONTENT), "é/one two.jpg": len(CONTENT)}
    assert folder.children() == ["c/", "é/"]
    assert folder.children(1) == ["c/"]
    (folder / "c/d").remove()
    (folder / "c/d").remove()
    assert bucket.contents() == {"é/one two.jpg": CONTENT}


def test_patterns_match_objects_as_they_match_files(bucket):
    for name in (
        "data/train-00000-of-00002",
        "data/train-00001-of-00002",
        "data/train-x",
        "data/.train-1",
        "data/a/b",
    ):
        bucket.put(name, b"x")

    def matches(pattern):
        return [str(file) for file in find_files(pattern)]

    assert matches(f"{bucket.uri}/data/train-0000[0-9]-of-0000?") == [
        f"{bucket.uri}/data/train-00000-of-00002",
        f"{bucket.uri}/data/train-00001-of-00002",
    ]
    assert matches(f"{bucket.uri}/data/*") == [
        f"{bucket.uri}/data/train-00000-of-00002",
        f"{bucket.uri}/data/train-00001-of-00002",
        f"{bucket.uri}/data/train-x",
    ]
    assert matches(f"{bucket.uri}/data/train-x, {bucket.uri}/*/a/?") == [
        f"{bucket.uri}/data/a/b",
        f"{bucket.uri}/data/train-x",
    ]
    with pytest.raises(MissingInputError) as caught:
        find_files(f"{bucket.uri}/data/eval-*")
    assert f"'{bucket.uri}/data/' contains: .train-1, a/, train-00000-of-00002" in str(caught.value)


def test_a_listing_can_begin_and_end_at_a_name_and_skip_folders_and_hidden_files(bucket):
    for name in ("a", "b", "bb/x", "c", "d", ".e", ".f/g"):
        bucket.put(name, b"x")
    folder = parse_location(bucket.uri)
    assert [name for name, _ in folder.list_files(first="b", last="c", recursive=False)] == ["b", "c"]
    assert [name for name, _ in folder.list_files(skip_hidden=True)] == ["a", "b", "bb/x", "c", "d"]


@pytest.mark.parametrize("fault", ["503", "reset", "short"])
def test_transient_faults_are_retried(bucket, fault, tmp_path):
    bucket.put("a", CONTENT)
    folder = parse_location(bucket.uri)
    bucket.fault = first_times(3, fault)
    assert (folder / "a").read() == CONTENT
    bucket.fault = first_times(3, fault)
    (folder / "a").download(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    for action in (
        lambda: (folder / "a").status().size,
        folder.contents,
        lambda: (folder / "b").upload(tmp_path / "copy"),
        lambda: (folder / "c").write(CONTENT),
        lambda: (folder / "c").rename(folder / "d"),
        lambda: (folder / "a").remove(),
    ):
        bucket.fault = first_times(2, fault)
        action()
    assert bucket.contents() == {"b": CONTENT, "d": CONTENT}


def test_a_large_object_is_read_in_parts_and_observed_in_order(bucket, tmp_path, parts):
    content = os.urandom(1_000_000)
    location = parse_location(bucket.put("large", content))
    (tmp_path / "copy").write_bytes(bytes(2_000_000))
    observed = []
    location.download(tmp_path / "copy", observed.append)
    assert (tmp_path / "copy").read_bytes() == content == b"".join(observed)
    assert sum(bucket.reads(*request) for request in bucket.requests) == 4


def test_only_the_part_that_failed_is_read_again(bucket, tmp_path, parts):
    content = os.urandom(1_000_000)
    location = parse_location(bucket.put("large", content))
    faults = ["503", "reset", "short"]
    bucket.fault = lambda *request: faults.pop() if bucket.reads(*request) and faults else ""
    location.download(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert sum(bucket.reads(*request) for request in bucket.requests) == 4 + 3


def test_an_object_that_is_replaced_while_it_is_copied_is_an_error(bucket, tmp_path, parts):
    location = parse_location(bucket.put("large", bytes(1_000_000)))
    requests = []

    def replace(*request):
        requests.append(bucket.reads(*request))
        if sum(requests) == 2 and requests[-1]:
            bucket.put("large", b"1" * 1_000_000)
        return ""

    bucket.fault = replace
    with pytest.raises(InterruptedRunError, match="was replaced while it was copied"):
        location.download(tmp_path / "copy")


def test_a_page_in_place_of_a_part_is_an_error_that_says_so(bucket, tmp_path, parts, monkeypatch):
    monkeypatch.setattr(remote_requests, "RETRY_SECONDS", 0.1)
    location = parse_location(bucket.put("large", bytes(1_000_000)))

    def page(handler):
        handler.send(200, b"<html>log in</html>", Content_Type="text/html")

    bucket.fault = lambda *request: page if bucket.reads(*request) else ""
    with pytest.raises(InterruptedRunError, match="the answer is not"):
        location.download(tmp_path / "copy")


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_storage_that_cannot_be_reached_is_an_error_that_a_retry_can_help(bucket, fault, monkeypatch):
    bucket.put("a", CONTENT)
    bucket.fault = lambda *_: fault
    monkeypatch.setattr(remote_requests, "RETRY_SECONDS", 0.2)
    with pytest.raises(InterruptedRunError, match=f"{bucket.uri}/a") as caught:
        parse_location(f"{bucket.uri}/a").read()
    assert "start it again" in str(caught.value)
    bucket.fault = lambda *_: "503"
    with pytest.raises(InterruptedRunError, match="cannot write"):
        parse_location(f"{bucket.uri}/b").write(b"x")
    assert bucket.contents() == {"a": CONTENT}


def test_a_copy_without_space_is_an_output_error(bucket):
    bucket.put("a", CONTENT)
    with pytest.raises(OutputError, match=rf"{bucket.uri}/a[\s\S]*No space left[\s\S]*TMPDIR"):
        parse_location(f"{bucket.uri}/a").download(Path("/dev/full"))


def test_a_missing_object_or_bucket_is_named(bucket):
    missing = parse_location(f"{bucket.scheme}://no-such-bucket/x")
    for action in (missing.read, missing.contents):
        with pytest.raises(MissingInputError, match="no-such-bucket"):
            action()
    with pytest.raises(MissingInputError, match=f"there is no object '{bucket.uri}/x'"):
        parse_location(f"{bucket.uri}/x").read()
    with pytest.raises(OutputError, match="no-such-bucket"):
        missing.write(b"x")
    with pytest.raises(InvalidArgumentError, match="has no bucket"):
        parse_location(f"{bucket.scheme}:///x")


def test_a_client_that_ends_within_a_request_does_not_stop_the_server(bucket):
    address = os.environ["STORAGE_EMULATOR_HOST" if bucket.scheme == "gs" else "AWS_ENDPOINT_URL"]
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"PUT /photos/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    assert parse_location(bucket.uri).children() == []
    assert bucket.requests[-1][0] == "GET"
