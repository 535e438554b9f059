"""Multi-label data sets: images have several labels, or none."""

import dataclasses
from pathlib import Path

import pytest

from imgpipe.components.common.dataset import read_manifest, write_manifest
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.components.validate.findings import ERROR, WARNING, findings_json, raise_if_errors
from imgpipe.components.validate.record_files import describe_record_files
from imgpipe.components.validate.report import validation_report
from imgpipe.components.validate.validate import validate
from tests.components.records import write_records

NAMES = ("cat", "dog")


@pytest.fixture
def record(encode):
    def make(number, labels, texts=None, image=None):
        seed = number if image is None else image
        pixels = [[[seed % 256, seed // 256, 9]] * 8] * 8
        texts = tuple(NAMES[label - 1] for label in labels) if texts is None else texts
        return ImageRecord(encode(pixels), labels=labels, texts=texts, filename=f"{number}.png")

    return make


@pytest.fixture
def write_valid(record, write_dataset, tmp_path):
    """Writes a valid data set, plus the given training records."""

    def write(*more):
        sets = [(1,), (2,), (1, 2), ()]
        train = [record(number, sets[number % 4]) for number in range(40)]
        validation = [record(100 + number, sets[number % 4]) for number in range(8)]
        splits = {"train": [*train, *more], "validation": validation}
        return write_dataset(tmp_path / "data", splits, NAMES, multi_label=True)

    return write


def findings_of(folder, **values):
    arguments = {"train_batch_size": 8, "image_size": 16, "multi_label": True, **values}
    return validate(read_manifest(folder), folder, ValidateArguments(**arguments))


def only(findings, kind, severity):
    assert [(finding.kind, finding.severity) for finding in findings.findings] == [(kind, severity)]
    return findings.findings[0]


def test_a_valid_data_set_has_no_findings_and_separate_counts_of_images_and_labels(write_valid):
    findings = findings_of(write_valid())
    assert findings.findings == ()
    summary = findings_json(findings)
    assert summary["examples"] == {"train": 40, "validation": 8}
    assert summary["images_per_label"]["train"] == {"cat": 20, "dog": 20}
    page = validation_report(findings)
    assert "An image is counted once for each of its labels" in page
    assert ">48<" in page.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("label", [0, 3])
def test_a_label_out_of_range_is_found_among_others(write_valid, record, label):
    labels = tuple(sorted((label, 1)))
    finding = only(findings_of(write_valid(record(50, labels, ()))), "label_out_of_range", ERROR)
    assert finding.problem.startswith(f"label {label} is not in 1..2")
    assert "50.png" in finding.where


def test_labels_that_do_not_ascend_are_an_invalid_record(write_valid, record):
    finding = only(findings_of(write_valid(record(50, (2, 1)))), "invalid_record", ERROR)
    assert "[2, 1] are not ascending and distinct" in finding.problem


def test_a_wrong_name_is_reported_for_its_own_label(write_valid, record):
    finding = only(findings_of(write_valid(record(50, (1, 2), ("cat", "cow")))), "label_name", WARNING)
    assert finding.problem == (
        "label 2 is 'dog', but 1 record with this label has another name; the first one has 'cow'"
    )


def test_equal_images_with_different_sets_of_labels_are_named_with_both(write_valid, record):
    # Image 2 has both labels.
    finding = only(findings_of(write_valid(record(50, (1,), image=2))), "image_with_two_label_sets", WARNING)
    assert finding.problem == "the same image is labeled 'cat' and 'cat, dog'" or (
        finding.problem == "the same image is labeled 'cat, dog' and 'cat'"
    )
    assert "one row of the image, with all of its labels" in finding.remedy


def test_equal_images_with_the_same_labels_are_valid(write_valid, record):
    assert findings_of(write_valid(record(50, (1, 2), image=2))).findings == ()


def test_manifest_counts_are_checked_against_the_shards(write_valid):
    folder = write_valid()
    manifest = read_manifest(folder)
    train = dataclasses.replace(manifest.splits["train"], images_per_label=(20, 21))
    write_manifest(folder, dataclasses.replace(manifest, splits={**manifest.splits, "train": train}))
    finding = only(findings_of(folder), "label_count", ERROR)
    assert finding.problem == "the manifest lists 21 images of 'dog' in train, the shards contain 20"


def test_a_multi_label_argument_that_contradicts_the_data_is_rejected(
    write_valid, coloured_dataset, tmp_path
):
    findings = findings_of(write_valid(), multi_label=False)
    assert "multi-label" in only(findings, "multi_label", ERROR).problem
    with pytest.raises(InvalidArgumentError, match="set multi_label=true"):
        raise_if_errors(findings, Path("report.html"))
    findings = findings_of(coloured_dataset(tmp_path / "single"))
    with pytest.raises(InvalidArgumentError, match="set multi_label=false"):
        raise_if_errors(findings, Path("report.html"))


def test_the_batch_size_is_compared_with_images_not_labels(write_valid):
    finding = only(findings_of(write_valid(), train_batch_size=41), "train_batch_size", ERROR)
    assert "there are only 40 training images" in finding.problem


def test_record_files_are_described_with_all_labels(record, tmp_path):
    path = write_records(tmp_path / "train-0", [record(1, labels) for labels in ((1, 2), (), (2,))])
    manifest = describe_record_files({"train": str(path)}, "", 0, multi_label=True)
    assert manifest.multi_label
    assert manifest.splits["train"].examples == 3
    assert manifest.splits["train"].images_per_label == (1, 2)
