import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgpipe.components.common.errors import (
    InvalidArgumentError,
    InvalidDataError,
    MissingInputError,
    PipelineError,
)
from imgpipe.components.common.tfrecord import frame_record
from imgpipe.components.convert.image_folders import read_images
from imgpipe.components.convert.import_files import read_import_file
from imgpipe.components.convert.rows import Rows
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_BYTES


def read_csv(file, known_labels=(), use=""):
    rows = Rows(known_labels)
    read_import_file(rows, file, use)
    return rows


def read_folder(folder, known_labels=()):
    rows = Rows(known_labels)
    return rows, read_images(rows, folder)


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 3)


def test_quotes_commas_accents_and_relative_paths(tmp_path, csv_of):
    touch(tmp_path, "a.jpg", "sub/b,1.jpg", 'c"d.jpg', "é/日本.jpg")
    rows = read_csv(
        csv_of(
            tmp_path / "list.csv",
            [
                ("a.jpg", " daisy "),
                '"sub/b,1.jpg","red, white"',
                '"c""d.jpg","so called ""rose"""',
                ("é/日本.jpg", "Größe"),
                (tmp_path / "a.jpg", "absolute"),
            ],
        ),
        (),
    )
    assert rows.rejected == []
    assert [(row.path, row.label, row.line, row.bytes) for row in rows.accepted] == [
        ("a.jpg", "daisy", 1, 3),
        ("sub/b,1.jpg", "red, white", 2, 3),
        ('c"d.jpg', 'so called "rose"', 3, 3),
        ("é/日本.jpg", "Größe", 4, 3),
        (f"{tmp_path}/a.jpg", "absolute", 5, 3),
    ]
    assert all(os.path.isfile(str(row.location)) for row in rows.accepted)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa.jpg,x\na.jpg,y\n",
        b"a.jpg,x\r\n\r\na.jpg,y",
        b"\n  \na.jpg,x\ra.jpg,y\r",
        b'"a.jpg",x\na.jpg,y',
    ],
    ids=["byte order mark", "Windows", "old Mac", "quoted"],
)
def test_files_of_all_editors_are_read(tmp_path, content):
    touch(tmp_path, "a.jpg")
    (tmp_path / "list.csv").write_bytes(content)
    rows = read_csv(str(tmp_path / "list.csv"), ())
    assert [(row.path, row.label) for row in rows.accepted] == [("a.jpg", "x"), ("a.jpg", "y")]
    assert rows.rejected == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.jpg", "1 column instead of 2"),
        ("a.jpg,x,y", "3 columns instead of 2"),
        (",x", "the path is empty"),
        ("a.jpg, ", "the label is empty"),
        ('"a.jpg,x', "the quotes do not match"),
        ('"a.jpg"b,x', "the quotes do not match"),
        ("az://bucket/a.jpg,x", "az:// is not supported; local paths, gs:// and s3:// are"),
        ("training,gs://bucket/a.jpg", "the label is missing"),
        ("gs://,x", "has no bucket"),
        ("gs:///a.jpg,x", "has no bucket"),
        ("gs://bucket,x", "names no file"),
        ("test,a.jpg,x,y", "exactly one label"),
        ("missing.jpg,x", "no such file"),
        ("folder,x", "not a regular file"),
        ("a\0.jpg,x", "null"),
        ("n" * 5000 + ",x", "name too long"),
        ("n" * 2_000_000 + ",x", "the line has 2,000,003 characters"),
        ("a.jpg/b.jpg,x", "Not a directory"),
        ("a.jpg;x", "separated by commas, not semicolons"),
        ("a.jpg\tx", "separated by commas, not tabs"),
        (r"folder\c.jpg,x", "not with a backslash"),
        ("a.jpg," + "x" * 501, "the label has 501 characters, more than 500"),
    ],
)
def test_only_the_invalid_row_is_rejected_with_line_and_reason(tmp_path, csv_of, line, reason):
    touch(tmp_path, "a.jpg", "folder/b.jpg")
    csv = csv_of(tmp_path / "list.csv", [line, "", ("a.jpg", "x")])
    rows = read_csv(csv, ())
    assert [row.line for row in rows.accepted] == [3]
    (rejected,) = rows.rejected
    assert (rejected.file, rejected.line) == (csv, 1)
    assert reason.lower() in rejected.reason.lower()
    path = rejected.path.removesuffix("...")
    assert path in line or path in line.replace('"', "")


