"""Conversions that are killed and started again."""

import os
import random
import signal
import subprocess
import time

import pytest

from imgpipe.components.common.dataset import MANIFEST_NAME
from imgpipe.components.common.errors import OutputError
from imgpipe.components.convert import shards
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from imgpipe.components.convert.output_folder import reserve_output_folder
from imgpipe.components.storage import LocalLocation
from tests.components.convert.conversions import COMMAND, REPOSITORY, read_files

KILLS = 20


@pytest.fixture
def images(tmp_path, photo):
    """Forty images for a dozen shards, with one re-encoded and one damaged image."""
    folder = tmp_path / "images"
    for number in range(40):
        path = photo(folder / "ab"[number % 2] / f"{number}.jpg", number)
        # Bytes after the end of a JPEG are kept and are not damage.
        path.write_bytes(path.read_bytes() + bytes(250_000))
    photo(folder / "a" / "x.bmp", 50, format="BMP")
    (folder / "b" / "damaged.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def arguments(images):
    return ConvertArguments(images=str(images), shard_megabytes=1, max_rejected_fraction=0.5)


def test_conversion_killed_at_any_moment_resumes_to_the_same_output(tmp_path, images):
    convert(arguments(images), tmp_path / "undisturbed")
    expected = read_files(tmp_path / "undisturbed")
    command = [*COMMAND, f"--images={images}", "--shard_megabytes=1", "--max_rejected_fraction=0.5"]

    def start(output):
        return subprocess.Popen(
            [*command, f"--output_dir={output}"],
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    generator = random.Random(7)  # noqa: S311
    killed = 0
    for number in range(KILLS):
        output = tmp_path / f"out-{number}"
        process = start(output)
        # Killed at a random time between about its start and its end.
        start_time = time.monotonic()
        while not output.exists() and process.poll() is None and time.monotonic() - start_time < 30:
            time.sleep(0.001)
        time.sleep(generator.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed += 1
        remaining = read_files(output) if output.exists() else {}
        if MANIFEST_NAME in remaining:
            assert {name: remaining.get(name) for name in expected} == expected
        if process.returncode == 0:
            continue
        assert start(output).wait() == 0
        assert read_files(output) == expected
    assert killed >= KILLS // 4


def test_images_of_finished_shards_are_not_read_again(tmp_path, images, monkeypatch):
    output = tmp_path / "out"
    convert(arguments(images), tmp_path / "undisturbed")
    prepare, read = shards._prepare_row, []

    def prepare_row(row, *arguments):
        read.append(row.location)
        return prepare(row, *arguments)

    def prepare_twenty(row, *arguments):
        if len(read) == 20:
            raise KeyboardInterrupt
        return prepare_row(row, *arguments)

    monkeypatch.setattr(shards, "_prepare_row", prepare_twenty)
    with pytest.raises(KeyboardInterrupt):
        convert(arguments(images), output, threads=1)
    assert all(name.startswith(".") for name in os.listdir(output))
    finished = {path.name: path.stat().st_ino for path in output.rglob("train-*") if not path.suffix}
    assert finished
    first = set(read)
    read.clear()
    monkeypatch.setattr(shards, "_prepare_row", prepare_row)
    convert(arguments(images), output)
    assert read_files(output) == read_files(tmp_path / "undisturbed")
    assert {name: (output / name).stat().st_ino for name in finished} == finished
    assert len(read) < 42 - 4 * len(finished) + 4
    assert len(first & set(read)) < 20


def test_changed_image_is_read_again(tmp_path, images, photo, monkeypatch):
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
    assert read_files(output) == read_files(tmp_path / "undisturbed")
    assert manifest.made_by["rejected"] == 1


def test_of_concurrent_conversions_into_one_folder_one_succeeds(tmp_path, images):
    convert(arguments(images), tmp_path / "undisturbed")
    command = [
        *(*COMMAND, f"--images={images}", "--shard_megabytes=1"),
        *("--max_rejected_fraction=0.5", f"--output_dir={tmp_path / 'out'}"),
    ]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "cwd": REPOSITORY}
    processes = [subprocess.Popen(command, **options) for _ in range(3)]
    results = [(process.communicate()[0], process.returncode) for process in processes]
    assert 0 in [code for _, code in results]
    for output, code in results:
        # A conversion is rejected while another one runs; later, it finds the finished data set.
        assert code in (0, OutputError.exit_code)
        assert code == 0 or "another process is writing to" in output
    assert read_files(tmp_path / "out") == read_files(tmp_path / "undisturbed")


def test_more_than_99_999_shards_are_recognized_as_the_conversions_own(tmp_path):
    for name in ("README", "train-100000-of-100001", "train-100000-of-100001.json"):
        path = tmp_path / ".imgpipe-convert-unfinished" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    with reserve_output_folder(LocalLocation(str(tmp_path))):
        pass
    assert list(tmp_path.iterdir()) == []
