"""Labels and paths that look alike are one, or an error that names the difference."""

import pytest

from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import parse_event
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert

NFC, NFD = "gr\u00fcn", "gru\u0308n"


@pytest.fixture
def listed(tmp_path, photo):
    """Writes a list of images with these labels in turn, eight images for each label."""

    def write(*labels):
        lines = [
            f"{photo(tmp_path / f'{number}.jpg', number).name},{labels[number % len(labels)]}\n"
            for number in range(8 * len(labels))
        ]
        (tmp_path / "list.csv").write_text("".join(lines), encoding="utf-8")
        return str(tmp_path / "list.csv")

    return write


def error(arguments, folder):
    with pytest.raises(InvalidDataError) as caught:
        convert(arguments, folder)
    return str(caught.value)


def warnings(output):
    events = [parse_event(line) for line in output.splitlines()]
    return {event["event"]: event["message"] for event in events if event["severity"] == "WARNING"}


def test_composed_and_decomposed_labels_are_one_class(tmp_path, listed, photo):
    manifest = convert(ConvertArguments(train_csv=listed(NFC, NFD, "b")), tmp_path / "csv")
    assert manifest.labels == ("b", NFC)
    several = listed(f"{NFC},b", f"b,{NFD}")
    manifest = convert(ConvertArguments(train_csv=several, multi_label=True), tmp_path / "several")
    assert manifest.labels == ("b", NFC)
    for number, name in enumerate((f"train/{NFC}", f"val/{NFD}", "train/b", "val/b")):
        photo(tmp_path / "images" / name / "1.jpg", number)
    manifest = convert(ConvertArguments(images=str(tmp_path / "images")), tmp_path / "folder")
    assert manifest.labels == ("b", NFC)
    assert manifest.splits["train"].images_per_label == manifest.splits["validation"].images_per_label


def test_labels_file_may_be_decomposed(tmp_path, listed):
    labels = tmp_path / "labels.txt"
    labels.write_text(f"{NFD}\nb\n", encoding="utf-8")
    arguments = ConvertArguments(train_csv=listed(NFC, "b"), labels_file=str(labels))
    assert convert(arguments, tmp_path / "out").labels == (NFC, "b")
    labels.write_text(f"{NFD}\nb\n{NFC}\n", encoding="utf-8")
    assert "line 3" in (text := error(arguments, tmp_path / "two"))
    assert "NFD" in text


def test_path_may_be_decomposed(tmp_path, photo, csv_of):
    rows = [(photo(tmp_path / f"{number}{NFC}.jpg", number).name, "ab"[number % 2]) for number in range(8)]
    written = csv_of(tmp_path / "list.csv", [(path.replace(NFC, NFD), label) for path, label in rows])
    assert convert(ConvertArguments(train_csv=written), tmp_path / "out").made_by["written"] == 8


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("IMG 1.JPG", "there is 'img 1.jpg', which differs in upper and lower case"),
        ("img\u00a01.jpg", "there is 'img 1.jpg', but character 4 is U+00A0 NO-BREAK SPACE in the first"),
        ("img\u200b 1.jpg", "the path contains an invisible character, U+200B ZERO WIDTH SPACE"),
    ],
)
def test_missing_file_is_compared_with_the_files_there(tmp_path, photo, csv_of, written, hint):
    photo(tmp_path / "img 1.jpg")
    photo(tmp_path / "b.jpg", 1)
    written = csv_of(tmp_path / "list.csv", [(written, "a"), ("b.jpg", "b")])
    assert hint in error(ConvertArguments(train_csv=written), tmp_path / "out")


def test_labels_that_look_alike_are_an_error(tmp_path, listed):
    text = error(ConvertArguments(train_csv=listed("rose red", "rose\u00a0red")), tmp_path / "out")
    assert r"'rose red' and 'rose\xa0red' look alike" in text
    assert "U+00A0 NO-BREAK SPACE" in text


