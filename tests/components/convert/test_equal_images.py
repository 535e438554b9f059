"""Which images count as equal, and what is read to compare them; the bucket is an emulated Cloud Storage."""

import google_crc32c
import numpy as np
import pytest

from imgpipe.components.convert.equal_images import group_equal_images
from imgpipe.components.convert.image_reader import ImageReader
from imgpipe.components.convert.row_table import RowTable
from imgpipe.components.storage import FileStatus, LocalLocation, parse_location

# Longer than the part at the end that is compared first.
MIDDLE = bytes(range(256)) * 8


class Images:
    """A table of local images and images in the bucket."""

    def __init__(self, folder, cloud):
        self.table = RowTable()
        self._folder, self._cloud = folder, cloud
        self._source = self.table.add_source("list.csv", parse_location(folder))

    def add_local(self, name, content):
        """Adds a local file, which has no known checksum."""
        (self._folder / name).write_bytes(content)
        self.table.append(self._source, 1, name, "a", "", status=FileStatus(len(content), 0))

    def add_remote(self, name, content, *, has_checksum=True):
        """Adds an object of the bucket; composite objects have no checksum."""
        path = self._cloud.put(name, content)
        checksum = int(google_crc32c.value(content)) if has_checksum else -1
        self.table.append(self._source, 1, path, "a", "", status=FileStatus(len(content), 0, checksum))

    def equal_sets(self):
        """Returns the sets of two or more rows with equal images."""
        groups = group_equal_images(self.table, np.arange(len(self.table)), 2, ImageReader(0)).tolist()
        sets = [
            {row for row, row_group in enumerate(groups) if row_group == group}
            for group in dict.fromkeys(groups)
        ]
        return [members for members in sets if len(members) > 1]


@pytest.fixture
def images(tmp_path, cloud):
    return Images(tmp_path, cloud)


@pytest.fixture
def reads(monkeypatch):
    """The names of the files of which the end or everything is read during a test."""
    made = {"ends": [], "whole": []}
    read_range, read = LocalLocation.read_range, LocalLocation.read

    def end(file, *arguments):
        made["ends"].append(file.name)
        return read_range(file, *arguments)

    def whole(file):
        made["whole"].append(file.name)
        return read(file)

    monkeypatch.setattr(LocalLocation, "read_range", end)
    monkeypatch.setattr(LocalLocation, "read", whole)
    return made


@pytest.mark.parametrize("has_checksum", [True, False])
def test_image_and_its_copy_in_a_bucket_are_equal(images, has_checksum):
    content, other = MIDDLE + b"one", MIDDLE + b"two"
    images.add_local("local.jpg", content)
    images.add_remote("copy.jpg", content, has_checksum=has_checksum)
    images.add_remote("other.jpg", other, has_checksum=has_checksum)
    images.add_local("local other.jpg", other)
    assert images.equal_sets() == [{0, 1}, {2, 3}]


def test_files_with_different_ends_are_not_read_completely(images, reads):
    for number in range(3):
        images.add_local(f"{number}.jpg", MIDDLE + bytes([number]))
    assert images.equal_sets() == []
    assert sorted(reads["ends"]) == ["0.jpg", "1.jpg", "2.jpg"]
    assert reads["whole"] == []


def test_file_with_a_unique_size_is_not_read(images, reads):
    images.add_local("short.jpg", MIDDLE)
    images.add_local("long.jpg", MIDDLE + b"end")
    assert images.equal_sets() == []
    assert reads == {"ends": [], "whole": []}


def test_files_with_equal_ends_are_compared_completely(images, reads):
    images.add_local("one.jpg", b"1" + MIDDLE)
    images.add_local("two.jpg", b"2" + MIDDLE)
    images.add_local("one again.jpg", b"1" + MIDDLE)
    assert images.equal_sets() == [{0, 2}]
    assert sorted(reads["whole"]) == ["one again.jpg", "one.jpg", "two.jpg"]


def test_ends_are_not_read_for_a_size_with_a_known_checksum(images, reads):
    content = MIDDLE + b"in the bucket"
    images.add_local("local.jpg", content)
    images.add_remote("copy.jpg", content)
    # Another size, without a known checksum.
    images.add_local("a.jpg", MIDDLE + b"a")
    images.add_local("b.jpg", MIDDLE + b"b")
    assert images.equal_sets() == [{0, 1}]
    assert sorted(reads["ends"]) == ["a.jpg", "b.jpg"]
    # Objects with a known checksum are not downloaded.
    assert reads["whole"] == ["local.jpg"]


def test_repeated_path_is_equal_without_being_read(images, reads):
    images.add_local("one.jpg", MIDDLE)
    images.add_local("other.jpg", MIDDLE + b"end")
    images.add_local("one.jpg", MIDDLE)
    assert images.equal_sets() == [{0, 2}]
    assert reads == {"ends": [], "whole": []}


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513])
def test_files_about_as_long_as_an_end_are_compared(images, size):
    content = MIDDLE[:size]
    for name in ("one.jpg", "two.jpg"):
        images.add_local(name, content)
    images.add_local("other.jpg", bytes([255]) * size)
    assert images.equal_sets() == [{0, 1} if size else {0, 1, 2}]


def test_deleted_files_are_not_equal_to_any_other(images, tmp_path):
    for name in ("one.jpg", "two.jpg", "gone.jpg", "gone too.jpg"):
        images.add_local(name, MIDDLE)
    (tmp_path / "gone.jpg").unlink()
    (tmp_path / "gone too.jpg").unlink()
    assert images.equal_sets() == [{0, 1}]


def test_only_the_selected_rows_are_compared(images):
    for name in ("one.jpg", "two.jpg", "three.jpg"):
        images.add_local(name, MIDDLE)
    groups = group_equal_images(images.table, np.array([2, 1]), 2, ImageReader(0))
    assert groups.tolist() == [groups[0], groups[0]]
    assert len(group_equal_images(RowTable(), np.zeros(0, np.int64), 2, ImageReader(0))) == 0
