"""What a person decides about images, in the table of an audit."""

import shutil

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.dataset import read_manifest
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.errors import (
    InvalidArgumentError,
    InvalidDataError,
    MissingInputError,
    OutputError,
)
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.convert.decisions import check_undecided, read_decisions


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, label in enumerate(["daisy"] * 4 + ["rose"] * 4):
        (folder / label).mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture
def decide(images, tmp_path):
    """Returns a function that converts with these lines of decisions, and returns the labels by path."""

    def run(*lines, header="path,finding,score,suggestion,action,label", **options):
        (tmp_path / "decisions.csv").write_text("\n".join([header, *lines]) + "\n")
        arguments = ConvertArguments(
            **{"images": str(images), **options}, decisions=str(tmp_path / "decisions.csv")
        )
        manifest = convert(arguments, tmp_path / "data")
        return {
            record.filename: record.text
            for split in manifest.splits.values()
            for record in read_split(tmp_path / "data", split)
        }

    return run


def test_images_are_dropped_relabeled_and_kept(decide, tmp_path):
    found = decide(
        "daisy/0.png,dark,0.9,drop,drop,daisy",
        "daisy/1.png,wrong label,0.9,relabel:rose,relabel:rose,daisy",
        "daisy/2.png,wrong label,0.9,relabel:rose,keep,daisy",
        "rose/4.png,blank,0.9,drop,,rose",
    )
    assert "daisy/0.png" not in found
    assert (found["daisy/1.png"], found["daisy/2.png"], found["rose/4.png"]) == ("rose", "daisy", "rose")
    made_by = read_manifest(tmp_path / "data").made_by
    assert (made_by["rows"], made_by["written"], made_by["rejected"], made_by["dropped"]) == (8, 7, 0, 1)


def test_only_path_and_action_are_needed(decide):
    assert "daisy/0.png" not in decide("daisy/0.png,drop", header="path,action")


def test_one_decision_in_two_spellings_is_no_contradiction(decide):
    lines = ["daisy/0.png,drop", "daisy/0.png,Drop", "daisy/1.png,relabel:rose", "daisy/1.png,Relabel: rose"]
    found = decide(*lines, header="path,action")
    assert ("daisy/0.png" in found, found["daisy/1.png"]) == (False, "rose")


def test_a_decision_about_one_label_of_an_image_leaves_its_other_row(decide, images, tmp_path):
    rows = [f"{images}/{label}/{n}.png,{label}\n" for label, n in [("daisy", 0), ("daisy", 1), ("rose", 4)]]
    (tmp_path / "list.csv").write_text("".join([*rows, f"{images}/daisy/0.png,rose\n"]))
    options = {
        "images": "",
        "train_csv": str(tmp_path / "list.csv"),
        "validation_csv": str(tmp_path / "list.csv"),
    }
    assert decide(f"{images}/daisy/0.png,,,,drop,rose", **options)[f"{images}/daisy/0.png"] == "daisy"


@pytest.mark.parametrize(
    ("line", "problem", "remedy"),
    [
        ("daisy/0.png,,,,dorp,", "the action is 'dorp'", "keep (or nothing), drop or relabel:LABEL"),
        ("daisy/0.png,,,,relabel:,", "the action is 'relabel:'", "relabel:LABEL"),
        ("daisy/0.png,,,,relabel:tulpi,", "no image has the label 'tulpi'", "daisy, rose"),
        ("daisy/9.png,,,,drop,", "no image of the data has the path 'daisy/9.png'", "remove the line"),
        ("daisy/0.png,,,,drop,rose", "with the label 'rose'", "remove the line"),
        ("daisy/0.png,,,drop,", "5 columns instead of 6", "one value for each column"),
        ("daisy/3.png,,,,keep,", "but line 2 says 'drop' about the same image", "leave one"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(decide, tmp_path, line, problem, remedy):
    with pytest.raises(InvalidDataError) as caught:
        decide("daisy/3.png,,,,drop,", line)
    assert problem in caught.value.problem
    assert caught.value.where == f"{tmp_path / 'decisions.csv'}, line 3"
    assert remedy in caught.value.remedy
    assert not (tmp_path / "data" / "manifest.json").exists()


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_spreadsheet_may_have_saved_other_separators_a_byte_order_mark_and_empty_columns(mark, tmp_path):
    lines = ["suggestion,action,path,,", "relabel:rose,relabel:rose,daisy/0.png,,", ",drop,daisy/1.png,,"]
    text = "\r\n".join([*lines, ""]).replace(",", mark)
    (tmp_path / "decisions.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = [
        (item.line, item.path, item.new_label) for item in read_decisions(str(tmp_path / "decisions.csv"))
    ]
    assert found == [(2, "daisy/0.png", "rose"), (3, "daisy/1.png", "")]


@pytest.mark.parametrize("header", ["Pfad,Aktion", "path,action,action", "daisy/0.png,,,,drop,", ""])
def test_a_file_without_the_two_columns_is_refused(header, tmp_path):
    (tmp_path / "decisions.csv").write_text(f"{header}\n")
    with pytest.raises(InvalidDataError, match="must have the columns path and action"):
        read_decisions(str(tmp_path / "decisions.csv"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"path;action\r\na;drop\r\n", "has 1 action"),
        ("path\taction\na\tdrop\n".encode("utf-16"), "is not a table that it wrote"),
        (b"Pfad,Aktion\na,drop\n", "is not a table that it wrote"),
    ],
)
def test_decisions_that_a_spreadsheet_saved_are_not_overwritten(content, problem, tmp_path):
    (tmp_path / "decisions.csv").write_bytes(content)
    with pytest.raises(OutputError, match=problem):
        check_undecided(tmp_path / "decisions.csv")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(MissingInputError):
        read_decisions(str(tmp_path / "decisions.csv"))


def test_other_decisions_do_not_reuse_the_finished_data_set(decide, tmp_path):
    decide("daisy/0.png,,,,drop,")
    shutil.move(tmp_path / "data", tmp_path / "first")
    decide("daisy/0.png,,,,relabel:rose,")
    assert read_manifest(tmp_path / "first").digest() != read_manifest(tmp_path / "data").digest()


def test_records_are_not_decided_about():
    with pytest.raises(InvalidArgumentError, match="training_data_path"):
        ConvertArguments(training_data_path="a-*", validation_data_path="b-*", decisions="decisions.csv")


def test_labels_of_a_multi_label_data_set_are_not_replaced(decide, images, tmp_path):
    (tmp_path / "list.csv").write_text(f"{images}/daisy/0.png,daisy,rose\n{images}/daisy/1.png,rose\n")
    with pytest.raises(InvalidDataError, match="multi_label"):
        decide(
            f"{images}/daisy/0.png,,,,relabel:rose,",
            images="",
            train_csv=str(tmp_path / "list.csv"),
            multi_label=True,
        )
