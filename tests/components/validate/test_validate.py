"""The validate step: its findings, its report and its command line."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from imgpipe.components.common.dataset import Manifest, read_manifest
from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, MissingInputError
from imgpipe.components.common.records import ImageRecord, encode_example
from imgpipe.components.common.step import run_component
from imgpipe.components.common.tfrecord import read_record_blocks
from imgpipe.components.validate import equal_images
from imgpipe.components.validate import findings as findings_module
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.components.validate.findings import (
    ERROR,
    WARNING,
    Finding,
    Findings,
    findings_json,
    raise_if_errors,
)
from imgpipe.components.validate.report import validation_report
from imgpipe.components.validate.validate import validate, validate_to_files
from tests.components.records import encoded
from tests.components.records import write_dataset as write_shards

ARGUMENTS = ValidateArguments(train_batch_size=8, image_size=16)
LABELS = ("daisy", "roses")


def jpeg(number: int, *, width: int = 24, height: int = 16) -> bytes:
    """Returns a small JPEG file whose content depends on the number."""
    image = Image.new("RGB", (width, height), (number * 37 % 256, number * 91 % 256, number % 256))
    image.putpixel((number % width, number // width % height), (255, 255, 255))
    return encoded(image, quality=95)


def record(number: int, label: int, *, encoded: bytes | None = None, text: str = "") -> ImageRecord:
    return ImageRecord(jpeg(number) if encoded is None else encoded, label, text, f"image-{number}.jpg")


def records(first: int, per_label: Sequence[int]) -> list[ImageRecord]:
    """Returns ``per_label[0]`` records of label 1 and so on, all with different images."""
    labels = [label for label, images in enumerate(per_label, start=1) for _ in range(images)]
    return [record(number, label) for number, label in enumerate(labels, start=first)]


def write_dataset(
    folder: Path,
    splits: Mapping[str, Sequence[Sequence[ImageRecord | bytes]]],
    labels: Sequence[str] = LABELS,
) -> Manifest:
    return read_manifest(write_shards(folder, splits, labels))


@pytest.fixture
def valid_dataset(tmp_path: Path) -> Callable[..., Manifest]:
    """Writes a data set without findings, plus the given records."""

    def write(
        train: Sequence[ImageRecord | bytes] = (), validation: Sequence[ImageRecord | bytes] = ()
    ) -> Manifest:
        return write_dataset(
            tmp_path,
            {
                "train": [records(0, (10, 10)), [*records(100, (2, 2)), *train]],
                "validation": [[*records(200, (3, 3)), *validation]],
            },
        )

    return write


def findings_of(manifest: Manifest, folder: Path, **arguments: int) -> Findings:
    return validate(
        manifest, folder, ValidateArguments(**{"train_batch_size": 8, "image_size": 16, **arguments})
    )


def single(findings: Findings, kind: str, severity: str) -> Finding:
    """Returns the only finding, which must be of this kind."""
    assert [(finding.kind, finding.severity) for finding in findings.findings] == [(kind, severity)]
    assert findings.findings[0].remedy
    return findings.findings[0]


def kinds(findings: Findings) -> list[str]:
    return [finding.kind for finding in findings.findings]


IMAGE = Image.new("RGB", (20, 12), (200, 30, 60))


def encoded_as(image_format: str, image: Image.Image = IMAGE, **options: object) -> bytes:
    return encoded(image, image_format, **options)


def test_valid_data_has_no_findings(valid_dataset, tmp_path):
    findings = findings_of(valid_dataset(), tmp_path)
    assert findings.findings == ()
    assert findings.counts == {"train": (12, 12), "validation": (3, 3)}
    assert findings.formats == {"JPEG": 30}


def test_image_sizes_are_measured(tmp_path):
    sizes = ((10, 700), (20, 60), (30, 50), (40, 40))
    train = [
        ImageRecord(jpeg(number, width=width, height=height), 1 + number % 2)
        for number, (width, height) in enumerate(sizes)
    ]
    manifest = write_dataset(tmp_path, {"train": [train], "validation": []})
    found = findings_of(manifest, tmp_path, train_batch_size=1).sizes
    assert (found.width.minimum, found.width.median, found.width.maximum) == (10, 20, 40)
    assert (found.height.minimum, found.height.median, found.height.maximum) == (40, 50, 700)
    assert {
        (bucket.minimum, bucket.maximum): bucket.images for bucket in found.shorter_side if bucket.images
    } == {
        (0, 31): 3,
        (32, 63): 1,
    }


def test_six_samples_of_each_label_are_kept_small(valid_dataset, tmp_path):
    samples = findings_of(valid_dataset(), tmp_path).samples
    assert [len(thumbnails) for thumbnails in samples] == [6, 6]
    assert all(
        thumbnail.source.startswith("data:image/jpeg;base64,")
        for thumbnails in samples
        for thumbnail in thumbnails
    )
    assert samples[0][0].title == "train-00000-of-00002, record 0 (image-0.jpg)"


TRANSPARENT_WEBP = encoded_as("WEBP", Image.new("RGBA", (20, 12), (200, 30, 60, 90)), lossless=True)


@pytest.mark.parametrize(
    ("encoded", "kind", "severity", "problem"),
    [
        (jpeg(7)[:-40], "undecodable_image", ERROR, "cannot be decoded: undecodable JPEG"),
        (jpeg(7)[:-2] + bytes(200) + jpeg(7)[-2:], "damaged_image", WARNING, "damaged but decodable"),
        (encoded_as("GIF"), "unusual_image", WARNING, "GIF"),
        (encoded_as("PNG", IMAGE.convert("RGBA")), "unusual_image", WARNING, "transparency"),
        (encoded_as("WEBP"), "unusual_image", WARNING, "WebP"),
        (encoded_as("BMP"), "unusual_image", WARNING, "BMP"),
        (encoded_as("BMP", IMAGE.convert("1")), "unsupported_image", ERROR, "cannot decode"),
        (
            encoded_as("WEBP", IMAGE.convert("RGBA"), lossless=True, exact=True),
            "unusual_image",
            WARNING,
            "WebP",
        ),
        (TRANSPARENT_WEBP, "unsupported_image", ERROR, "transparency"),
    ],
    ids=[
        *("truncated jpeg", "damaged jpeg", "gif", "transparent png", "webp", "bmp", "1-bit bmp"),
        *("opaque rgba webp", "transparent webp"),
    ],
)
def test_an_image_that_training_cannot_use_as_it_is_is_named(
    encoded, kind, severity, problem, valid_dataset, tmp_path
):
    findings = findings_of(valid_dataset(train=[record(7, 1, encoded=encoded)]), tmp_path)
    finding = single(findings, kind, severity)
    assert problem in finding.problem
    assert finding.where == "train-00001-of-00002, record 4 (image-7.jpg)"


@pytest.mark.parametrize("label", [0, 3, -1])
def test_label_out_of_range_is_named(label, valid_dataset, tmp_path):
    finding = single(
        findings_of(valid_dataset(train=[record(77, label)]), tmp_path), "label_out_of_range", ERROR
    )
    assert finding.problem == f"label {label} is not in 1..2 ('daisy' to 'roses')"
    assert finding.where == "train-00001-of-00002, record 4 (image-77.jpg)"


def test_a_wrong_label_is_shown_with_its_name_and_thumbnail(valid_dataset, tmp_path):
    wrong = [ImageRecord(jpeg(77 + number), 3, "tulips") for number in range(30)]
    findings = findings_of(valid_dataset(train=wrong), tmp_path)
    found = [finding for finding in findings.findings if finding.kind == "label_out_of_range"]
    assert (
        found[0].problem == "label 3 is not in 1..2 ('daisy' to 'roses'); its name in the record is 'tulips'"
    )
    assert [bool(finding.thumbnails) for finding in found] == [True] * 20 + [False] * 10
    assert found[0].thumbnails[0].captions == ("label 3",)
    assert found[0].thumbnails[0].source in validation_report(findings)


@pytest.mark.parametrize(
    ("image_size", "kind", "problem"),
    [
        (
            65,
            "image_far_smaller",
            ["30 of 30 images", "1/4 of the training size of 65 pixels", "24 x 16", "record 0 (image-0.jpg)"],
        ),
        (64, None, []),
        (2, None, []),
        (1, "image_far_larger", ["30 of 30", "8 times the training size of 1 pixel", "24 x 16"]),
    ],
)
def test_image_sizes_far_from_the_training_size_are_a_warning(
    image_size, kind, problem, valid_dataset, tmp_path
):
    findings = findings_of(valid_dataset(), tmp_path, image_size=image_size)
    if kind is None:
        assert findings.findings == ()
        return
    finding = single(findings, kind, WARNING)
    for part in problem:
        assert part in finding.problem


def test_the_default_training_size_is_the_networks(tmp_path):
    train, validation = (
        [
            record(first + number, 1 + number % 2, encoded=jpeg(first + number, width=100, height=100))
            for number in range(24)
        ]
        for first in (0, 100)
    )
    manifest = write_dataset(tmp_path, {"train": [train], "validation": [validation]})
    small = findings_of(manifest, tmp_path, image_size=0, model_type="efficientnet-b0")
    assert small.findings == ()
    large = findings_of(manifest, tmp_path, image_size=0, model_type="efficientnet-b7")
    assert "1/4 of the training size of 600 pixels" in single(large, "image_far_smaller", WARNING).problem


def test_the_error_names_some_of_every_kind(valid_dataset, tmp_path):
    damaged = [record(number, 1, encoded=b"no image") for number in range(30)]
    with pytest.raises(InvalidDataError) as caught:
        raise_if_errors(
            findings_of(valid_dataset(train=[*damaged, record(99, 7)]), tmp_path), Path("report.html")
        )
    assert "31 errors were found" in str(caught.value)
    assert caught.value.remedy == "fix them; all are listed in report.html"
    assert "label 7 is not in 1..2" in str(caught.value)
    assert "and 25 more; by kind: 30 undecodable_image, 1 label_out_of_range" in str(caught.value)


def test_an_image_of_too_many_pixels_is_an_error_unless_the_limit_is_raised(valid_dataset, tmp_path):
    manifest = valid_dataset(train=[ImageRecord(jpeg(77, width=40, height=40), 1, "daisy")])
    finding = single(findings_of(manifest, tmp_path, max_image_pixels=1599), "undecodable_image", ERROR)
    assert "40 x 40 pixels, more than max_image_pixels=1,599" in finding.problem
    assert findings_of(manifest, tmp_path, max_image_pixels=1600).findings == ()


def test_reading_continues_after_invalid_records(tmp_path):
    broken = encode_example(record(7, 1)).replace(b"image/class/label", b"image/class/lavel")
    manifest = write_dataset(
        tmp_path,
        {"train": [[b"no example", broken, *records(0, (10, 10))]], "validation": [records(50, (1, 1))]},
    )
    findings = findings_of(manifest, tmp_path)
    assert kinds(findings) == ["invalid_record", "invalid_record"]
    assert findings.findings[0].where == "train-00000-of-00001, record 0"
    assert "'image/class/label' is missing" in findings.findings[1].problem
    assert findings.counts["train"] == (10, 10)


def damage(path, offset, bit=0):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


def test_a_damaged_record_is_reported_and_the_records_after_it_are_read(valid_dataset, tmp_path):
    manifest = valid_dataset()
    path = tmp_path / "train-00000-of-00002"
    records = sum(shard.examples for shard in manifest.splits["train"].shards)
    damage(path, len(path.read_bytes()) // 2)
    damage(path, len(path.read_bytes()) - 10)
    findings = findings_of(manifest, tmp_path, train_batch_size=24)
    assert kinds(findings) == ["damaged_record", "damaged_record", "changed_shard"]
    finding = findings.findings[0]
    assert finding.where.startswith("train-00000-of-00002, record 9, byte offset ")
    assert "does not match its checksum" in finding.problem
    assert sum(findings.counts["train"]) == records - 2
    assert sum(findings.counts["validation"]) == 6


def test_a_damaged_header_ends_its_shard_only_and_causes_no_further_findings(valid_dataset, tmp_path):
    manifest = valid_dataset()
    path = tmp_path / "train-00000-of-00002"
    places = [place for block in read_record_blocks(path) for place in block.locations]
    damage(path, places[9].offset + 3)
    findings = findings_of(manifest, tmp_path, train_batch_size=24)
    assert kinds(findings) == ["damaged_record", "changed_shard"]
    finding = findings.findings[0]
    assert finding.where.startswith("train-00000-of-00002, record 9, byte offset ")
    assert "the records after it were not read" in finding.problem
    assert findings.counts["train"] == (9 + 2, 2)
    assert sum(findings.counts["validation"]) == 6


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damaged_byte_of_a_shard_is_found(valid_dataset, tmp_path, data):
    manifest = valid_dataset()
    path = tmp_path / "validation-00000-of-00001"
    damage(path, data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(0, 7)))
    findings = findings_of(manifest, tmp_path)
    assert kinds(findings) == ["damaged_record", "changed_shard"]
    assert "(the size matches)" in findings.findings[1].problem
    assert "Some records could not be read" in validation_report(findings)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_record_content_ends_the_step(valid_dataset, tmp_path, data):
    content = bytearray(encode_example(record(77, 1)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    findings = findings_of(valid_dataset(train=[bytes(content)]), tmp_path)
    assert sum(findings.counts["validation"]) == 6


def test_shard_that_was_cut_off_is_found(valid_dataset, tmp_path):
    manifest = valid_dataset()
    path = tmp_path / "validation-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-5])
    assert kinds(findings_of(manifest, tmp_path)) == ["damaged_record", "changed_shard"]


def test_shard_that_lost_whole_records_is_found(valid_dataset, tmp_path):
    manifest = valid_dataset()
    path = tmp_path / "validation-00000-of-00001"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(encode_example(record(200, 1))) + 16])
    findings = findings_of(manifest, tmp_path)
    assert set(kinds(findings)) == {"shard_count", "changed_shard", "label_count", "label_without_validation"}
    assert "the manifest lists 6 records, the file has 1" in findings.findings[0].problem


def test_shard_that_was_replaced_by_another_is_found(valid_dataset, tmp_path):
    manifest = valid_dataset()
    write_dataset(tmp_path, {"validation": [records(300, (3, 3))]})
    finding = single(findings_of(manifest, tmp_path), "changed_shard", ERROR)
    assert finding.where == "validation-00000-of-00001"


def test_missing_shard_is_named(valid_dataset, tmp_path):
    manifest = valid_dataset()
    (tmp_path / "train-00000-of-00002").unlink()
    finding = single(findings_of(manifest, tmp_path), "missing_shard", ERROR)
    assert finding.where == "train-00000-of-00002"


def test_counts_that_differ_from_the_manifest_are_found(tmp_path):
    manifest = write_dataset(tmp_path, {"train": [records(0, (12, 10))], "validation": [records(50, (2, 2))]})
    text = (tmp_path / "manifest.json").read_text().replace("12,", "11,").replace("10\n", "11\n")
    (tmp_path / "manifest.json").write_text(text)
    assert read_manifest(tmp_path).splits["train"].images_per_label == (11, 11) != manifest.splits
    findings = findings_of(read_manifest(tmp_path), tmp_path)
    assert [finding.problem for finding in findings.findings] == [
        "the manifest lists 11 images of 'daisy' in train, the shards contain 12",
        "the manifest lists 11 images of 'roses' in train, the shards contain 10",
    ]


@pytest.mark.parametrize(
    ("name", "value", "allowed", "problem"),
    [
        ("num_classes", 3, [2, 0], "the data has 2 labels (daisy, roses), but num_classes is 3"),
        ("train_batch_size", 25, [24], "train_batch_size is 25, but there are only 24 training images"),
        ("num_eval_images", 7, [6], "num_eval_images is 7, but there are only 6 validation images"),
    ],
)
def test_an_argument_that_does_not_fit_the_data_is_an_error(
    name, value, allowed, problem, valid_dataset, tmp_path
):
    manifest = valid_dataset()
    finding = single(findings_of(manifest, tmp_path, **{name: value}), name, ERROR)
    assert finding.problem == problem
    assert f"set {name} to " in finding.remedy
    for fitting in allowed:
        assert not findings_of(manifest, tmp_path, **{name: fitting}).findings


def test_label_without_training_image_is_an_error(tmp_path):
    manifest = write_dataset(tmp_path, {"train": [records(0, (12, 0))], "validation": [records(50, (2, 2))]})
    finding = single(findings_of(manifest, tmp_path), "label_without_training", ERROR)
    assert finding.problem == "label 2 ('roses') has no training images"
    assert finding.where.startswith(
        "the first one in validation: validation-00000-of-00001, record 2 (image-"
    )


@pytest.mark.parametrize(
    ("train", "validation", "kind", "problem"),
    [
        ((12, 9), (2, 2), "few_training_images", "label 'roses' has 9 training images, fewer than 10"),
        ((12, 12), (2, 0), "label_without_validation", "label 'roses' has no validation images"),
        ((111, 11), (2, 2), "imbalance", "label 'daisy' has 111 training images, 'roses' has 11"),
        ((100, 10), (2, 2), None, ""),
    ],
)
def test_doubtful_numbers_of_images_are_a_warning(train, validation, kind, problem, tmp_path):
    manifest = write_dataset(
        tmp_path, {"train": [records(0, train)], "validation": [records(900, validation)]}
    )
    findings = findings_of(manifest, tmp_path)
    if kind is None:
        assert findings.findings == ()
    else:
        assert single(findings, kind, WARNING).problem.startswith(problem)


@pytest.mark.parametrize(("split", "word"), [("validation", "validation"), ("train", "training")])
@pytest.mark.parametrize("named", [True, False])
def test_empty_split_is_one_error(split, word, named, tmp_path):
    splits = {"train": [records(0, (12, 12))], "validation": [records(50, (2, 2))]}
    if named:
        splits[split] = []
    else:
        del splits[split]
    finding = single(
        findings_of(write_dataset(tmp_path, splits), tmp_path, num_eval_images=1), "empty_split", ERROR
    )
    assert finding.problem == f"there are no {word} images"


def test_a_single_label_is_an_error_as_it_is_in_training(tmp_path):
    manifest = write_dataset(
        tmp_path, {"train": [records(0, (12,))], "validation": [records(900, (2,))]}, labels=("daisy",)
    )
    single(findings_of(manifest, tmp_path), "single_label", ERROR)


def test_names_in_the_records_that_contradict_the_labels_are_a_warning(valid_dataset, tmp_path):
    manifest = valid_dataset(
        train=[record(77, 1, text="roses"), record(78, 1, text="tulips"), record(79, 2, text="roses")]
    )
    finding = single(findings_of(manifest, tmp_path), "label_name", WARNING)
    assert finding.problem == (
        "label 1 is 'daisy', but 2 records with this label have another name; the first one has 'roses'"
    )
    assert finding.where == "train-00001-of-00002, record 4 (image-77.jpg)"


def test_image_in_train_and_validation_is_named_as_a_pair(valid_dataset, tmp_path):
    manifest = valid_dataset(validation=[record(7, 1, encoded=jpeg(0)), record(8, 1, encoded=jpeg(0))])
    findings = findings_of(manifest, tmp_path)
    assert kinds(findings) == ["image_in_two_splits"] * 2
    assert findings.findings[0].severity == WARNING
    assert (
        findings.findings[0].problem
        == "the same image is in train and validation: 'image-0.jpg' and 'image-7.jpg'"
    )
    assert findings.findings[0].where == "train-00000-of-00002, record 0; validation-00000-of-00001, record 6"
    assert [thumbnail.captions for thumbnail in findings.findings[0].thumbnails] == [
        ("train: daisy",),
        ("validation: daisy",),
    ]


def test_image_under_two_labels_is_named_with_both(valid_dataset, tmp_path):
    findings = findings_of(valid_dataset(train=[record(7, 2, encoded=jpeg(0))]), tmp_path)
    finding = single(findings, "image_with_two_labels", WARNING)
    assert finding.problem == "the same image is labeled 'daisy' and 'roses'"
    assert finding.where == (
        "train-00000-of-00002, record 0, 'image-0.jpg', is 'daisy'; "
        "train-00001-of-00002, record 4, 'image-7.jpg', is 'roses'"
    )


def test_image_may_be_repeated_within_a_split_and_label(valid_dataset, tmp_path):
    assert not findings_of(valid_dataset(train=[record(7, 1, encoded=jpeg(0))]), tmp_path).findings


def test_more_leaks_and_contradictions_than_are_named_are_counted(tmp_path, monkeypatch):
    for module in (findings_module, equal_images):
        monkeypatch.setattr(module, "MAX_KEPT_PER_KIND", 2)
    twice = [record(number, 1) for number in range(5)]
    manifest = write_dataset(
        tmp_path,
        {
            "train": [[*twice, *(record(number, 2) for number in range(10, 15))]],
            "validation": [twice + [record(number, 1) for number in range(10, 15)]],
        },
    )
    findings = findings_of(manifest, tmp_path)
    assert findings.kinds["image_in_two_splits"] == 10
    assert findings.kinds["image_with_two_labels"] == 5
    assert [finding.where for finding in findings.findings if finding.kind == "image_in_two_splits"] == [
        f"train-00000-of-00001, record {number}; validation-00000-of-00001, record {number}"
        for number in range(2)
    ]


def test_equal_images_are_found_after_an_empty_shard_too(tmp_path):
    manifest = write_dataset(
        tmp_path,
        {
            "train": [records(0, (10, 10)), []],
            "validation": [[], [record(7, 1, encoded=jpeg(3)), record(9, 2)]],
        },
    )
    findings = findings_of(manifest, tmp_path).findings
    finding = next(finding for finding in findings if finding.kind == "image_in_two_splits")
    assert finding.where == "train-00000-of-00002, record 3; validation-00001-of-00002, record 0"


def test_every_finding_is_reported_and_errors_come_first(tmp_path):
    manifest = write_dataset(
        tmp_path,
        {"train": [[record(0, 1), record(1, 9), record(2, 1, encoded=b"")]], "validation": [[record(0, 1)]]},
    )
    findings = findings_of(manifest, tmp_path, num_classes=7, num_eval_images=5, train_batch_size=6)
    assert set(kinds(findings)) == {
        "label_out_of_range",
        "undecodable_image",
        "num_classes",
        "num_eval_images",
        "train_batch_size",
        "label_without_training",
        "few_training_images",
        "image_in_two_splits",
    }
    severities = [finding.severity for finding in findings.findings]
    assert severities == sorted(severities)


def test_equal_data_gives_equal_json_in_any_folder(tmp_path):
    texts = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        manifest = write_dataset(
            folder, {"train": [[record(0, 1), record(1, 9), b"x"]], "validation": [[record(0, 1)]]}
        )
        texts.append(json.dumps(findings_json(findings_of(manifest, folder))))
    assert texts[0] == texts[1]


def validate_folder(folder: Path, arguments: ValidateArguments = ARGUMENTS) -> None:
    report, summary = folder / "report.html", folder / "summary.json"
    validate_to_files(read_manifest(folder), folder, report, summary, arguments)


def test_report_and_summary_are_written_before_one_error_lists_all(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    wrong = [record(number, 9) for number in range(25)]
    write_dataset(data, {"train": [records(100, (10, 10)) + wrong], "validation": [records(200, (2, 2))]})
    report, summary = tmp_path / "new" / "report", tmp_path / "new" / "summary"
    with pytest.raises(InvalidDataError) as raised:
        validate_to_files(read_manifest(data), data, report, summary, ARGUMENTS)
    text = str(raised.value)
    assert text.startswith(
        "25 errors were found:\n1. label 9 is not in 1..2 ('daisy' to 'roses') (train-00000-of-00001, record"
    )
    assert text.count("label 9 is not in") == 10
    assert "and 15 more" in text
    assert str(report) in raised.value.remedy
    assert "what to do: correct the label" in text
    assert len(json.loads(summary.read_text())["findings"]) == 25
    assert json.loads(summary.read_text())["errors"] == 25
    assert "label 9 is not in 1..2" in report.read_text()
    logged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(line["event"] == "finding" for line in logged) == 20
    more = next(line for line in logged if line["event"] == "findings_not_logged")
    assert more["count"] == 5
    assert "5 more findings" in more["message"]


def test_errors_about_arguments_alone_are_an_argument_error(valid_dataset, tmp_path):
    valid_dataset()
    with pytest.raises(
        InvalidArgumentError, match=r"(?s)2 errors.*num_classes is 3.*train_batch_size is 100"
    ):
        validate_folder(tmp_path, ValidateArguments(num_classes=3, train_batch_size=100))


def test_single_error_is_raised_as_it_is(valid_dataset, tmp_path):
    valid_dataset()
    with pytest.raises(InvalidArgumentError) as raised:
        validate_folder(tmp_path, ValidateArguments(num_classes=3, train_batch_size=8))
    assert raised.value.problem == "the data has 2 labels (daisy, roses), but num_classes is 3"


def test_warnings_do_not_fail_the_step(tmp_path):
    write_dataset(tmp_path, {"train": [records(0, (12, 9))], "validation": [records(50, (2, 2))]})
    validate_folder(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["errors"], summary["warnings"]) == (0, 1)
    assert summary["images_per_label"]["train"] == {"daisy": 12, "roses": 9}


def test_labels_and_file_names_are_shown_as_text(tmp_path):
    evil = "<script>alert(1)</script>"
    train = [*records(0, (10, 10)), ImageRecord(b"", 1, filename=evil)]
    write_dataset(tmp_path, {"train": [train], "validation": [records(50, (1, 1))]}, labels=(evil, "b"))
    with pytest.raises(InvalidDataError):
        validate_folder(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<script") == 1
    assert page.replace("<wbr>", "").count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3


def page_of(findings):
    """Returns the report's text without tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", validation_report(findings).replace("<wbr>", "")).split())


