import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.common.errors import InvalidArgumentError, InvalidDataError, MissingInputError, PipelineError
from components.convert.rows import LARGEST_FILE_BYTES, read_csv, read_folder


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
    assert all(os.path.isfile(row.location) for row in rows.accepted)


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
def test_all_editors_files_are_read(tmp_path, content):
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
        ("gs://bucket/a.jpg,x", "reads local files only, not gs://"),
        ("GS://bucket/a.jpg,x", "reads local files only"),
        ("missing.jpg,x", "no such file"),
        ("folder,x", "not a file"),
        ("a\0.jpg,x", "null"),
        ("n" * 5000 + ",x", "name too long"),
        ("a.jpg/b.jpg,x", "Not a directory"),
        ("path,label", "header line"),
    ],
)
def test_a_bad_row_is_rejected_alone_with_its_line_and_reason(tmp_path, csv_of, line, reason):
    touch(tmp_path, "a.jpg", "folder/b.jpg")
    csv = csv_of(tmp_path / "list.csv", [line, "", ("a.jpg", "x")])
    rows = read_csv(csv, ())
    assert [row.line for row in rows.accepted] == [3]
    (rejected,) = rows.rejected
    assert (rejected.file, rejected.line) == (csv, 1)
    assert reason.lower() in rejected.reason.lower()
    assert rejected.path in line or rejected.path in line.replace('"', "")


def test_a_huge_file_is_rejected_unread(tmp_path, csv_of):
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)
    rows = read_csv(csv_of(tmp_path / "list.csv", [("huge.jpg", "x")]), ())
    assert "more than" in rows.rejected[0].reason


def test_unknown_labels_are_rejected_with_the_nearest_known_one(tmp_path, csv_of):
    touch(tmp_path, "a.jpg")
    csv = csv_of(tmp_path / "list.csv", [("a.jpg", label) for label in ("daisy", "dasiy", "dasiy", "qqq")])
    rows = read_csv(csv, ("daisy", "rose"))
    assert [row.line for row in rows.accepted] == [1]
    assert [(row.line, row.label) for row in rows.rejected] == [(2, "dasiy"), (3, "dasiy"), (4, "qqq")]
    assert rows.rejected[1].reason == "the label 'dasiy' is not in the labels file; did you mean 'daisy'?"
    assert rows.rejected[2].reason == "the label 'qqq' is not in the labels file"


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (None, MissingInputError, ["cannot read", "list.csv", "No such file"]),
        (b"", InvalidDataError, ["no rows", "list.csv", "path,label"]),
        (b"\n \n", InvalidDataError, ["no rows"]),
        (b"a.jpg,x\n\xe9.jpg,x\n", InvalidDataError, ["not UTF-8", "list.csv, line 2", "save it as UTF-8"]),
        ("a.jpg,x\n".encode("utf-16"), InvalidDataError, ["not UTF-8", "line 1"]),
    ],
)
def test_a_file_that_is_no_such_csv_is_refused(tmp_path, content, error, said):
    if content is not None:
        (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(error) as caught:
        read_csv(str(tmp_path / "list.csv"), ())
    for part in said:
        assert part in str(caught.value)


def test_a_csv_on_cloud_storage_is_refused_at_once():
    with pytest.raises(InvalidArgumentError, match="gs://"):
        read_csv("gs://bucket/list.csv", ())


cells = st.one_of(
    st.sampled_from(
        ["a.jpg", "x", '"a.jpg"', ",", '"', "\n", "\r\n", "gs://b/a.jpg", "..", "/", "~", "\0", "label"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=5),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.lists(cells, max_size=20).map("".join).map(str.encode), st.binary(max_size=30)),
    known_labels=st.sampled_from([(), ("x", "y")]),
)
def test_any_content_gives_rows_or_an_explained_error(tmp_path, content, known_labels):
    touch(tmp_path, "a.jpg")
    (tmp_path / "list.csv").write_bytes(content)
    try:
        rows = read_csv(str(tmp_path / "list.csv"), known_labels)
    except PipelineError:
        return
    lines = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert len(rows) == len(rows.accepted) + len(rows.rejected) == sum(bool(line.strip()) for line in lines)
    assert all(rejected.reason for rejected in rows.rejected)
    assert all(os.path.isfile(row.location) for row in rows.accepted)


def test_a_folder_of_label_folders(tmp_path):
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
    found = read_folder(str(tmp_path), ())
    assert found.validation is None
    assert found.other_files == 2
    assert [(row.path, row.label, row.line) for row in found.train.accepted] == [
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
    )
    found = read_folder(str(tmp_path), ())
    assert [row.path for row in found.train.accepted] == ["train/rose/1.jpg"]
    assert [(row.path, row.label) for row in found.validation.accepted] == [
        (f"{validation}/rose/2.jpg", "rose"),
        (f"{validation}/tulip/3.jpg", "tulip"),
    ]
    assert found.other_folders == ("test",)


def test_train_may_be_a_label(tmp_path):
    touch(tmp_path, "train/1.jpg", "tram/2.jpg")
    assert {row.label for row in read_folder(str(tmp_path), ()).train.accepted} == {"train", "tram"}


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "data/rose/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "data" / "tulip").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "rose" / "loop").symlink_to(tmp_path / "data" / "rose")
    found = read_folder(str(tmp_path / "data"), ())
    assert [row.path for row in found.train.accepted] == ["rose/1.jpg", "tulip/2.jpg"]


def test_a_broken_link_and_an_unknown_label_are_rejected(tmp_path):
    touch(tmp_path, "rose/1.jpg", "rsoe/2.jpg")
    (tmp_path / "rose" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    rejected = read_folder(str(tmp_path), ("rose",)).train.rejected
    assert [row.path for row in rejected] == ["rose/gone.jpg", "rsoe/2.jpg"]
    assert "no such file" in rejected[0].reason
    assert "did you mean 'rose'" in rejected[1].reason


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], ["no subfolder", "holds: nothing", "one subfolder a label"]),
        (["1.jpg", "2.jpg"], ["no subfolder", "holds: 1.jpg, 2.jpg"]),
        (["rose/notes.txt"], ["no image", "holds: rose/", "jpg, jpeg, png, gif, bmp, webp"]),
        (["train/rose/1.jpg"], ["'train' but no val", "add val"]),
        (["val/rose/1.jpg"], ["'val' but no train"]),
        (["train/r/1.jpg", "val/r/1.jpg", "validation/r/1.jpg"], ["both 'val' and 'validation'", "keep one"]),
        (["train/r/1.jpg", "val/r/readme"], ["no image", "val holds: r/"]),
        ([" rose/1.jpg"], ["' rose' cannot be a label", "rename"]),
        (["ros\udce9/1.jpg"], ["cannot be a label", "UTF-8"]),
    ],
)
def test_a_folder_of_another_form_is_refused_with_what_it_holds(tmp_path, files, said):
    (tmp_path / "data").mkdir()
    touch(tmp_path / "data", *files)
    with pytest.raises(InvalidDataError) as caught:
        read_folder(str(tmp_path / "data"), ())
    for part in (*said, "data"):
        assert part in str(caught.value)


def test_a_missing_folder_is_missing_input(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(MissingInputError) as caught:
            read_folder(str(folder), ())
        assert str(folder) in str(caught.value)
