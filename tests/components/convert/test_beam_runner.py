import os

import pytest

from imgpipe.components.common.beam import RunnerArguments
from imgpipe.components.common.errors import InternalError, InvalidArgumentError
from imgpipe.components.common.log import parse_event
from imgpipe.components.convert import beam_runner
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.convert import convert
from tests.components.convert.conversions import read_files, run_convert

apache_beam = pytest.importorskip("apache_beam")


def test_direct_runner_writes_the_same_bytes(tmp_path, photo):
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
    completed = run_convert(
        f"--images={folder}",
        "--shard_megabytes=1",
        "--max_rejected_fraction=0.5",
        f"--output_dir={tmp_path / 'beam'}",
        "--runner=DirectRunner",
        "--project_id=a-project",
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert read_files(tmp_path / "beam") == read_files(tmp_path / "threads")
    assert len(read_files(tmp_path / "beam")) > 6


def test_unknown_runner_is_rejected_before_anything_is_read(tmp_path):
    completed = run_convert("--images=nowhere", f"--output_dir={tmp_path / 'out'}", "--runner=DirctRunner")
    assert completed.returncode == InvalidArgumentError.exit_code
    assert "DirctRunner" in parse_event(completed.stdout.splitlines()[-1])["problem"]
    assert not os.path.exists(tmp_path / "out")


def test_options_without_a_runner_are_rejected(tmp_path):
    completed = run_convert("--images=nowhere", f"--output_dir={tmp_path / 'out'}", "--runner_options=--x=1")
    assert completed.returncode == InvalidArgumentError.exit_code
    assert "without --runner" in parse_event(completed.stdout.splitlines()[-1])["problem"]


def test_finished_shards_of_a_failed_runner_are_reused(tmp_path, photo, monkeypatch):
    folder = tmp_path / "images"
    for number in range(8):
        path = photo(folder / "ab"[number % 2] / f"{number}.jpg", number)
        path.write_bytes(path.read_bytes() + bytes(400_000))
    arguments = ConvertArguments(images=str(folder), shard_megabytes=1)
    convert(arguments, tmp_path / "whole")
    # A file, because Beam pickles the function and everything it refers to.
    write_planned_shard, written = beam_runner.write_planned_shard, tmp_path / "written"

    def fail_at_second_shard(name, location, rules):
        if written.exists():
            raise RuntimeError("the worker was lost")
        written.write_text(name)
        return write_planned_shard(name, location, rules)

    with monkeypatch.context() as context:
        context.setattr(beam_runner, "write_planned_shard", fail_at_second_shard)
        writer = beam_runner.beam_writer(
            RunnerArguments(
                "DirectRunner", runner_options="--direct_running_mode=in_memory --direct_num_workers=1"
            )
        )
        with pytest.raises(InternalError, match=r"the worker was lost[\s\S]*are kept"):
            convert(arguments, tmp_path / "out", writer=writer)
    (kept,) = [path for path in (tmp_path / "out").rglob(written.read_text()) if path.is_file()]
    before = kept.stat().st_ino
    convert(arguments, tmp_path / "out")
    assert (tmp_path / "out" / written.read_text()).stat().st_ino == before
    assert read_files(tmp_path / "out") == read_files(tmp_path / "whole")