def test_the_findings_of_one_kind_are_one_row_with_their_number(valid_dataset, tmp_path):
    wrong = [ImageRecord(jpeg(77 + number), 3, "tulips") for number in range(30)]
    findings = findings_of(valid_dataset(train=wrong), tmp_path)
    page = validation_report(findings)
    assert page.count('<span class="badge error">error</span>') == 1
    assert "29 more findings of this kind" in page_of(findings)
    assert page.count("label 3 is not in 1..2") == 30


def test_the_report_counts_the_test_images_of_each_label(tmp_path):
    splits = {"train": [records(0, (12, 36))], "validation": [records(50, (4, 5))]}
    write_dataset(tmp_path, {**splits, "test": [records(100, (6, 7))]})
    # The file has the splits in alphabetical order.
    page = page_of(findings_of(read_manifest(tmp_path), tmp_path))
    assert "label train validation test daisy 12 4 6 roses 36 5 7" in page
    assert "3.0\N{MULTIPLICATION SIGN} most to fewest training images of a label" in page
    assert "roses has 36 training images, daisy has 12." in page


def test_the_report_lists_the_re_encoded_images(tmp_path):
    splits = {"train": [records(0, (10, 10))], "validation": [records(50, (2, 2))]}
    manifest = write_dataset(tmp_path, splits)
    entries = [{"path": f"a_{number}.tif", "reason": "TIFF"} for number in range(250)]
    manifest = dataclasses.replace(manifest, made_by={"reencoded": entries})
    page = page_of(findings_of(manifest, tmp_path))
    assert "250 images re-encoded" in page
    assert "the first 200 of 250" in page
    assert "a_0.tif TIFF a_1.tif TIFF" in page


