"""Data sets whose images have several labels, or none."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgpipe.components.common.dataset import TEST, TRAIN, VALIDATION, read_manifest
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, OutputError
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.convert.label_set import format_label_set, parse_label_set
from imgpipe.components.convert.row_table import RowTable
from imgpipe.components.convert.split import split_rows
from imgpipe.components.storage import FileStatus, parse_location
from tests.components.records import records_of, write_records

SETS = [("cat",), ("cat", "dog"), ("dog",), (), ("cat", "red, bright")] * 4


@pytest.fixture
def photos(tmp_path, photo):
    """A folder of 20 images."""
    for number in range(20):
        photo(tmp_path / f"{number}.jpg", number)
    return tmp_path


def quoted(name):
    return f'"{name}"' if "," in name else name


@pytest.fixture
def listed(photos):
    """A CSV file that lists the images with the labels of ``SETS``."""
    lines = [",".join([f"{number}.jpg", *map(quoted, names)]) for number, names in enumerate(SETS)]
    path = photos / "train.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def records_by_name(folder, manifest, split):
    return {record.filename: record for record in records_of(folder, manifest, split)}


def arguments_for(path, **values):
    return ConvertArguments(train_csv=str(path), multi_label=True, **values)


def rejected_reasons(folder):
    with (folder / "rejected.csv").open(newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_each_image_has_the_labels_of_its_row_in_ascending_order(listed, tmp_path):
    folder = tmp_path / "data"
    manifest = convert(arguments_for(listed), folder)
    assert read_manifest(folder) == manifest
    assert manifest.multi_label
    assert manifest.labels == ("cat", "dog", "red, bright")
    found = {}
    for name, split in manifest.splits.items():
        records = records_by_name(folder, manifest, name)
        assert split.examples == len(records)
        counts = Counter(label for record in records.values() for label in record.labels)
        assert split.images_per_label == tuple(counts[label] for label in (1, 2, 3))
        found |= records
    for number, names in enumerate(SETS):
        record = found[f"{number}.jpg"]
        assert record.texts == names
        assert record.labels == tuple(manifest.labels.index(name) + 1 for name in names)
    assert len(found) == manifest.made_by["written"] == 20


def test_label_numbers_follow_the_labels_file_and_are_sorted(photos, tmp_path):
    (photos / "train.csv").write_text("".join(f"{number}.jpg,a,b\n" for number in range(4)))
    (photos / "labels.txt").write_text("b\na\n")
    arguments = arguments_for(photos / "train.csv", labels_file=str(photos / "labels.txt"))
    manifest = convert(arguments, tmp_path / "data")
    assert manifest.labels == ("b", "a")
    record = records_by_name(tmp_path / "data", manifest, TRAIN).popitem()[1]
    assert (record.labels, record.texts) == ((1, 2), ("b", "a"))


def test_vertex_ai_csv_and_jsonl_files_give_the_same_data_set(photos, tmp_path):
    uses = ["training", "validation", "test", "TRAINING"] * 5
    rows = list(zip(uses, SETS, strict=True))
    lines = [
        ",".join([use, f"{number}.jpg", *map(quoted, names), ""]) for number, (use, names) in enumerate(rows)
    ]
    (photos / "import.csv").write_text("".join(f"{line}\n" for line in lines))
    objects = [
        {
            "imageGcsUri": f"{number}.jpg",
            "classificationAnnotations": [{"displayName": name} for name in reversed(names)],
            "dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": use},
        }
        for number, (use, names) in enumerate(rows)
    ]
    (photos / "import.jsonl").write_text("".join(json.dumps(line) + "\n" for line in objects))
    made = [convert(arguments_for(photos / f"import.{end}"), tmp_path / end) for end in ("csv", "jsonl")]
    assert made[0].digest() == made[1].digest()
    assert {name: split.examples for name, split in made[0].splits.items()} == {
        TRAIN: 10,
        VALIDATION: 5,
        TEST: 5,
    }


def test_duplicate_labels_and_the_order_of_rows_and_labels_do_not_matter(photos, tmp_path):
    (photos / "one.csv").write_text("".join(f"{number}.jpg,a,b,a\n" for number in range(20)))
    (photos / "other.csv").write_text("".join(f"{number}.jpg, b ,a,,\n" for number in reversed(range(20))))
    made = [convert(arguments_for(photos / f"{name}.csv"), tmp_path / name) for name in ("one", "other")]
    assert made[0].digest() == made[1].digest()
    assert sum(made[0].splits[TRAIN].images_per_label) == 2 * made[0].splits[TRAIN].examples


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("train.csv", "0.jpg,a,b"),
        (
            "train.jsonl",
            '{"imageGcsUri": "0.jpg", '
            '"classificationAnnotations": [{"displayName": "a"}, {"displayName": "b"}]}',
        ),
    ],
)
def test_several_labels_without_multi_label_are_rejected_with_a_hint(photos, tmp_path, name, line):
    (photos / name).write_text(line + "\n")
    with pytest.raises(InvalidDataError, match="multi_label=true"):
        convert(ConvertArguments(train_csv=str(photos / name)), tmp_path / "data")


def test_invalid_rows_are_rejected_with_their_reasons(photos, tmp_path):
    lines = [
        "0.jpg,cat,dgo",
        "1.jpg;cat;dog",
        ",cat",
        "2.jpg,cat," + "x" * 501,
        "3.jpg," + "x" * 200_000,
        "missing.jpg,cat",
    ]
    (photos / "train.csv").write_text("".join(f"{line}\n" for line in lines))
    (photos / "labels.txt").write_text("cat\ndog\n")
    with pytest.raises(InvalidDataError):
        convert(
            arguments_for(photos / "train.csv", labels_file=str(photos / "labels.txt")), tmp_path / "data"
        )
    reasons = rejected_reasons(tmp_path / "data")
    assert reasons["0.jpg"] == "the label 'dgo' is not in the labels file; did you mean 'dog'?"
    assert "separated by commas, not semicolons" in reasons["1.jpg;cat;dog"]
    assert "501 characters" in reasons["2.jpg"]
    assert "200,000 characters" in reasons["3.jpg"]
    assert "no such file" in reasons["missing.jpg"]
    assert len(reasons) == 6


def test_json_line_without_annotations_is_rejected(photos, tmp_path):
    (photos / "train.jsonl").write_text('{"imageGcsUri": "0.jpg"}\n')
    with pytest.raises(InvalidDataError, match="classificationAnnotations: \\[\\]"):
        convert(arguments_for(photos / "train.jsonl"), tmp_path / "data")


def test_data_without_any_label_is_rejected(photos, tmp_path):
    (photos / "train.csv").write_text("".join(f"{number}.jpg\n" for number in range(4)))
    with pytest.raises(InvalidDataError, match="no image has a label"):
        convert(arguments_for(photos / "train.csv"), tmp_path / "data")


def test_images_cannot_be_combined_with_multi_label():
    with pytest.raises(InvalidArgumentError, match=r"an image has one label[\s\S]*train_csv"):
        ConvertArguments(images="photos", multi_label=True)


def test_finished_conversion_is_reused_only_with_the_same_multi_label(listed, tmp_path):
    folder = tmp_path / "data"
    first = convert(arguments_for(listed), folder)
    changed = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert convert(arguments_for(listed), folder) == first
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == changed
    listed.write_text("".join(f"{number}.jpg,cat\n" for number in range(20)))
    single = tmp_path / "single"
    convert(ConvertArguments(train_csv=str(listed)), single)
    with pytest.raises(OutputError, match="other arguments"):
        convert(arguments_for(listed), single)


def test_tfrecord_files_are_described_in_place(listed, tmp_path):
    made = convert(arguments_for(listed), tmp_path / "data")
    patterns = {f"{name}_data_path": f"{tmp_path}/data/{name}-*" for name in ("training", "validation")}
    patterns["training_data_path"] = f"{tmp_path}/data/train-*"
    described = convert(ConvertArguments(**patterns, multi_label=True), tmp_path / "described")
    assert described.labels == made.labels
    assert described.multi_label
    for name, split in made.splits.items():
        assert described.splits[name].images_per_label == split.images_per_label
        assert described.splits[name].examples == split.examples
    with pytest.raises(InvalidDataError, match="multi_label to true"):
        convert(ConvertArguments(**patterns), tmp_path / "refused")
    with pytest.raises(OutputError, match="multi_label=true"):
        convert(ConvertArguments(**patterns), tmp_path / "described")


def test_tfrecord_files_without_any_label_are_rejected(tmp_path, photo):
    encoded = photo(tmp_path / "0.jpg", 0).read_bytes()
    for name in ("train", "validation"):
        write_records(tmp_path / name, [ImageRecord(encoded, 0, labels=())])
    patterns = {f"{name}_data_path": str(tmp_path / name) for name in ("validation",)}
    patterns["training_data_path"] = str(tmp_path / "train")
    with pytest.raises(InvalidDataError, match=r"no record has a label[\s\S]*image/class/label"):
        convert(ConvertArguments(**patterns, multi_label=True), tmp_path / "data")


def test_equal_images_with_different_labels_stay_in_one_split(photos, photo, tmp_path):
    lines = []
    for number in range(20):
        photo(photos / f"copy-{number}.jpg", number)
        lines += [f"{number}.jpg,{'ab'[number % 2]}", f"copy-{number}.jpg,a,c"]
    (photos / "train.csv").write_text("".join(f"{line}\n" for line in lines))
    manifest = convert(arguments_for(photos / "train.csv"), tmp_path / "data")
    validation = records_by_name(tmp_path / "data", manifest, VALIDATION)
    assert validation
    for name in validation:
        other = name.removeprefix("copy-") if name.startswith("copy-") else f"copy-{name}"
        assert other in validation


@given(
    sets=st.lists(st.sets(st.sampled_from("abcd")), min_size=1, max_size=60),
    fraction=st.floats(0.1, 0.5),
    seed=st.integers(0, 9),
)
def test_every_row_is_in_one_split_and_the_rarest_label_gets_its_fraction(sets, fraction, seed):
    table = RowTable()
    source = table.add_source("list.csv", parse_location(""))
    for number, names in enumerate(sets):
        table.append(source, number, f"{number}.jpg", format_label_set(names), "", status=FileStatus(1, 0))
    rows = np.arange(len(sets))
    drawn = split_rows(table, rows, rows, {VALIDATION: fraction}, seed, multi_label=True)
    assert sorted(np.concatenate(list(drawn.values())).tolist()) == rows.tolist()
    counts = Counter(name for names in sets for name in names)
    if not counts:
        return
    rarest, count = min(counts.items(), key=lambda item: (item[1], item[0]))
    held_out = sum(rarest in parse_label_set(table[int(number)].label) for number in drawn[VALIDATION])
    assert held_out == min(max(round(count * fraction), 1), count - 1)
    for name in counts:
        # Drawing a rare label does not take the last training image of a more frequent one.
        assert any(name in parse_label_set(table[int(number)].label) for number in drawn[TRAIN])


def test_every_label_gets_close_to_its_fraction():
    draw = np.random.default_rng(0)
    frequencies = {"common": 0.6, "occasional": 0.2, "rare": 0.05, "very rare": 0.01}
    table = RowTable()
    source = table.add_source("list.csv", parse_location(""))
    for number in range(2000):
        names = [name for name, frequency in frequencies.items() if draw.random() < frequency]
        table.append(source, number, f"{number}.jpg", format_label_set(names), "", status=FileStatus(1, 0))
    rows = np.arange(2000)
    drawn = split_rows(table, rows, rows, {VALIDATION: 0.2, TEST: 0.1}, 0, multi_label=True)
    total, validation, test = (
        Counter(name for number in numbers for name in parse_label_set(table[int(number)].label))
        for numbers in (rows, drawn[VALIDATION], drawn[TEST])
    )
    for name, count in total.items():
        assert abs(validation[name] - 0.2 * count) <= 0.02 * count + 1
        assert abs(test[name] - 0.1 * count) <= 0.02 * count + 1