def test_label_like_a_header_does_not_replace_another_rejection(tmp_path, csv_of):
    touch(tmp_path, "a.jpg")
    rows = Rows(())
    for name, line in (("train.csv", ("missing.jpg", "cat")), ("validation.csv", ("a.jpg", "class"))):
        read_import_file(rows, csv_of(tmp_path / name, [line]), "")
    (rejected,) = rows.rejected
    assert rejected.path == "missing.jpg"
    assert len(rows.accepted) == 1


def test_empty_path_is_reported_with_multi_label(tmp_path, csv_of):
    rows = Rows((), multi_label=True)
    read_import_file(rows, csv_of(tmp_path / "list.csv", [("", "cat")]), "", multi_label=True)
    assert rows.rejected[0].reason == "the path is empty"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (frame_record(b"a record"), r"a TFRecord file[\s\S]*training_data_path"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", r"a JPEG image[\s\S]*path,label"),
    ],
)
def test_file_of_another_format_is_one_error(tmp_path, content, message):
    (tmp_path / "list.csv").write_bytes(content * 50)
    with pytest.raises(InvalidDataError, match=message):
        read_csv(str(tmp_path / "list.csv"))


def test_ignored_files_are_named(tmp_path):
    touch(tmp_path, "daisy/1.jpg", "daisy/noext", "stray.jpg")
    _, ignored = read_folder(str(tmp_path))
    assert ignored.files == 2
    assert set(ignored.examples) == {"daisy/noext", "stray.jpg"}


def test_pattern_that_matches_only_folders_lists_their_content(tmp_path):
    touch(tmp_path, "daisy/1.jpg", "roses/2.jpg")
    with pytest.raises(MissingInputError, match=r"2 folders match[\s\S]*daisy' contains: 1.jpg"):
        read_folder(f"{tmp_path}/*/*.png")
    with pytest.raises(MissingInputError, match="matches 2 folders, but no file") as caught:
        read_folder(f"{tmp_path}/*")
    assert f"write '{tmp_path}/*/*'" in caught.value.remedy


def test_huge_file_is_rejected_without_reading_it(tmp_path, csv_of):
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(DEFAULT_MAX_IMAGE_BYTES + 1)
    rows = read_csv(csv_of(tmp_path / "list.csv", [("huge.jpg", "x")]), ())
    assert "more than" in rows.rejected[0].reason


def test_unknown_labels_are_rejected_with_a_suggestion(tmp_path, csv_of):
    touch(tmp_path, "a.jpg")
    csv = csv_of(tmp_path / "list.csv", [("a.jpg", label) for label in ("daisy", "dasiy", "dasiy", "qqq")])
    rows = read_csv(csv, ("daisy", "rose"))
    assert [row.line for row in rows.accepted] == [1]
    assert [(row.line, row.label) for row in rows.rejected] == [(2, "dasiy"), (3, "dasiy"), (4, "qqq")]
    assert rows.rejected[1].reason == "the label 'dasiy' is not in the labels file; did you mean 'daisy'?"
    assert rows.rejected[2].reason == "the label 'qqq' is not in the labels file"


