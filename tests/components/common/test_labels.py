import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.labels import read_labels_file, sort_labels, write_labels_file

names = (
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=10)
    .map(str.strip)
    .filter(lambda name: name and not name.startswith("\ufeff"))
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(names, min_size=1, max_size=8, unique=True))
def test_any_names_round_trip(tmp_path, labels):
    write_labels_file(tmp_path / "labels.txt", labels)
    assert read_labels_file(tmp_path / "labels.txt") == tuple(labels)


@pytest.mark.parametrize(
    "content", [b"rose\ntulip\n", b"\xef\xbb\xbfrose\r\ntulip", b" rose \n\ttulip\n\n\n", b"rose\rtulip\r"]
)
def test_byte_order_marks_and_all_line_endings_are_accepted(tmp_path, content):
    (tmp_path / "labels.txt").write_bytes(content)
    assert read_labels_file(tmp_path / "labels.txt") == ("rose", "tulip")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["empty"]),
        (b"\n\n", ["empty"]),
        (b"rose\n\ntulip\n", ["blank line", "line 2"]),
        (b"rose\ntulip\nrose\n", ["'rose'", "twice", "line 1", "line 3"]),
        (b"ros\xe9\n", ["not UTF-8", "save it as UTF-8"]),
    ],
)
def test_an_invalid_file_is_rejected_with_the_line(tmp_path, content, parts):
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(InvalidDataError) as caught:
        read_labels_file(tmp_path / "labels.txt")
    for part in (*parts, "labels.txt"):
        assert part in str(caught.value)


def test_a_missing_file_is_missing_input(tmp_path):
    with pytest.raises(MissingInputError, match=r"nowhere\.txt"):
        read_labels_file(tmp_path / "nowhere.txt")


def test_labels_are_sorted_by_code_point_without_duplicates():
    assert sort_labels(["b", "é", "a", "B", "a"]) == ("B", "a", "b", "é")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_utf_16_file_is_detected(tmp_path, encoding):
    (tmp_path / "labels.txt").write_bytes("daisy\nroses\n".encode(encoding))
    with pytest.raises(InvalidDataError, match="is UTF-16"):
        read_labels_file(tmp_path / "labels.txt")


def test_a_very_long_label_is_rejected_with_its_line(tmp_path):
    (tmp_path / "labels.txt").write_text("daisy\n" + "x" * 501 + "\n")
    with pytest.raises(InvalidDataError, match=r"501 characters, more than 500[^$]*line 2"):
        read_labels_file(tmp_path / "labels.txt")
