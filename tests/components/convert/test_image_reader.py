"""Images of a bucket are kept for the next reading, as far as the disk allows."""

import os

import pytest

from imgpipe.components.convert.image_reader import ImageReader
from imgpipe.components.storage import parse_location

CONTENT = bytes(range(250)) * 4


@pytest.fixture
def image(bucket):
    """An image in a bucket."""
    return parse_location(bucket.put("a/photo.jpg", CONTENT))


def reads(bucket):
    return sum(bucket.reads(method, path) for method, path in bucket.requests)


def test_an_image_that_is_read_again_is_downloaded_once(image, bucket):
    with ImageReader() as images:
        assert images.read_end(image, len(CONTENT), 512) == CONTENT[-512:]
        assert [images.read(image, again=True), images.read(image)] == [CONTENT] * 2
    assert reads(bucket) == 1


def test_beyond_the_limit_images_are_downloaded_again(image, bucket):
    with ImageReader(len(CONTENT) - 1) as images:
        assert images.read_end(image, len(CONTENT), 512) == CONTENT[-512:]
        assert [images.read(image, again=True), images.read(image)] == [CONTENT] * 2
    assert reads(bucket) == 3


def test_on_a_full_disk_images_are_downloaded_again(image, bucket, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    with ImageReader() as images:
        assert [images.read(image, again=True), images.read(image)] == [CONTENT] * 2
    assert reads(bucket) == 2


def test_local_images_are_not_kept(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(CONTENT)
    location = parse_location(str(tmp_path / "photo.jpg"))
    with ImageReader() as images:
        assert images.read(location, again=True) == CONTENT
        (tmp_path / "photo.jpg").write_bytes(b"changed")
        assert images.read(location) == b"changed"
        assert images.read_end(location, 7, 3) == b"ged"