@pytest.mark.parametrize(
    ("content", "error", "expected"),
    [
        (None, MissingInputError, ["cannot read", "list.csv", "No such file"]),
        (b"", InvalidDataError, ["no rows", "list.csv", "path,label"]),
        (b"\n \n", InvalidDataError, ["no rows"]),
        ("a.jpg,x\n".encode("utf-16-le"), InvalidDataError, ["is UTF-16", "save the file as UTF-8"]),
        ("a.jpg,x\n".encode("utf-16"), InvalidDataError, ["is UTF-16", "list.csv", "save the file as UTF-8"]),
    ],
)
def test_unreadable_csv_file_is_rejected(tmp_path, content, error, expected):
    if content is not None:
        (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(error) as caught:
        read_csv(str(tmp_path / "list.csv"), ())
    for part in expected:
        assert part in str(caught.value)


def test_only_the_line_that_is_not_utf8_is_rejected(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "list.csv").write_bytes(b"a.jpg,x\ncaf\xe9.jpg,x\na.jpg,y\n")
    rows = read_csv(str(tmp_path / "list.csv"))
    assert [row.label for row in rows.accepted] == ["x", "y"]
    (rejected,) = rows.rejected
    assert (rejected.line, rejected.path) == (2, "caf\\xe9.jpg,x")
    assert "not UTF-8" in rejected.reason


def test_unsupported_url_is_rejected():
    with pytest.raises(InvalidArgumentError, match="az://"):
        read_csv("az://bucket/list.csv")


def test_vertex_ai_rows_specify_their_split(tmp_path, csv_of):
    touch(tmp_path, "a.jpg", "test")
    lines = [
        "training,a.jpg,x",
        "VALIDATION,a.jpg,x",
        "test,a.jpg,x",
        "unassigned,a.jpg,x",
        ",a.jpg,x",
        "test,x",
    ]
    rows = read_csv(csv_of(tmp_path / "list.csv", lines))
    assert [row.use for row in rows.accepted] == ["train", "validation", "test", "", "", ""]
    assert rows.accepted[5].path == "test"
    rows = read_csv(csv_of(tmp_path / "list.csv", lines), use="validation")
    assert [row.use for row in rows.accepted] == ["validation"] * 4
    assert [(row.line, row.reason.split(",")[0]) for row in rows.rejected] == [
        (1, "the row is for train"),
        (3, "the row is for test"),
    ]


def vertex_line(path, label, use=None):
    line = {"imageGcsUri": path, "classificationAnnotation": {"displayName": label}}
    if use is not None:
        line["dataItemResourceLabels"] = {"aiplatform.googleapis.com/ml_use": use}
    return json.dumps(line)


def test_vertex_ai_json_lines_are_read(tmp_path):
    touch(tmp_path, "é.jpg")
    several = {
        "imageGcsUri": "é.jpg",
        "classificationAnnotations": [{"displayName": "x"}, {"displayName": "y"}],
    }
    lines = [
        vertex_line("é.jpg", " Größe "),
        vertex_line("gs://bucket/a.jpg", "x", "test"),
        "",
        json.dumps(several),
        vertex_line("é.jpg", "x", "sometimes"),
        vertex_line("é.jpg", 7),
        vertex_line("\ud800.jpg", "x"),
        '{"imageGcsUri": 3}',
        "[1]",
        "not JSON",
        "[" * 100_000,
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = read_csv(str(tmp_path / "list.jsonl"))
    assert [(row.line, row.path, row.label, row.use) for row in rows.accepted] == [
        (1, "é.jpg", "Größe", ""),
        (2, "gs://bucket/a.jpg", "x", "test"),
    ]
    expected = ["2 annotations", "'sometimes'", "displayName", "unpaired surrogate", "imageGcsUri is missing"]
    expected += ["not a JSON object", "not JSON", "not JSON"]
    assert [row.line for row in rows.rejected] == list(range(4, 12))
    assert len(rows) == 10
    for row, part in zip(rows.rejected, expected, strict=True):
        assert part in row.reason


cells = st.one_of(
    st.sampled_from(
        [
            *("a.jpg", "x", '"a.jpg"', ",", '"', "\n", "\r\n", "gs://b/a.jpg", "..", "/", "~", "\0", "label"),
            *("training,", "test,", "\ufeff", "a.jpg,x\n", vertex_line("a.jpg", "x"), "\udce9", "{"),
            "x" * 1_000_100,
        ]
    ),
    st.text(st.characters(codec="utf-8"), max_size=5),
)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.lists(cells, max_size=20).map("".join).map(lambda text: text.encode("utf-8", "surrogateescape")),
        st.binary(max_size=30),
    ),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    known_labels=st.sampled_from([(), ("x", "y")]),
    use=st.sampled_from(["", "train"]),
)
def test_any_content_gives_rows_or_a_pipeline_error(tmp_path, suffix, content, mark, known_labels, use):
    touch(tmp_path, "a.jpg")
    path = tmp_path / f"list.{suffix}"
    path.write_bytes(mark + content)
    try:
        rows = read_csv(str(path), known_labels, use)
    except PipelineError:
        return
    text = (mark + content).decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    lines = [line for line in text.split("\n") if line.strip()]
    assert len(rows) == len(rows.accepted) + len(rows.rejected) == len(lines)
    assert all(rejected.reason for rejected in rows.rejected)
    assert all(
        str(row.location).startswith("gs://") or os.path.isfile(str(row.location)) for row in rows.accepted
    )


