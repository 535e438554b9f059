"""A CSV file of another form is read by its column names, or has one error with its own remedy."""

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.import_files import read_import_file
from imgpipe.components.convert.rows import Rows


@pytest.fixture
def folder(tmp_path):
    """A folder with six files, and others in the folder train."""
    folder = tmp_path / "data"
    for name in [*(f"{number}.jpg" for number in range(6)), *(f"train/t{number}.png" for number in range(6))]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def read(folder, text, *, multi_label=False, **options):
    (folder / "list.csv").write_text(text, encoding="utf-8")
    rows = Rows(multi_label=multi_label)
    read_import_file(rows, str(folder / "list.csv"), multi_label=multi_label, **options)
    return rows


def accepted(folder, text, **options):
    rows = read(folder, text, **options)
    assert rows.rejected == []
    return [(row.path, row.label, row.use) for row in rows.accepted]


TWO_ROWS = [("0.jpg", "a", ""), ("1.jpg", "b", "")]


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n0.jpg,a\n1.jpg,b\n",
        "Label,Image Path\na,0.jpg\nb,1.jpg\n",
        "file_name,width,species\n0.jpg,8,a\n1.jpg,8,b\n",
        ",path,label\n0,0.jpg,a\n1,1.jpg,b\n",
        "Unnamed: 0,filename,class\n0,0.jpg,a\n1,1.jpg,b\n",
        "id,filename,category\n7,0.jpg,a\n8,1.jpg,b\n",
        "fname,labels\n0.jpg,a\n1.jpg,b\n",
        "id,breed\n0,a\n1,b\n",
        "0,a\n1,b\n",
        "0.jpg,a,,\n1.jpg,b,,\n",
        "path,label\n0.jpg,a,,\n1.jpg,b,,\n",
        "0.jpg,a,\n1.jpg,b\n",
        "sep=,\n0.jpg,a\n1.jpg,b\n",
        "sep=,\npath,label\n0.jpg,a\n1.jpg,b\n",
    ],
)
def test_clear_columns_are_read(folder, text):
    assert accepted(folder, text) == TWO_ROWS


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\n0.jpg,a,train\n1.jpg,b,val\n2.jpg,a,test\n3.jpg,a,\n",
        "train,0.jpg,a\nval,1.jpg,b\ntesting,2.jpg,a\n,3.jpg,a\n",
        "training,0.jpg,a\ndev,1.jpg,b\ntest,2.jpg,a\nunassigned,3.jpg,a\n",
        "split,class,image\nTRAIN,a,0.jpg\nvalid,b,1.jpg\nTest,a,2.jpg\n,a,3.jpg\n",
    ],
)
def test_splits_are_read(folder, text):
    assert accepted(folder, text) == [
        ("0.jpg", "a", "train"),
        ("1.jpg", "b", "validation"),
        ("2.jpg", "a", "test"),
        ("3.jpg", "a", ""),
    ]


def test_column_that_says_what_is_for_validation_is_a_split(folder):
    text = "fname,labels,is_valid\n0.jpg,a,False\n1.jpg,b,True\n"
    assert accepted(folder, text) == [("0.jpg", "a", "train"), ("1.jpg", "b", "validation")]


def test_paths_of_windows_are_read(folder):
    rows = read(folder, "train\\t0.png,a\n.\\train\\t1.png,b\n")
    assert rows.rejected == []
    assert [row.path for row in rows.accepted] == ["train/t0.png", "./train/t1.png"]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    "text", ["0.jpg,1,0,0\n1.jpg,0,1,0\n", "path,red,green,blue\n0.jpg,1,0,0\n1.jpg,0,1,0\n"]
)
def test_one_hot_columns_are_one_error(folder, text, multi_label):
    with pytest.raises(InvalidDataError, match="contain only 0 and 1 \\(one-hot\\)") as caught:
        read(folder, text, multi_label=multi_label)
    assert "e.g. 0.jpg," in caught.value.remedy
    assert "multi_label" not in str(caught.value)


def test_columns_with_several_ones_are_several_labels(folder):
    with pytest.raises(InvalidDataError, match="contain only 0 and 1") as caught:
        read(folder, "path,red,green,blue\n0.jpg,1,1,0\n1.jpg,0,1,0\n")
    assert "e.g. 0.jpg,red,green, and set multi_label=true" in caught.value.remedy


def test_paths_without_extension_of_several_kinds_are_one_error(folder):
    (folder / "9.png").write_bytes(b"x")
    with pytest.raises(InvalidDataError, match=r"files with \.jpg and \.png") as caught:
        read(folder, "id,breed\n0,a\n9,b\n")
    assert caught.value.remedy == "add the file extension to the paths"