def test_difference_from_the_labels_file_is_named(tmp_path, listed):
    (tmp_path / "labels.txt").write_text("rose red\nb\n")
    arguments = ConvertArguments(
        train_csv=listed("rose\u00a0red", "b"), labels_file=str(tmp_path / "labels.txt")
    )
    assert "it looks like 'rose red', but character 5 is U+00A0 NO-BREAK SPACE" in error(
        arguments, tmp_path / "out"
    )


@pytest.mark.parametrize("label", ["ro\u200bse", "rose\x1b[31m", "\u202erose"])
def test_invisible_characters_in_labels_are_an_error(tmp_path, listed, photo, label):
    for arguments in (
        ConvertArguments(train_csv=listed(label, "b")),
        ConvertArguments(images=str(photo(tmp_path / "images" / label / "1.jpg").parents[1])),
    ):
        text = error(arguments, tmp_path / "out")
        assert "contains an invisible character, U+" in text
        assert label not in text


def test_labels_that_differ_in_case_are_a_warning(tmp_path, listed, capsys):
    assert convert(ConvertArguments(train_csv=listed("Rose", "rose")), tmp_path / "out").num_classes == 2
    assert (
        "'Rose' and 'rose' differ only in upper and lower case"
        in (warnings(capsys.readouterr().out)["labels_differ_in_case"])
    )


@pytest.mark.parametrize(
    "content", ["0 blue\n1 red\n", "1:blue\n2:red\n", "0\tblue\n1\tred\n", "1. blue\n2. red"]
)
def test_numbers_in_the_labels_file_are_one_error(tmp_path, listed, content):
    (tmp_path / "labels.txt").write_text(content)
    arguments = ConvertArguments(train_csv=listed("blue", "red"), labels_file=str(tmp_path / "labels.txt"))
    text = error(arguments, tmp_path / "out")
    assert "the lines of the labels file begin with numbers" in text
    assert "remove the numbers, e.g. write 'blue'" in text


def test_labels_may_begin_with_numbers(tmp_path, listed):
    (tmp_path / "labels.txt").write_text("1 euro\n2 euro\n")
    arguments = ConvertArguments(
        train_csv=listed("1 euro", "2 euro"), labels_file=str(tmp_path / "labels.txt")
    )
    assert convert(arguments, tmp_path / "out").labels == ("1 euro", "2 euro")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("item {\n id: 1\n name: 'blue'\n}\nitem {\n id: 2\n name: 'red'\n}\n", "a label map"),
        ('{"0": "blue", "1": "red"}', "is JSON"),
        ('["blue", "red"]', "is JSON"),
    ],
)
def test_labels_file_of_another_format_is_named(tmp_path, listed, content, problem):
    (tmp_path / "labels.txt").write_text(content)
    arguments = ConvertArguments(train_csv=listed("blue", "red"), labels_file=str(tmp_path / "labels.txt"))
    assert problem in error(arguments, tmp_path / "out")


def test_labels_that_are_one_number_or_no_value_are_a_warning(tmp_path, listed, capsys):
    manifest = convert(ConvertArguments(train_csv=listed("1", "1.0", "01", "2", "NaN")), tmp_path / "out")
    assert manifest.labels == ("01", "1", "1.0", "2", "NaN")
    found = warnings(capsys.readouterr().out)
    assert "'01', '1', '1.0' are the same number" in found["labels_same_number"]
    assert "'NaN'" in found["labels_missing"]
    convert(ConvertArguments(train_csv=listed("1", "2", "none")), tmp_path / "again")
    assert not {"labels_same_number", "labels_missing"} & warnings(capsys.readouterr().out).keys()


@pytest.mark.parametrize("labels", [("a", "b", "a|b"), ("\"['a', 'b']\"", "\"['b']\"", "c")])
def test_labels_that_look_like_several_are_a_warning(tmp_path, listed, capsys, labels):
    convert(ConvertArguments(train_csv=listed(*labels)), tmp_path / "out")
    assert "multi_label=true" in warnings(capsys.readouterr().out)["labels_combined"]
    convert(ConvertArguments(train_csv=listed('"roses, red"', "tulips")), tmp_path / "again")
    assert "labels_combined" not in warnings(capsys.readouterr().out)
