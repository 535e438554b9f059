import csv
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imgpipe.components.common.dataset import read_manifest
from imgpipe.components.common.errors import (
    InvalidArgumentError,
    InvalidDataError,
    MissingInputError,
    OutputError,
    PipelineError,
)
from imgpipe.components.common.log import parse_event
from imgpipe.components.common.records import ImageRecord, _Example, encode_example
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from tests.components.convert.conversions import REPOSITORY, read_files, run_convert
from tests.components.records import records_of, write_records


def rejected_rows(folder):
    with (folder / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def conversion_error(error, arguments, folder):
    with pytest.raises(error) as caught:
        convert(arguments, folder)
    return str(caught.value)


# ---------------------------------------------------------------- CSV and folder to records


def test_folder_is_converted_to_shards_labels_and_a_manifest(tmp_path, flowers):
    output = tmp_path / "out"
    manifest = convert(ConvertArguments(images=str(flowers)), output)
    assert sorted(read_files(output)) == [
        "labels.txt",
        "manifest.json",
        "train-00000-of-00001",
        "validation-00000-of-00001",
    ]
    assert read_manifest(output) == manifest
    assert manifest.labels == ("daisy", "rose", "tulip")
    assert (output / "labels.txt").read_text() == "daisy\nrose\ntulip\n"
    assert manifest.splits["train"].images_per_label == (8, 4, 1)
    assert manifest.splits["validation"].images_per_label == (2, 1, 0)
    records = records_of(output, manifest, "train") + records_of(output, manifest, "validation")
    assert len(records) == 16
    for record in records:
        assert record.encoded == (flowers / record.filename).read_bytes()
        assert record.text == record.filename.split("/")[0] == manifest.labels[record.label - 1]
        assert (record.format, record.height, record.width) == ("JPEG", 8, 8)
    assert len({record.filename for record in records}) == 16
    for split in manifest.splits.values():
        for shard in split.shards:
            data = (output / shard.path).read_bytes()
            assert (shard.bytes, shard.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_two_csv_files_are_the_two_splits(tmp_path, photo, csv_of):
    for number in range(5):
        photo(tmp_path / f"{number}.jpg", number)
    arguments = ConvertArguments(
        train_csv=csv_of(tmp_path / "train.csv", [("0.jpg", "Größe"), ("1.jpg", "b"), ("2.jpg", "b")]),
        validation_csv=csv_of(tmp_path / "v.csv", [("3.jpg", "b"), ("4.jpg", '"a, only"')]),
    )
    manifest = convert(arguments, tmp_path / "out")
    assert manifest.labels == ("Größe", "a, only", "b")
    assert manifest.splits["train"].images_per_label == (1, 0, 2)
    assert manifest.splits["validation"].images_per_label == (0, 1, 1)
    validation = records_of(tmp_path / "out", manifest, "validation")
    assert {(record.filename, record.text, record.label) for record in validation} == {
        ("3.jpg", "b", 3),
        ("4.jpg", "a, only", 2),
    }
    assert "validation_fraction" not in manifest.made_by


def test_labels_file_determines_the_label_numbers(tmp_path, flowers):
    (tmp_path / "labels.txt").write_text("tulip\nrose\nviolet\ndaisy\n")
    arguments = ConvertArguments(images=str(flowers), labels_file=str(tmp_path / "labels.txt"))
    manifest = convert(arguments, tmp_path / "out")
    assert manifest.labels == ("tulip", "rose", "violet", "daisy")
    assert manifest.splits["train"].images_per_label == (1, 4, 0, 8)


def test_manifest_records_its_source_without_local_paths(tmp_path, flowers, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = convert(ConvertArguments(images="flowers", seed=5), tmp_path / "out")
    inputs = manifest.made_by.pop("inputs_sha256")
    assert len(inputs) == 64
    assert manifest.made_by == {
        "source": {"form": "folder", "images": "flowers", "labels_file": ""},
        "rows": 16,
        "written": 16,
        "rejected": 0,
        "seed": 5,
        "shard_megabytes": 128,
        "validation_fraction": 0.2,
        "reencoded": [],
    }
    assert str(tmp_path).encode() not in (tmp_path / "out" / "manifest.json").read_bytes()


def test_number_of_shards_depends_on_the_image_bytes(tmp_path, photo, csv_of):
    rows = []
    for number in range(6):
        path = photo(tmp_path / f"{number}.jpg", number)
        # Bytes after the end of a JPEG are kept and are not damage.
        path.write_bytes(path.read_bytes() + b"x" * 500_000)
        rows.append((path.name, "ab"[number % 2]))
    arguments = ConvertArguments(
        train_csv=csv_of(tmp_path / "train.csv", rows),
        validation_csv=csv_of(tmp_path / "validation.csv", rows[:1]),
        shard_megabytes=1,
    )
    manifest = convert(arguments, tmp_path / "out")
    shards = manifest.splits["train"].shards
    assert [shard.path for shard in shards] == [f"train-0000{number}-of-00004" for number in range(4)]
    assert [shard.examples for shard in shards] == [1, 2, 1, 2]
    assert len(records_of(tmp_path / "out", manifest, "train")) == 6


def test_reencoded_images_are_listed_in_output_order(tmp_path, photo):
    folder = tmp_path / "images"
    for number in range(4):
        photo(folder / "a" / f"{number}.jpg", number)
        photo(folder / "b" / f"{number}.bmp", number, format="BMP")
        photo(folder / "c" / f"{number}.gif", number, format="GIF")
    manifest = convert(ConvertArguments(images=str(folder)), tmp_path / "out")
    written = [
        record
        for split in ("train", "validation")
        for record in records_of(tmp_path / "out", manifest, split)
    ]
    assert manifest.made_by["reencoded"] == [
        {"path": record.filename, "reason": "BMP" if record.text == "b" else "GIF"}
        for record in written
        if record.text != "a"
    ]
    for record in written:
        assert record.format == ("JPEG" if record.text == "a" else "PNG")
        stored = Image.open(io.BytesIO(record.encoded)).convert("RGB")
        source = Image.open(folder / record.filename).convert("RGB")
        assert (np.asarray(stored) == np.asarray(source)).all()


def test_file_names_that_are_not_utf8_are_kept(tmp_path, photo):
    folder = tmp_path / "images"
    for number in range(2):
        photo(folder / "a" / f"caf\udce9{number}.gif", number, format="GIF")
    manifest = convert(ConvertArguments(images=str(folder)), tmp_path / "out")
    assert read_manifest(tmp_path / "out") == manifest
    assert {entry["path"] for entry in manifest.made_by["reencoded"]} == {
        "a/caf\udce90.gif",
        "a/caf\udce91.gif",
    }


# ---------------------------------------------------------------- same inputs, same bytes


def test_bytes_do_not_depend_on_threads_or_hash_seed(tmp_path, flowers):
    outputs = []
    for threads in (1, 7):
        outputs.append(tmp_path / f"threads-{threads}")
        convert(ConvertArguments(images=str(flowers)), outputs[-1], threads=threads)
    for hash_seed in ("1", "2"):
        outputs.append(tmp_path / f"hash-{hash_seed}")
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        completed = run_convert(f"--images={flowers}", f"--output_dir={outputs[-1]}", env=environment)
        assert completed.returncode == 0
    assert all(read_files(output) == read_files(outputs[0]) for output in outputs)


def test_order_of_the_rows_does_not_matter(tmp_path, photo, csv_of):
    rows = [(photo(tmp_path / f"{number}.jpg", number).name, "ab"[number % 2]) for number in range(12)]
    path = tmp_path / "list.csv"
    convert(ConvertArguments(train_csv=csv_of(path, rows)), tmp_path / "one")
    random.Random(3).shuffle(rows)  # noqa: S311
    convert(ConvertArguments(train_csv=csv_of(path, rows)), tmp_path / "two")
    assert read_files(tmp_path / "one") == read_files(tmp_path / "two")


def test_another_seed_gives_another_split_of_the_same_images(tmp_path, flowers):
    files = {}
    for seed in (0, 1):
        output = tmp_path / str(seed)
        manifest = convert(ConvertArguments(images=str(flowers), seed=seed), output)
        files[seed] = [
            [record.filename for record in records_of(output, manifest, split)]
            for split in ("train", "validation")
        ]
    assert set(files[0][1]) != set(files[1][1])
    assert Counter(files[0][0] + files[0][1]) == Counter(files[1][0] + files[1][1])


# ---------------------------------------------------------------- rejected rows


@pytest.fixture
def bad_csv(tmp_path, photo, csv_of):
    """Twelve rows, seven of them invalid for different reasons."""
    for number in range(5):
        photo(tmp_path / f"good{number}.jpg", number)
    cut = photo(tmp_path / "cut.jpg", 9)
    cut.write_bytes(cut.read_bytes()[:-30])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    return csv_of(
        tmp_path / "list.csv",
        [
            ("good0.jpg", "a"),
            ("cut.jpg", "a"),
            ("gone.jpg", "b"),
            ("empty.jpg", "b"),
            ("good1.jpg", "b"),
            "good2.jpg",
            ("page.jpg", "a"),
            ("good2.jpg", ""),
            ("good2.jpg", "a"),
            ("az://bucket/x.jpg", "a"),
            ("good3.jpg", "b"),
            ("good4.jpg", "a"),
        ],
    )


REASONS = [
    ("2", "cut.jpg", "a", "undecodable JPEG"),
    ("3", "gone.jpg", "b", "no such file"),
    ("4", "empty.jpg", "b", "an empty file"),
    ("6", "good2.jpg", "", "1 column instead of 2"),
    ("7", "page.jpg", "a", "a web page"),
    ("8", "good2.jpg", "", "the label is empty"),
    ("10", "az://bucket/x.jpg", "a", "local paths, gs:// and s3://"),
]


def test_too_many_rejected_rows_fail_after_all_were_checked(tmp_path, bad_csv, capsys):
    output = tmp_path / "out"
    text = conversion_error(InvalidDataError, ConvertArguments(train_csv=bad_csv), output)
    warnings = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    assert "line 3: 'gone.jpg': no such file" in next(
        event["message"] for event in warnings if event["event"] == "convert_will_fail"
    )
    assert "rejected 7 of 12 rows (58.33%)" in text
    assert "max_rejected_fraction=0 allows" in text
    for line, path, _, reason in REASONS[:5]:
        assert f"{bad_csv}, line {line}: {path!r}: " in text
        assert reason in text
    assert "and 2 more" in text
    assert str(output / "rejected.csv") in text
    assert "fix or remove these rows" in text
    # Most rows are invalid.
    assert "raise max_rejected_fraction" not in text
    assert list(read_files(output)) == ["rejected.csv"]
    found = rejected_rows(output)
    assert [(row["line"], row["path"], row["label"]) for row in found] == [row[:3] for row in REASONS]
    assert all(row["file"] == bad_csv for row in found)
    for row, (*_, reason) in zip(found, REASONS, strict=True):
        assert reason in row["reason"]
    logged = [event for event in warnings if event["event"] == "row_rejected"]
    assert [(str(row["line"]), row["path"], row["label"]) for row in logged] == [row[:3] for row in REASONS]


def test_log_contains_1000_rejected_rows_and_the_number_of_the_others(tmp_path, photo, csv_of, capsys):
    photo(tmp_path / "a.jpg")
    csv = csv_of(tmp_path / "list.csv", [("a.jpg", "x"), *((f"{number}.jpg", "x") for number in range(1003))])
    conversion_error(InvalidDataError, ConvertArguments(train_csv=csv), tmp_path / "out")
    events = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(event["event"] == "row_rejected" for event in events) == 1000
    (rest,) = [event for event in events if event["event"] == "rejections_not_logged"]
    assert rest["count"] == 3
    assert len(rejected_rows(tmp_path / "out")) == 1003


def test_allowed_rejections_are_listed_and_counted(tmp_path, bad_csv, capsys):
    output = tmp_path / "out"
    manifest = convert(ConvertArguments(train_csv=bad_csv, max_rejected_fraction=7 / 12), output)
    assert {name: manifest.made_by[name] for name in ("rows", "written", "rejected")} == {
        "rows": 12,
        "written": 5,
        "rejected": 7,
    }
    assert len(rejected_rows(output)) == 7
    assert sum(split.examples for split in manifest.splits.values()) == 5
    done = [parse_event(line) for line in capsys.readouterr().out.splitlines()][-1]
    assert done["message"].startswith("convert: 12 rows = 5 written + 7 rejected")
    text = conversion_error(
        InvalidDataError, ConvertArguments(train_csv=bad_csv, max_rejected_fraction=0.58), tmp_path / "two"
    )
    assert "max_rejected_fraction=0.58" in text


def test_few_rejected_rows_may_be_allowed(tmp_path, photo, csv_of):
    rows = [(photo(tmp_path / f"{number}.jpg", number).name, "ab"[number % 2]) for number in range(4)]
    arguments = ConvertArguments(train_csv=csv_of(tmp_path / "list.csv", [*rows, ("gone.jpg", "a")]))
    text = conversion_error(InvalidDataError, arguments, tmp_path / "out")
    assert "or raise max_rejected_fraction" in text


def test_label_of_every_image_is_a_warning(tmp_path, photo, csv_of, capsys):
    rows = [
        (photo(tmp_path / f"{number}.jpg", number).name, f"all,{'ab'[number % 2]}") for number in range(8)
    ]
    arguments = ConvertArguments(train_csv=csv_of(tmp_path / "list.csv", rows), multi_label=True)
    convert(arguments, tmp_path / "out")
    events = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    (warning,) = [event for event in events if event["event"] == "label_of_every_image"]
    assert (warning["severity"], warning["labels"]) == ("WARNING", ["all"])


def test_rejections_of_both_files_are_listed_in_order(tmp_path, photo, csv_of):
    photo(tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").touch()
    rows = [("bad.jpg", "a"), ("good.jpg", "a"), ("gone.jpg", "a")]
    train, validation = (csv_of(tmp_path / name, rows) for name in ("train.csv", "validation.csv"))
    convert(
        ConvertArguments(train_csv=train, validation_csv=validation, max_rejected_fraction=0.9),
        tmp_path / "out",
    )
    assert [(row["file"], row["line"]) for row in rejected_rows(tmp_path / "out")] == [
        (train, "1"),
        (train, "3"),
        (validation, "1"),
        (validation, "3"),
    ]


def test_conversion_with_rejected_rows_can_be_repeated_into_the_same_folder(tmp_path, bad_csv):
    conversion_error(InvalidDataError, ConvertArguments(train_csv=bad_csv), tmp_path / "out")
    convert(ConvertArguments(train_csv=bad_csv, max_rejected_fraction=1.0), tmp_path / "out")
    assert read_manifest(tmp_path / "out").made_by["rejected"] == 7


@pytest.mark.parametrize("row", ["good.jpg,a\n", "gone.jpg,a\ngood.jpg,a\ngood.jpg,a\n"])
def test_empty_split_is_rejected(tmp_path, photo, row):
    photo(tmp_path / "good.jpg")
    (tmp_path / "train.csv").write_text("gone.jpg,a\n")
    (tmp_path / "list.csv").write_text(row)
    arguments = ConvertArguments(
        train_csv=str(tmp_path / "train.csv"),
        validation_csv=str(tmp_path / "list.csv"),
        max_rejected_fraction=1.0,
    )
    assert "no image for train" in conversion_error(InvalidDataError, arguments, tmp_path / "one")
    (tmp_path / "single.csv").write_text("good.jpg,a\n")
    arguments = ConvertArguments(train_csv=str(tmp_path / "single.csv"))
    text = conversion_error(InvalidDataError, arguments, tmp_path / "two")
    assert "no image for validation" in text
    assert "at least two" in text


cells = st.sampled_from(
    [
        "good0.jpg",
        "good1.gif",
        "cut.jpg",
        "gone.jpg",
        ",",
        ",",
        "a",
        "b",
        "\n",
        "\n",
        '"',
        " ",
        "é",
        "az://b/x.jpg",
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(cells, max_size=30).map("".join))
def test_any_csv_gives_as_many_written_and_rejected_rows_as_lines(tmp_path_factory, photo, content):
    folder = tmp_path_factory.mktemp("any")
    photo(folder / "good0.jpg", 0)
    photo(folder / "good1.gif", 1, format="GIF")
    (folder / "cut.jpg").write_bytes((folder / "good0.jpg").read_bytes()[:200])
    (folder / "list.csv").write_text(content, encoding="utf-8")
    arguments = ConvertArguments(train_csv=str(folder / "list.csv"), max_rejected_fraction=1.0)
    output = folder / "out"
    try:
        made_by = convert(arguments, output, threads=2).made_by
    except PipelineError:
        assert set(read_files(output)) <= {"rejected.csv"}
        return
    rejected = rejected_rows(output) if (output / "rejected.csv").exists() else []
    assert made_by["rejected"] == len(rejected)
    assert made_by["rows"] == made_by["written"] + made_by["rejected"]
    assert made_by["rows"] == sum(bool(line.strip()) for line in content.split("\n"))


# ---------------------------------------------------------------- the output folder


def test_non_empty_folder_is_not_touched(tmp_path, flowers):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.doc").write_text("precious")
    assert str(output) in conversion_error(OutputError, ConvertArguments(images=str(flowers)), output)
    (output / "rejected.csv").write_text("mine, not yours\n")
    conversion_error(OutputError, ConvertArguments(images=str(flowers)), output)
    (output / "thesis.doc").unlink()
    conversion_error(OutputError, ConvertArguments(images=str(flowers)), output)
    assert read_files(output) == {"rejected.csv": b"mine, not yours\n"}
    (output / "rejected.csv").unlink()
    convert(ConvertArguments(images=str(flowers)), output)
    before = read_files(output)
    conversion_error(OutputError, ConvertArguments(images=str(flowers), seed=1), output)
    assert read_files(output) == before


WORK = ".imgpipe-convert-unfinished"


def test_only_files_of_a_killed_conversion_are_replaced(tmp_path, flowers):
    convert(ConvertArguments(images=str(flowers)), tmp_path / "whole")
    output = tmp_path / "out"
    (output / WORK).mkdir(parents=True)
    (output / WORK / "README").touch()
    (output / WORK / "train-00001-of-00007.partial").write_text("half")
    (output / WORK / "train-00002-of-00007").write_text("another plan's")
    (output / "train-00000-of-00007").write_text("old")
    (output / f".labels.txt.{'0' * 32}.partial").write_text("half")
    convert(ConvertArguments(images=str(flowers)), output)
    assert read_files(output) == read_files(tmp_path / "whole")
    killed = tmp_path / "killed"
    (killed / WORK).mkdir(parents=True)
    (killed / "thesis.doc").write_text("precious")
    assert "thesis.doc" in conversion_error(OutputError, ConvertArguments(images=str(flowers)), killed)
    assert (killed / "thesis.doc").read_bytes() == b"precious"
    (killed / "thesis.doc").rename(killed / WORK / "thesis.doc")
    assert "thesis.doc" in conversion_error(OutputError, ConvertArguments(images=str(flowers)), killed)
    assert (killed / WORK / "thesis.doc").read_bytes() == b"precious"


def test_full_disk_is_an_output_error_and_leaves_no_files(tmp_path, photo):
    folder = tmp_path / "images"
    for number in range(4):
        path = photo(folder / "a" / f"{number}.jpg", number)
        path.write_bytes(path.read_bytes() + b"x" * 100_000)
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)); "
        "import runpy; runpy.run_module('imgpipe.components.convert', run_name='__main__')"
    )
    command = [sys.executable, "-c", script, f"--images={folder}", f"--output_dir={tmp_path / 'out'}"]
    completed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert completed.returncode == OutputError.exit_code
    failure = parse_event(completed.stdout.splitlines()[-1])
    assert "File too large" in failure["problem"]
    assert read_files(tmp_path / "out") == {}


# ---------------------------------------------------------------- TFRecord files


def records_with(*labels, text="label {}"):
    return [ImageRecord(b"jpeg", label, text.format(label)) for label in labels]


def record_arguments(folder, **values):
    return ConvertArguments(
        training_data_path=f"{folder}/train-*", validation_data_path=f"{folder}/validation-*", **values
    )


def test_tfrecord_files_are_described_in_place(tmp_path):
    data = tmp_path / "data"
    paths = [
        write_records(data / "train-00000-of-00002", records_with(1, 2, 2)),
        write_records(data / "train-00001-of-00002", records_with(3)),
        write_records(data / "validation-00000-of-00001", records_with(1, 3)),
    ]
    output = tmp_path / "out"
    manifest = convert(record_arguments(data), output)
    assert sorted(read_files(output)) == ["labels.txt", "manifest.json"]
    assert read_manifest(output) == manifest
    assert manifest.labels == ("label 1", "label 2", "label 3")
    assert manifest.splits["train"].images_per_label == (1, 2, 1)
    assert manifest.splits["validation"].images_per_label == (1, 0, 1)
    shards = [shard for name in ("train", "validation") for shard in manifest.splits[name].shards]
    assert [(shard.path, shard.bytes, shard.sha256) for shard in shards] == [
        (str(path), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths
    ]
    assert [shard.examples for shard in shards] == [3, 1, 2]
    assert {name: manifest.made_by[name] for name in ("rows", "written", "rejected")} == {
        "rows": 6,
        "written": 6,
        "rejected": 0,
    }


@pytest.fixture
def converted(tmp_path, flowers):
    """A converted data set and what a scan of its files gives."""
    data = tmp_path / "data"
    convert(ConvertArguments(images=str(flowers)), data)
    manifest = (data / "manifest.json").rename(tmp_path / "manifest.json")
    scanned = convert(record_arguments(data), tmp_path / "scanned")
    shutil.copy2(manifest, data)
    return data, scanned


def test_a_manifest_beside_the_files_gives_the_same_as_a_scan(tmp_path, converted):
    data, scanned = converted
    shard = data / "train-00000-of-00001"
    status = shard.stat()
    shard.write_bytes(bytes(status.st_size))
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert convert(record_arguments(data), tmp_path / "out") == scanned


@pytest.mark.parametrize("change", ["newer", "size", "added", "labels", "damaged"])
def test_a_manifest_that_may_not_describe_the_files_is_not_used(change, tmp_path, converted):
    data, scanned = converted
    shard = data / "train-00000-of-00001"
    arguments = {}
    if change == "newer":
        os.utime(shard)
    elif change == "size":
        times = shard.stat()
        names = enumerate(scanned.labels, start=1)
        write_records(shard, [ImageRecord(b"jpeg", label, name) for label, name in names])
        os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "added":
        write_records(data / "train-1", records_with(3))
    elif change == "labels":
        (tmp_path / "labels.txt").write_text("a\nb\nc\n")
        arguments["labels_file"] = str(tmp_path / "labels.txt")
    else:
        (data / "manifest.json").write_text("{}")
    (tmp_path / "manifest.json").unlink()
    manifest = convert(record_arguments(data, **arguments), tmp_path / "out")
    (data / "manifest.json").unlink()
    assert manifest == convert(record_arguments(data, **arguments), tmp_path / "without")
    assert (manifest == scanned) == (change in ("newer", "damaged"))


def test_relative_patterns_give_absolute_paths(tmp_path, monkeypatch):
    write_records(tmp_path / "data" / "train-0", records_with(1))
    write_records(tmp_path / "data" / "validation-0", records_with(1))
    monkeypatch.chdir(tmp_path)
    manifest = convert(record_arguments("data"), tmp_path / "out")
    assert manifest.splits["train"].shards[0].path == f"{tmp_path}/data/train-0"


@pytest.mark.parametrize(
    "train",
    [
        records_with(1, 2, text=""),
        records_with(1, 2, text="same for all"),
        [*records_with(1, 2), ImageRecord(b"jpeg", 2, "another")],
        records_with(1, 2, text="two\nlines {}"),
    ],
    ids=["no text", "one text for two labels", "two texts for one label", "line break"],
)
def test_ambiguous_label_texts_are_ignored(tmp_path, train):
    write_records(tmp_path / "train-0", train)
    write_records(tmp_path / "validation-0", train[:1])
    assert convert(record_arguments(tmp_path), tmp_path / "out").labels == ("1", "2")


def test_names_of_labels_are_read_from_image_class_text_too(tmp_path):
    for split in ("train", "validation"):
        examples = [_Example.FromString(encode_example(record)) for record in records_with(1, 2)]
        for example in examples:
            feature = example.features.feature
            feature["image/class/text"].CopyFrom(feature["image/class/synset"])
            del feature["image/class/synset"]
        write_records(tmp_path / f"{split}-0", [example.SerializeToString() for example in examples])
    assert convert(record_arguments(tmp_path), tmp_path / "out").labels == ("label 1", "label 2")


def test_records_have_a_test_split_that_names_the_labels_as_the_others(tmp_path):
    names = {"train": ["a", "b"], "validation": ["a"], "test": ["a", "b"]}
    for split, texts in names.items():
        records = [ImageRecord(b"jpeg", label, text) for label, text in enumerate(texts, start=1)]
        write_records(tmp_path / f"{split}-0", records)
    arguments = record_arguments(tmp_path, test_data_path=f"{tmp_path}/test-*")
    manifest = convert(arguments, tmp_path / "out")
    assert {name: split.examples for name, split in manifest.splits.items()} == {
        "train": 2,
        "validation": 1,
        "test": 2,
    }
    # A finished data set is reused.
    assert convert(arguments, tmp_path / "out") == manifest
    write_records(tmp_path / "test-0", [ImageRecord(b"jpeg", 2, "c")])
    text = conversion_error(InvalidDataError, arguments, tmp_path / "other")
    assert "label 2 is 'b' in" in text
    assert "and 'c' in" in text


@pytest.mark.parametrize(
    ("train", "validation", "problem"),
    [
        (
            {1: "red", 2: "green"},
            {1: "green", 2: "red"},
            "label 1 is 'red' in {}/train-0, record 0, and 'green' in {}/validation-0, record 0",
        ),
        (
            {1: "red", 2: "", 3: "green"},
            {2: "red", 3: "green"},
            "'red' is label 1 in {}/train-0, record 0, and label 2 in {}/validation-0, record 0",
        ),
    ],
)
@pytest.mark.parametrize("with_file", [False, True])
def test_splits_that_name_labels_differently_are_an_error(tmp_path, train, validation, problem, with_file):
    for split, names in (("train", train), ("validation", validation)):
        records = [ImageRecord(b"jpeg", label, name) for label, name in names.items()]
        write_records(tmp_path / f"{split}-0", records)
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    values = {"labels_file": str(tmp_path / "labels.txt")} if with_file else {}
    text = conversion_error(InvalidDataError, record_arguments(tmp_path, **values), tmp_path / "out")
    assert problem.format(tmp_path, tmp_path) in text


def test_splits_may_name_labels_in_another_case(tmp_path):
    write_records(tmp_path / "train-0", [ImageRecord(b"jpeg", 1, "Red"), ImageRecord(b"jpeg", 2, "b")])
    write_records(tmp_path / "validation-0", [ImageRecord(b"jpeg", 1, "red")])
    assert convert(record_arguments(tmp_path), tmp_path / "out").num_classes == 2


def test_labels_file_names_the_labels_of_records(tmp_path):
    write_records(tmp_path / "train-0", records_with(1, 3))
    write_records(tmp_path / "validation-0", records_with(1))
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    manifest = convert(record_arguments(tmp_path, labels_file=str(tmp_path / "labels.txt")), tmp_path / "out")
    assert manifest.labels == ("a", "b", "c", "d")
    assert manifest.splits["train"].images_per_label == (1, 0, 1, 0)
    (tmp_path / "labels.txt").write_text("a\nb\n")
    text = conversion_error(
        InvalidDataError,
        record_arguments(tmp_path, labels_file=str(tmp_path / "labels.txt")),
        tmp_path / "two",
    )
    assert "the label is 3, but the labels file has 2 lines" in text
    assert "train-0, record 1" in text


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (records_with(1, 0), ["the label is 0", "train-0, record 1", "add 1 to every label"]),
        (records_with(-7), ["the label is -7", "train-0, record 0"]),
        (records_with(1, 2, 5), ["go up to 5", "no record has label 3, 4", "without gaps"]),
        (records_with(1, 2**40), ["no record has label 2, 3, 4, 5, 6 or 1,099,511,627,769 others"]),
        ([], ["no record in the train files", "train-*"]),
    ],
)
def test_invalid_labels_in_records_are_rejected_with_their_position(tmp_path, train, expected):
    write_records(tmp_path / "train-0", train)
    write_records(tmp_path / "validation-0", records_with(1))
    text = conversion_error(InvalidDataError, record_arguments(tmp_path), tmp_path / "out")
    for part in expected:
        assert part in text
    assert read_files(tmp_path / "out") == {}


def test_damaged_records_and_other_files_are_rejected_with_their_position(tmp_path):
    path = write_records(tmp_path / "train-0", records_with(1, 2))
    write_records(tmp_path / "validation-0", records_with(1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "train-0, record 1" in conversion_error(
        InvalidDataError, record_arguments(tmp_path), tmp_path / "out"
    )
    path.write_bytes(b"\x1f\x8b" + whole)
    assert "compressed" in conversion_error(InvalidDataError, record_arguments(tmp_path), tmp_path / "out")
    write_records(path, [b"\xff\xff\xff"])
    text = conversion_error(InvalidDataError, record_arguments(tmp_path), tmp_path / "out")
    assert "not a tf.Example" in text
    assert "train-0, record 0" in text


def test_pattern_without_a_match_lists_the_files_found(tmp_path):
    write_records(tmp_path / "data" / "train-00000-of-00001", records_with(1))
    arguments = ConvertArguments(
        training_data_path=f"{tmp_path}/data/train-*.tfrecord",
        validation_data_path=f"{tmp_path}/data/train-*",
    )
    assert "train-00000-of-00001" in conversion_error(MissingInputError, arguments, tmp_path / "out")


# ---------------------------------------------------------------- missing input, command line, component


@pytest.mark.parametrize(
    "values",
    [{"train_csv": "nowhere.csv"}, {"images": "nowhere"}, {"images": ".", "labels_file": "nowhere.txt"}],
)
def test_missing_input_is_named(tmp_path, monkeypatch, values):
    monkeypatch.chdir(tmp_path)
    text = conversion_error(MissingInputError, ConvertArguments(**values), tmp_path / "out")
    assert list(values.values())[-1] in text
    assert read_files(tmp_path / "out") == {}


def test_command_line_converts_and_exits_with_the_error_code(tmp_path, flowers):
    def run(*flags):
        completed = run_convert(*flags)
        return completed.returncode, json.loads(completed.stdout.splitlines()[-1])

    code, last = run("--images", str(flowers), "--output-dir", str(tmp_path / "out"))
    assert (code, last["event"]) == (0, "step_result")
    assert read_manifest(tmp_path / "out").num_classes == 3
    code, last = run("--images", str(flowers))
    assert code == InvalidArgumentError.exit_code
    assert "output_dir" in last["problem"]
    code, last = run("--imges=x")
    assert code == InvalidArgumentError.exit_code
    assert "did you mean --images" in last["remedy"]


def test_component_writes_the_dataset_and_its_metadata(tmp_path, flowers):
    from kfp.dsl import Dataset

    from imgpipe.components.common.step import run_component

    dataset = Dataset(uri=str(tmp_path / "dataset"))
    run_component(
        "imgpipe.components.convert.component",
        "convert",
        {"dataset": dataset, "images": str(flowers), "seed": 3.0},
    )
    assert read_manifest(tmp_path / "dataset").made_by["seed"] == 3
    assert dataset.metadata == {
        "labels": 3,
        "train_examples": 13,
        "validation_examples": 3,
        "rejected_rows": 0,
        "reencoded_images": 0,
    }