def test_page_of_a_thousand_labels_stays_small(tmp_path):
    labels = [f"label {number}" for number in range(1000)]
    manifest = write_dataset(
        tmp_path, {"train": [records(0, [1] * 12)], "validation": [records(50, [1])]}, labels=labels
    )
    with pytest.raises(InvalidDataError):
        validate_folder(tmp_path)
    assert manifest.num_classes == 1000
    page = (tmp_path / "report.html").read_text()
    assert "200 of 1,000" in page
    assert len(page) < 300_000


def test_component_builds_its_arguments_from_flat_values_and_writes_its_artifacts(valid_dataset, tmp_path):
    dsl = pytest.importorskip("kfp.dsl")
    valid_dataset()
    run_component(
        "imgpipe.components.validate.component",
        "validate",
        {
            "dataset": dsl.Dataset(uri=str(tmp_path)),
            "report": dsl.HTML(uri=str(tmp_path / "report")),
            "summary": dsl.Artifact(uri=str(tmp_path / "summary")),
            "num_classes": 2,
            "train_batch_size": 8,
            "num_eval_images": 0,
        },
    )
    assert (tmp_path / "report").read_text().startswith("<!DOCTYPE html>")
    assert json.loads((tmp_path / "summary").read_text())["arguments"]["num_classes"] == 2


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_command_line_exit_codes_distinguish_data_errors_from_wrong_arguments(valid_dataset, tmp_path):
    valid_dataset()
    command = (
        "-m",
        "imgpipe.components.validate",
        f"--dataset={tmp_path}",
        f"--report={tmp_path / 'r'}",
        f"--summary={tmp_path / 's'}",
    )
    assert run(*command, "--train-batch-size=8").returncode == 0
    assert run(*command, "--train_batch_size=800").returncode == InvalidArgumentError.exit_code
    (tmp_path / "train-00000-of-00002").unlink()
    assert run(*command).returncode == InvalidDataError.exit_code
    (tmp_path / "manifest.json").unlink()
    assert run(*command).returncode == MissingInputError.exit_code
    assert run("-m", "imgpipe.components.validate").returncode == InvalidArgumentError.exit_code
