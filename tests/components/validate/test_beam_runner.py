"""Validating with Beam gives the files and errors of validating on one machine."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import imgpipe.errors  # noqa: F401 - changes the module that the classes of errors name
from imgpipe.components.common.beam import RunnerArguments
from imgpipe.components.common.dataset import read_manifest
from imgpipe.components.common.errors import (
    InternalError,
    InterruptedRunError,
    InvalidArgumentError,
    OutputError,
)
from imgpipe.components.common.log import parse_event
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.validate import beam_runner
from imgpipe.components.validate.arguments import ValidateArguments
from imgpipe.components.validate.validate import validate
from tests.components.convert.conversions import REPOSITORY
from tests.components.records import encoded, write_dataset

pytest.importorskip("apache_beam")
ARGUMENTS = ValidateArguments(train_batch_size=8, image_size=16)
IN_MEMORY = "--direct_running_mode=in_memory --direct_num_workers=1"


def jpeg(number):
    image = Image.new("RGB", (20 + number % 7, 16), (number * 37 % 256, number * 91 % 256, number % 256))
    image.putpixel((number % 20, number // 20 % 16), (255, 255, 255))
    return encoded(image, quality=95)


def record(number, label, *, content=None, text=""):
    return ImageRecord(content or jpeg(number), label, text, f"image-{number}.jpg")


def damage(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def write_faulty_dataset(folder):
    """Writes shards with every kind of fault."""
    good = [[record(10 * shard + number, 1 + number % 2) for number in range(10)] for shard in range(6)]
    undecodable = [record(90 + number, 1, content=jpeg(3)[:-40]) for number in range(15)]
    unknown = [record(120 + number, 9, text="lilies") for number in range(15)]
    repeated = [record(200 + number, 1 + number % 2, content=jpeg(0)) for number in range(9)]
    splits = {
        "train": [
            [*good[0], *undecodable, *unknown],
            [*good[1], b"not an example", *undecodable, record(150, 2, text="other name")],
            [],
            [*good[2], *unknown, *repeated],
            good[3],
            good[4],
        ],
        "validation": [[*repeated, *good[5], record(160, 1, content=jpeg(11))], [record(161, 2)]],
    }
    write_dataset(folder, splits, ("daisy", "roses"))
    damage(folder / "train-00003-of-00006", 200)
    damage(folder / "train-00004-of-00006", 3)
    (folder / "train-00005-of-00006").unlink()


def run_validate(tmp_path, name, *flags):
    """Returns exit code, last line of the log, and the content of both files."""
    files = [tmp_path / f"{name}.html", tmp_path / f"{name}.json"]
    flags = [*flags, "--train_batch_size=8", "--image_size=16"]
    flags += [f"--report={files[0]}", f"--summary={files[1]}"]
    completed = subprocess.run(
        [sys.executable, "-m", "imgpipe.components.validate", *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    contents = [path.read_bytes() if path.exists() else None for path in files]
    return completed.returncode, parse_event(completed.stdout.splitlines()[-1]), contents


def in_beam(work, options=IN_MEMORY):
    return beam_runner.beam_reader(RunnerArguments("DirectRunner", runner_options=options), str(work))


def test_a_data_set_with_every_kind_of_fault_gives_the_same_files_error_and_exit_code(tmp_path):
    write_faulty_dataset(tmp_path / "data")
    flags = [f"--dataset={tmp_path / 'data'}"]
    code, error, (page, summary) = run_validate(tmp_path, "local", *flags)
    beam_code, beam_error, files = run_validate(
        tmp_path, "beam", *flags, "--runner=DirectRunner", f"--work_dir={tmp_path / 'work'}"
    )
    assert (beam_code, files) == (code, [page, summary])
    assert beam_error["problem"] == error["problem"]
    assert beam_error["remedy"] == error["remedy"].replace("local.html", "beam.html")
    for kind in (
        b"undecodable_image",
        b"label_out_of_range",
        b"damaged_record",
        b"missing_shard",
        b"changed_shard",
        b"invalid_record",
        b"image_in_two_splits",
        b"image_with_two_labels",
        b"label_name",
    ):
        assert kind in summary
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("multi_label", [False, True])
def test_findings_are_the_same_with_more_than_are_kept(tmp_path, monkeypatch, multi_label):
    for module in (beam_runner.compare_images.__module__, "imgpipe.components.validate.findings"):
        monkeypatch.setattr(sys.modules[module], "MAX_KEPT_PER_KIND", 3)

    def labeled(number, image):
        labels = ((1,), (1, 2), (2,))[number % 3]
        content = jpeg(image)
        if multi_label:
            return ImageRecord(content, labels=labels, texts=("a", "b")[: len(labels)])
        return ImageRecord(content, labels[0])

    splits = {
        "train": [[labeled(number, number % 9) for number in range(s, s + 12)] for s in range(3)],
        "validation": [[labeled(number, number % 7) for number in range(s, s + 9)] for s in range(2)],
    }
    folder = write_dataset(tmp_path / "data", splits, ("a", "b"), multi_label=multi_label)
    manifest = read_manifest(folder)
    local = validate(manifest, folder, ARGUMENTS)
    assert validate(manifest, folder, ARGUMENTS, read=in_beam(tmp_path / "work")) == local
    assert max(local.kinds.values()) > 3


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (InterruptedRunError("the store is gone", remedy="retry later"), InterruptedRunError, "retry later"),
        (RuntimeError("the worker was lost"), InternalError, "the worker was lost"),
        (OutputError("its disk is full"), InternalError, "its disk is full"),
    ],
)
def test_an_error_of_a_worker_is_retried_only_if_that_can_help_and_leaves_no_files(
    tmp_path, monkeypatch, error, expected, text
):
    folder = write_dataset(tmp_path / "data", {"train": [record(0, 1)], "validation": []}, ("a", "b"))

    def fail(*_):
        raise error

    monkeypatch.setattr(beam_runner, "read_shard_to_file", fail)
    with pytest.raises(expected, match=f"{text}[\\s\\S]*run the same command again"):
        in_beam(tmp_path / "work")(read_manifest(folder), folder, 10**6)
    assert list(Path(tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--dataset=x", "--runner=DirectRunner"], "without --work_dir"),
        (["--dataset=x", "--work_dir=y"], "without --runner"),
        (["--dataset=x", "--runner_options=--x=1"], "without --runner"),
        (
            ["--training_data_path=a", "--validation_data_path=b", "--runner=DirectRunner", "--work_dir=y"],
            "requires --dataset",
        ),
        (["--dataset=x", "--runner=DirctRunner", "--work_dir=y"], "DirctRunner"),
    ],
)
def test_wrong_combinations_are_rejected_before_anything_is_read(tmp_path, flags, problem):
    code, event, files = run_validate(tmp_path, "none", *flags)
    assert code == InvalidArgumentError.exit_code
    assert problem in event["problem"]
    assert files == [None, None]
