"""TFRecord files from other programs, validated without a manifest."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.errors import InvalidDataError, MissingInputError
from imgpipe.components.common.log import parse_event
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.validate.record_files import describe_record_files
from tests.components.records import encoded, write_records

REPOSITORY = Path(__file__).parents[3]


def photo(number):
    pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def write_files(folder, train, validation=(1, 2)):
    for name, labels, start in (("train-0", train, 0), ("validation-0", validation, 500)):
        write_records(
            folder / name, [ImageRecord(photo(number), label) for number, label in enumerate(labels, start)]
        )
    return {"train": f"{folder}/train-*", "validation": f"{folder}/validation-*"}


def run(*flags):
    command = [sys.executable, "-m", "imgpipe.components.validate", *flags]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return result.returncode, parse_event(result.stdout.splitlines()[-1])


def test_labels_and_counts_are_found_by_reading(tmp_path):
    patterns = write_files(tmp_path, (1, 2, 2, 3, 0, -5, 2**40))
    manifest = describe_record_files(patterns, "", 0)
    assert manifest.labels == ("1", "2", "3")
    assert manifest.splits["train"].images_per_label == (1, 2, 1)
    assert manifest.splits["train"].examples == 7
    assert describe_record_files(patterns, "", 4).labels == ("1", "2", "3", "4")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    assert describe_record_files(patterns, str(tmp_path / "labels.txt"), 0).labels == ("a", "b", "c")


def test_a_pattern_without_matches_lists_the_files_found(tmp_path):
    patterns = write_files(tmp_path, (1, 2))
    with pytest.raises(MissingInputError, match="contains: train-0, validation-0"):
        describe_record_files({**patterns, "train": f"{tmp_path}/train-*.tfrecord"}, "", 0)


def test_all_problems_of_record_files_are_reported_together(tmp_path):
    write_files(tmp_path, (1, 2, 4, 0, 1, 2))
    whole = (tmp_path / "train-0").read_bytes()
    (tmp_path / "train-1").write_bytes(whole[:-3])
    code, last = run(
        f"--training_data_path={tmp_path}/train-*",
        f"--validation_data_path={tmp_path}/validation-*",
        "--train_batch_size=64",
        f"--report={tmp_path / 'r.html'}",
        f"--summary={tmp_path / 's.json'}",
    )
    assert code == InvalidDataError.exit_code
    kinds = {finding["kind"] for finding in json.loads((tmp_path / "s.json").read_text())["findings"]}
    assert kinds >= {"damaged_record", "label_out_of_range", "label_without_training", "train_batch_size"}
    assert "train-1, record 5" in last["problem"]
    assert "train-0, record 3" in last["problem"]


def test_a_damaged_record_is_the_only_finding(tmp_path):
    write_files(tmp_path, (1, 2) * 12, (1, 2))
    content = bytearray((tmp_path / "train-0").read_bytes())
    content[200] ^= 1
    (tmp_path / "train-0").write_bytes(content)
    code, _ = run(
        f"--training_data_path={tmp_path}/train-*",
        f"--validation_data_path={tmp_path}/validation-*",
        "--train_batch_size=4",
        f"--report={tmp_path / 'r.html'}",
        f"--summary={tmp_path / 's.json'}",
    )
    assert code == InvalidDataError.exit_code
    (finding,) = json.loads((tmp_path / "s.json").read_text())["findings"]
    assert finding["kind"] == "damaged_record"
    assert "train-0, record 0" in finding["where"]


def test_a_data_set_in_a_bucket_is_validated(tmp_path, cloud):
    folder = tmp_path / "images"
    for number in range(20):
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number % 19))
    convert(ConvertArguments(images=str(folder)), "gs://photos/data")
    code, last = run(
        "--dataset=gs://photos/data",
        "--train_batch_size=4",
        f"--report={tmp_path / 'r.html'}",
        f"--summary={tmp_path / 's.json'}",
    )
    assert code == 0
    assert last["examples"]["train"] + last["examples"]["validation"] == 20
    findings = json.loads((tmp_path / "s.json").read_text())["findings"]
    assert [finding["problem"] for finding in findings if finding["kind"] == "image_with_two_labels"] == [
        "the same image is labeled 'a' and 'b'"
    ]
