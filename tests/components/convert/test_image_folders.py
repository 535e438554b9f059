"""No image of a label is silently ignored."""

import shutil

import pytest

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import parse_event
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert


@pytest.fixture
def folder(photo, tmp_path):
    for label in ("roses", "tulips"):
        for number in range(6):
            photo(tmp_path / "images" / label / f"{number}.jpg", number)
    return tmp_path / "images"


def convert_folder(folder, output):
    return convert(ConvertArguments(images=str(folder)), output)


def test_image_of_an_unsupported_format_is_rejected_by_name(folder, tmp_path):
    (folder / "roses" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(InvalidDataError) as caught:
        convert_folder(folder, tmp_path / "out")
    assert "roses/phone.HEIC" in str(caught.value)


def test_all_jpeg_file_extensions_are_read(folder, tmp_path):
    shutil.move(folder / "roses" / "0.jpg", folder / "roses" / "0.jfif")
    shutil.move(folder / "roses" / "1.jpg", folder / "roses" / "1.JPE")
    assert convert_folder(folder, tmp_path / "out").made_by["written"] == 12


@pytest.mark.parametrize("content", ["empty", "text file"])
def test_label_folder_without_an_image_is_an_error(folder, tmp_path, content):
    (folder / "lilies").mkdir()
    if content == "text file":
        (folder / "lilies" / "notes.txt").write_text("bought on Monday")
    with pytest.raises(InvalidDataError, match="1 of 3 label folders: lilies"):
        convert_folder(folder, tmp_path / "out")


def test_label_may_have_images_in_only_one_split(photo, tmp_path):
    for number, name in enumerate(("train/a", "train/b", "val/a")):
        photo(tmp_path / "images" / name / "1.jpg", number)
    (tmp_path / "images" / "val" / "b").mkdir()
    assert convert_folder(tmp_path / "images", tmp_path / "out").labels == ("a", "b")


def test_other_files_are_counted_in_a_warning(folder, tmp_path, capsys):
    (folder / "roses" / "notes.txt").write_text("")
    convert_folder(folder, tmp_path / "out")
    events = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    (ignored,) = [event for event in events if event and event["event"] == "convert_ignored"]
    assert (ignored["severity"], ignored["files"]) == ("WARNING", 1)


def test_file_in_both_splits_is_rejected(folder, tmp_path):
    convert_folder(folder, tmp_path / "out")
    with pytest.raises(InvalidDataError, match="is in the train files and in the validation files"):
        convert(
            ConvertArguments(
                training_data_path=f"{tmp_path}/out/*-of-*",
                validation_data_path=f"{tmp_path}/out/validation-*",
            ),
            tmp_path / "again",
        )