def test_label_folders_are_read(tmp_path):
    touch(
        tmp_path,
        "rose/2.JPG",
        "rose/1.png",
        "rose/far/away/3.webp",
        "daisy/x.jpeg",
        "rose/notes.txt",
        "rose/.hidden.jpg",
        ".git/y.jpg",
        "README.md",
        ".DS_Store",
    )
    rows, ignored = read_folder(str(tmp_path))
    assert {row.use for row in rows.accepted} == {""}
    assert ignored.files == 2
    assert [(row.path, row.label, row.line) for row in rows.accepted] == [
        ("daisy/x.jpeg", "daisy", 0),
        ("rose/1.png", "rose", 0),
        ("rose/2.JPG", "rose", 0),
        ("rose/far/away/3.webp", "rose", 0),
    ]


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_train_and_validation_folders_are_the_splits(tmp_path, validation):
    touch(
        tmp_path,
        "train/rose/1.jpg",
        f"{validation}/rose/2.jpg",
        f"{validation}/tulip/3.jpg",
        "test/rose/4.jpg",
        "more/rose/5.jpg",
    )
    rows, ignored = read_folder(str(tmp_path))
    assert [(row.path, row.label, row.use) for row in rows.accepted] == [
        ("train/rose/1.jpg", "rose", "train"),
        (f"{validation}/rose/2.jpg", "rose", "validation"),
        (f"{validation}/tulip/3.jpg", "tulip", "validation"),
        ("test/rose/4.jpg", "rose", "test"),
    ]
    assert ignored.folders == ["more"]


def test_files_of_a_pattern_are_labeled_by_their_folder(tmp_path):
    touch(tmp_path, "a/rose/1.jpg", "b/rose/2.PNG", "b/tulip/3.gif", "b/tulip/notes.txt")
    rows, ignored = read_folder(f"{tmp_path}/*/*/*")
    assert [(row.path, row.label) for row in rows.accepted] == [
        ("a/rose/1.jpg", "rose"),
        ("b/rose/2.PNG", "rose"),
        ("b/tulip/3.gif", "tulip"),
    ]
    assert all(os.path.isfile(str(row.location)) for row in rows.accepted)
    assert ignored.files == 1
    with pytest.raises(MissingInputError, match="matches no file"):
        read_folder(f"{tmp_path}/*/*.jpg")
    with pytest.raises(InvalidDataError, match="1 file but no image"):
        read_folder(f"{tmp_path}/*/*/*.txt")


def test_train_may_be_a_label(tmp_path):
    touch(tmp_path, "train/1.jpg", "tram/2.jpg")
    assert {row.label for row in read_folder(str(tmp_path))[0].accepted} == {"train", "tram"}


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "data/rose/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "data" / "tulip").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "rose" / "loop").symlink_to(tmp_path / "data" / "rose")
    rows, _ = read_folder(str(tmp_path / "data"))
    assert [row.path for row in rows.accepted] == ["rose/1.jpg", "tulip/2.jpg"]


def test_link_to_a_parent_folder_is_rejected(tmp_path):
    touch(tmp_path, "data/rose/1.jpg")
    (tmp_path / "data" / "all").symlink_to(tmp_path)
    with pytest.raises(InvalidDataError, match="label folder 'all' is a link to"):
        read_folder(str(tmp_path / "data"))


def test_broken_link_and_unknown_label_are_rejected(tmp_path):
    touch(tmp_path, "rose/1.jpg", "rsoe/2.jpg")
    (tmp_path / "rose" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    rejected = read_folder(str(tmp_path), ("rose",))[0].rejected
    assert [row.path for row in rejected] == ["rose/gone.jpg", "rsoe/2.jpg"]
    assert "no such file" in rejected[0].reason
    assert "did you mean 'rose'" in rejected[1].reason


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], ["no subfolder", "contains: nothing", "one subfolder per label"]),
        (["1.jpg", "2.jpg"], ["no subfolder", "contains: 1.jpg, 2.jpg"]),
        (["rose/notes.txt"], ["no image", "contains: rose/", "jpg, jpeg, png, gif, bmp, webp"]),
        (["train/rose/1.jpg"], ["'train' but no val", "add val"]),
        (["val/rose/1.jpg"], ["'val' but no train"]),
        (["train/r/1.jpg", "val/r/1.jpg", "validation/r/1.jpg"], ["both 'val' and 'validation'", "keep one"]),
        (["train/r/1.jpg", "val/r/readme"], ["no image", "val contains: r/"]),
        ([" rose/1.jpg"], ["' rose' cannot be a label", "rename"]),
        (["ros\udce9/1.jpg"], ["cannot be a label", "UTF-8"]),
    ],
)
def test_folder_of_another_layout_is_rejected_with_its_content(tmp_path, files, expected):
    (tmp_path / "data").mkdir()
    touch(tmp_path / "data", *files)
    with pytest.raises(InvalidDataError) as caught:
        read_folder(str(tmp_path / "data"), ())
    for part in (*expected, "data"):
        assert part in str(caught.value)


def test_missing_folder_is_missing_input(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(MissingInputError) as caught:
            read_folder(str(folder), ())
        assert str(folder) in str(caught.value)
