"""CSV files that people write are read, or refused with their line."""

import pytest

from imgpipe.components.common.csv_table import read_csv_table
from imgpipe.components.common.errors import InvalidDataError, MissingInputError


def read(path):
    return list(read_csv_table(path, "table.csv", lambda _: None))


def test_rows_come_with_their_line_and_without_empty_ones(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf path ,label\r\n\r\n1.jpg,a\r\n,\r\n2.jpg,\r\n")
    expected = [(3, {"path": "1.jpg", "label": "a"}), (5, {"path": "2.jpg", "label": ""})]
    assert read(tmp_path / "a") == expected


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"path,label\n1.jpg\n", "table.csv, line 2"),
        (b"path\n\xff\n", "table.csv"),
        (b'path\n"a\n', "table.csv"),
    ],
)
def test_what_is_not_such_a_table_is_refused(tmp_path, content, where):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InvalidDataError) as caught:
        read(tmp_path / "a")
    assert caught.value.where == where


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingInputError, match=r"table\.csv"):
        read(tmp_path / "missing")