PIXELS = f"label,{','.join(f'p{number}' for number in range(19))}\n" + 3 * f"1{19 * ',0'}\n"


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("a,0.jpg\nb,1.jpg\n", "the columns are label,path", "columns=path=2,label=1"),
        ("0,0.jpg,a\n1,1.jpg,b\n", "row number,path,label", "columns=path=2,label=3"),
        ("0.jpg,a,train\n1.jpg,b,val\n", "path,label,split", "columns=path=1,label=2,split=3"),
        ("x,y,z\n0.jpg,a,7\n1.jpg,b,8\n", "the names of the columns", "columns=path=x,label=y"),
        ("image,species,breed\n0.jpg,a,c\n1.jpg,b,d\n", "the names of the columns", "one of species, breed"),
        ("id,cat,dog\n0.jpg,.9,.1\n1.jpg,.2,.8\n", "the names of the columns", "a label is a name"),
        ("0.jpg\n1.jpg\n", "the labels of the images are missing", "path,label"),
        ("path\n0.jpg\n1.jpg\n", "the labels of the images are missing", "set images to the folder"),
        (PIXELS, "20 columns of numbers: pixels", "save each row as an image file"),
        ("C:\\me\\train\\t0.png,a\nC:\\me\\train\\t1.png,b\n", "train/t0.png is here", "remove C:\\me\\ "),
        ("/kaggle/0.jpg,a\n/kaggle/1.jpg,b\n", "those of another machine", "remove /kaggle/ from"),
        ("0.jpg,a,7\n1.jpg,b,8\n", "3 columns instead of 2", "columns=path=1,label=2"),
        ("0.jpg;a\n1.jpg;b\n", "separated by semicolons", "commas"),
        ("0.jpg\ta\n1.jpg\tb\n", "separated by tabs", "commas"),
        ("label;file\na;0.jpg\nb;1.jpg\n", "separated by semicolons", "commas"),
        ('"path";"label"\n"0.jpg";"a"\n"1.jpg";"b"\n', "separated by semicolons", "commas"),
        ("gs://b/0.jpg;a\ngs://b/1.jpg;b\n", "separated by semicolons", "commas"),
        ("0.jpg 0\n1.jpg 1\n", "separated by spaces", "commas"),
        ("url,label\nhttps://x/0.jpg,a\nhttps://x/1.jpg,b\n", "on a web server", "download them"),
        ("sep=;\n0.jpg;a\n", "separated by semicolons", "commas"),
        ("t0.png,a\nt1.png,b\n", "the images are not in", "image_root="),
        ("id,breed\nt0,a\nt1,b\n", "the images are not in", "image_root="),
    ],
)
def test_other_columns_are_one_error_with_the_argument(folder, text, problem, remedy):
    with pytest.raises(InvalidDataError) as caught:
        read(folder, text)
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy
    assert "multi_label" not in caught.value.remedy


def test_multi_label_is_advised_only_for_names(folder):
    with pytest.raises(InvalidDataError, match="multi_label=true"):
        read(folder, "0.jpg,a,b\n1.jpg,b,c\n")


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a,0.jpg\nb,1.jpg\n", "path=2,label=1"),
        ("x,y,z\n0.jpg,7,a\n1.jpg,8,b\n", "path=x, label=z"),
        ("x,y,z\n0.jpg,7,a\n1.jpg,8,b\n", "path=1,label=3"),
    ],
)
def test_argument_columns_selects(folder, text, columns):
    assert accepted(folder, text, columns=columns) == TWO_ROWS


def test_multi_label_columns(folder):
    for text, columns in (
        ("path,label1,label2\n0.jpg,a,b\n1.jpg,b,\n", ""),
        ("path,labels\n0.jpg,a,b\n1.jpg,b\n", ""),
        ("x,y,z,width\n0.jpg,a,b,8\n1.jpg,b,,8\n", "path=x,label=y,label=z"),
    ):
        found = accepted(folder, text, columns=columns, multi_label=True)
        assert found == [("0.jpg", "a,b", ""), ("1.jpg", "b", "")]


def test_image_root_is_the_folder_of_relative_paths(folder):
    assert accepted(folder, "id,breed\nt0,a\n", image_root=str(folder / "train")) == [("t0.png", "a", "")]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ("path=x", "does not say which column is the label"),
        ("path=x,label=y,name=z", "'name=z' is not path=NAME"),
        ("path=x,path=y,label=z", "path twice"),
    ],
)
def test_invalid_columns_are_rejected_before_any_file_is_read(columns, problem):
    with pytest.raises(InvalidArgumentError, match=problem):
        ConvertArguments(train_csv="list.csv", columns=columns)


def test_column_that_does_not_exist_is_named(folder):
    with pytest.raises(InvalidDataError, match="no column 'lable'") as caught:
        read(folder, "path,label\n0.jpg,a\n", columns="path=path,label=lable")
    assert "line 1: path,label" in caught.value.where


def test_unknown_split_and_extra_cells_reject_only_their_rows(folder):
    rows = read(folder, "path,label,split\n0.jpg,a,train\n1.jpg,b,train,x\n", columns="")
    assert [row.reason for row in rows.rejected] == ["4 columns instead of 3"]
    rows = read(folder, "p,l,s\n0.jpg,a,train\n1.jpg,b,often\n", columns="path=p,label=l,split=s")
    assert [row.reason for row in rows.rejected] == ["the split is 'often', not train, val or test"]


def test_workbook_is_one_error(folder):
    (folder / "list.csv").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InvalidDataError, match="an Excel workbook"):
        read_import_file(Rows(), str(folder / "list.csv"))
