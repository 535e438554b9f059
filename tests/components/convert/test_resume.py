"""Conversions that are killed at any moment and started again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgpipe.components.common.dataset import MANIFEST_NAME
from imgpipe.components.common.errors import OutputError
from imgpipe.components.convert import shards
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert

REPOSITORY = Path(__file__).parents[3]
KILLS = 20


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def images(tmp_path, photo):
    """Forty images, of which some are encoded anew and one is damaged, for a dozen shards."""
    folder = tmp_path / "images"
    for number in range(40):
        path = photo(folder / "ab"[number % 2] / f"{number}.jpg", number)
        # Bytes behind the end of a JPEG belong to the file, and are no damage.
        path.write_bytes(path.read_bytes() + bytes(250_000))
    photo(folder / "a" / "x.bmp", 50, format="BMP")
    (folder / "b" / "damaged.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def arguments(images):
    return ConvertArguments(images=str(images), shard_megabytes=1, max_rejected_fraction=0.5)


def test_a_conversion_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path, images):
    convert(arguments(images), tmp_path / "undisturbed")
    expected = contents(tmp_path / "undisturbed")
    command = [
        sys.executable,
        "-m",
        "imgpipe.components.convert",
        f"--images={images}",
        "--shard_megabytes=1",
        "--max_rejected_fraction=0.5",
    ]

    def start(output):
        return subprocess.Popen(
            [*command, f"--output_dir={output}"],
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    chance = random.Random(7)  # noqa: S311
    killed = 0
    for number in range(KILLS):
        output = tmp_path / f"out-{number}"
        process = start(output)
        # From the moment at which it has begun, until about its end.
        begun = time.monotonic()
        while not output.exists() and process.poll() is None and time.monotonic() - begun < 30:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed += 1
        left = contents(output) if output.exists() else {}
        if MANIFEST_NAME in left:
            assert {name: left.get(name) for name in expected} == expected
        if process.returncode == 0:
            continue
        assert start(output).wait() == 0
        assert contents(output) == expected
    assert killed >= KILLS // 4


def test_what_is_finished_is_not_read_again(tmp_path, images, monkeypatch):
    output = tmp_path / "out"
    convert(arguments(images), tmp_path / "undisturbed")
    prepare, read = shards._prepare, []

    def prepare_row(row, *arguments):
        read.append(row.location)
        return prepare(row, *arguments)

    def prepare_twenty(row, *arguments):
        if len(read) == 20:
            raise KeyboardInterrupt
        return prepare_row(row, *arguments)

    monkeypatch.setattr(shards, "_prepare", prepare_twenty)
    with pytest.raises(KeyboardInterrupt):
        convert(arguments(images), output, threads=1)
    assert all(name.startswith(".") for name in os.listdir(output))
    finished = {path.name: path.stat().st_ino for path in output.rglob("train-*") if not path.suffix}
    assert finished
    first = set(read)
    read.clear()
    monkeypatch.setattr(shards, "_prepare", prepare_row)
    convert(arguments(images), output)
    assert contents(output) == contents(tmp_path / "undisturbed")
    assert {name: (output / name).stat().st_ino for name in finished} == finished
    assert len(read) < 42 - 4 * len(finished) + 4
    assert len(first & set(read)) < 20


def test_an_image_that_changed_meanwhile_is_read_again(tmp_path, images, photo, monkeypatch):
    output = tmp_path / "out"
    publish = "imgpipe.components.convert.convert.publish"
    with monkeypatch.context() as patched:
        patched.setattr(publish, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(arguments(images), output)
    changed = images / "a" / "0.jpg"
    size = changed.stat().st_size
    photo(changed, 77)
    changed.write_bytes(changed.read_bytes().ljust(size, b"\0")[:size])
    os.utime(changed, ns=(1, 1))
    manifest = convert(arguments(images), output)
    convert(arguments(images), tmp_path / "undisturbed")
    assert contents(output) == contents(tmp_path / "undisturbed")
    assert manifest.made_by["rejected"] == 1


def test_of_conversions_into_one_folder_at_a_time_one_ends_well_and_nothing_of_it_is_lost(tmp_path, images):
    convert(arguments(images), tmp_path / "undisturbed")
    command = [
        *(sys.executable, "-m", "imgpipe.components.convert", f"--images={images}", "--shard_megabytes=1"),
        *("--max_rejected_fraction=0.5", f"--output_dir={tmp_path / 'out'}"),
    ]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "cwd": REPOSITORY}
    started = [subprocess.Popen(command, **quiet) for _ in range(3)]
    ended = [(process.communicate()[0], process.returncode) for process in started]
    assert 0 in [code for _, code in ended]
    for said, code in ended:
        # One that comes when another is at work is refused, one that comes later finds it done.
        assert code in (0, OutputError.exit_code)
        assert code == 0 or "another process is writing to" in said
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
