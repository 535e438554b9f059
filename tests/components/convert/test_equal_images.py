"""Which images count as equal, and what is read to find out; the bucket is an emulated Cloud Storage."""

import google_crc32c
import numpy as np
import pytest

from imgpipe.components.convert.equal_images import group_equal_images
from imgpipe.components.convert.row_table import RowTable
from imgpipe.components.storage import FileStatus, LocalLocation, parse_location

# More than the stage of the ends looks at.
MIDDLE = bytes(range(256)) * 8


class Images:
    """Rows of images that lie here or in the bucket, as the steps that list them make them."""

    def __init__(self, folder, cloud):
        self.table = RowTable()
        self._folder, self._cloud = folder, cloud
        self._source = self.table.add_source("list.csv", parse_location(folder))

    def here(self, name, content):
        """Adds a local file, whose checksum nobody tells."""
        (self._folder / name).write_bytes(content)
        self.table.append(self._source, 1, name, "a", "", status=FileStatus(len(content), 0))

    def there(self, name, content, *, told=True):
        """Adds an object of the bucket, whose checksum the bucket tells unless it is composed of others."""
        path = self._cloud.put(name, content)
        checksum = int(google_crc32c.value(content)) if told else -1
        self.table.append(self._source, 1, path, "a", "", status=FileStatus(len(content), 0, checksum))

    def same(self):
        """Returns the sets of rows that share a group, each of more than one row."""
        groups = group_equal_images(self.table, np.arange(len(self.table)), 2).tolist()
        sets = [{row for row, of in enumerate(groups) if of == group} for group in dict.fromkeys(groups)]
        return [members for members in sets if len(members) > 1]


@pytest.fixture
def images(tmp_path, cloud):
    return Images(tmp_path, cloud)


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are read while a test runs: of their ends, and as a whole."""
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


@pytest.mark.parametrize("told", [True, False])
def test_an_image_and_its_copy_in_a_bucket_are_one(images, told):
    content, other = MIDDLE + b"one", MIDDLE + b"two"
    images.here("local.jpg", content)
    images.there("copy.jpg", content, told=told)
    images.there("other.jpg", other, told=told)
    images.here("local other.jpg", other)
    assert images.same() == [{0, 1}, {2, 3}]


def test_files_of_one_size_whose_ends_differ_are_not_read_whole(images, reads):
    for number in range(3):
        images.here(f"{number}.jpg", MIDDLE + bytes([number]))
    assert images.same() == []
    assert sorted(reads["ends"]) == ["0.jpg", "1.jpg", "2.jpg"]
    assert reads["whole"] == []


def test_a_file_whose_size_no_other_has_is_not_read_at_all(images, reads):
    images.here("short.jpg", MIDDLE)
    images.here("long.jpg", MIDDLE + b"end")
    assert images.same() == []
    assert reads == {"ends": [], "whole": []}


def test_files_with_equal_ends_are_told_apart_by_what_precedes(images, reads):
    images.here("one.jpg", b"1" + MIDDLE)
    images.here("two.jpg", b"2" + MIDDLE)
    images.here("one again.jpg", b"1" + MIDDLE)
    assert images.same() == [{0, 2}]
    assert sorted(reads["whole"]) == ["one again.jpg", "one.jpg", "two.jpg"]


def test_where_a_bucket_tells_a_checksum_of_a_size_no_end_of_that_size_is_read(images, reads):
    content = MIDDLE + b"in the bucket"
    images.here("local.jpg", content)
    images.there("copy.jpg", content)
    # Of another size, of which no checksum is told.
    images.here("a.jpg", MIDDLE + b"a")
    images.here("b.jpg", MIDDLE + b"b")
    assert images.same() == [{0, 1}]
    assert sorted(reads["ends"]) == ["a.jpg", "b.jpg"]
    # What the bucket told is not fetched.
    assert reads["whole"] == ["local.jpg"]


def test_one_place_in_many_rows_is_one_image_and_is_not_read(images, reads):
    images.here("one.jpg", MIDDLE)
    images.here("other.jpg", MIDDLE + b"end")
    images.here("one.jpg", MIDDLE)
    assert images.same() == [{0, 2}]
    assert reads == {"ends": [], "whole": []}


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513])
def test_files_about_as_long_as_an_end_are_compared_too(images, size):
    content = MIDDLE[:size]
    for name in ("one.jpg", "two.jpg"):
        images.here(name, content)
    images.here("other.jpg", bytes([255]) * size)
    assert images.same() == [{0, 1} if size else {0, 1, 2}]


def test_a_file_that_was_taken_away_meanwhile_is_equal_to_no_other(images, tmp_path):
    for name in ("one.jpg", "two.jpg", "gone.jpg", "gone too.jpg"):
        images.here(name, MIDDLE)
    (tmp_path / "gone.jpg").unlink()
    (tmp_path / "gone too.jpg").unlink()
    assert images.same() == [{0, 1}]


def test_only_the_rows_that_are_asked_for_are_compared(images):
    for name in ("one.jpg", "two.jpg", "three.jpg"):
        images.here(name, MIDDLE)
    groups = group_equal_images(images.table, np.array([2, 1]), 2)
    assert groups.tolist() == [groups[0], groups[0]]
    assert len(group_equal_images(RowTable(), np.zeros(0, np.int64), 2)) == 0
