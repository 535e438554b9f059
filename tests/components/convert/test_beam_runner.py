import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgpipe.components.common.errors import InternalError, InvalidArgumentError
from imgpipe.components.common.log import parse_event
from imgpipe.components.convert import beam_runner
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert

REPOSITORY = Path(__file__).parents[3]

apache_beam = pytest.importorskip("apache_beam")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(*words):
    command = [sys.executable, "-m", "imgpipe.components.convert", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_beams_direct_runner_gives_the_same_bytes(tmp_path, photo):
    folder = tmp_path / "images"
    for number in range(12):
        path = photo(folder / "ab"[number % 2] / f"{number}.jpg", number)
        path.write_bytes(path.read_bytes() + bytes(300_000))
    photo(folder / "a" / "caf\udce9.bmp", 50, format="BMP")
    (folder / "b" / "damaged.jpg").write_bytes(b"\xff\xd8\xff")
    convert(
        ConvertArguments(images=str(folder), shard_megabytes=1, max_rejected_fraction=0.5),
        tmp_path / "threads",
    )
    ended = run(
        f"--images={folder}",
        "--shard_megabytes=1",
        "--max_rejected_fraction=0.5",
        f"--output_dir={tmp_path / 'beam'}",
        "--runner=DirectRunner",
        "--project_id=a-project",
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert contents(tmp_path / "beam") == contents(tmp_path / "threads")
    assert len(contents(tmp_path / "beam")) > 6


def test_a_runner_that_is_none_is_refused_before_anything_is_read(tmp_path):
    ended = run("--images=nowhere", f"--output_dir={tmp_path / 'out'}", "--runner=DirctRunner")
    assert ended.returncode == InvalidArgumentError.exit_code
    assert "DirctRunner" in parse_event(ended.stdout.splitlines()[-1])["problem"]
    assert not os.path.exists(tmp_path / "out")


def test_options_without_a_runner_are_refused(tmp_path):
    ended = run("--images=nowhere", f"--output_dir={tmp_path / 'out'}", "--runner_options=--x=1")
    assert ended.returncode == InvalidArgumentError.exit_code
    assert "without --runner" in parse_event(ended.stdout.splitlines()[-1])["problem"]


def test_what_a_failing_runner_has_finished_is_kept_for_the_next(tmp_path, photo, monkeypatch):
    folder = tmp_path / "images"
    for number in range(8):
        path = photo(folder / "ab"[number % 2] / f"{number}.jpg", number)
        path.write_bytes(path.read_bytes() + bytes(400_000))
    arguments = ConvertArguments(images=str(folder), shard_megabytes=1)
    convert(arguments, tmp_path / "whole")
    # In a file: Beam hands its workers copies of the function and of what it refers to.
    real, written = beam_runner.write_planned_shard, tmp_path / "written"

    def lost_at_the_second(name, location, rules):
        if written.exists():
            raise RuntimeError("the worker was lost")
        written.write_text(name)
        return real(name, location, rules)

    with monkeypatch.context() as context:
        context.setattr(beam_runner, "write_planned_shard", lost_at_the_second)
        words = ("DirectRunner", "", "--direct_running_mode=in_memory --direct_num_workers=1")
        with pytest.raises(InternalError, match=r"the worker was lost[\s\S]*are kept"):
            convert(arguments, tmp_path / "out", writer=beam_runner.beam_writer(*words))
    (kept,) = [path for path in (tmp_path / "out").rglob(written.read_text()) if path.is_file()]
    before = kept.stat().st_ino
    convert(arguments, tmp_path / "out")
    assert (tmp_path / "out" / written.read_text()).stat().st_ino == before
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
