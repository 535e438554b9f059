import errno
import os
import re

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, OutputError
from imgpipe.components.storage import (
    LocalLocation,
    atomic_write,
    check_empty,
    check_writable,
    find_files,
    local,
    local_path,
    move_folder,
    parse_location,
    publish_folder,
    read_unchanged,
)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def touch(folder, *file_names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in file_names:
        (folder / name).touch()


def test_a_uri_is_not_a_local_path():
    with pytest.raises(InvalidArgumentError, match="gs://") as caught:
        local_path("gs://bucket/x.csv")
    assert "copy the data" in str(caught.value)


def test_patterns_match_as_in_the_original_algorithm(tmp_path):
    touch(tmp_path, "train-00000-of-00002", "train-00001-of-00002", "train-x", "other", ".train-hidden")
    matched = find_files(f"{tmp_path}/train-0000[0-9]-of-0000?")
    assert [file.name for file in matched] == ["train-00000-of-00002", "train-00001-of-00002"]
    assert [file.name for file in find_files(f"{tmp_path}/oth*, {tmp_path}/train-x")] == [
        "other",
        "train-x",
    ]
    assert [file.name for file in find_files(f"{tmp_path}/*")] == names(tmp_path)[1:]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    touch(tmp_path, "a,b[1]")
    assert list(find_files(f"{tmp_path}/a,b[1]")) == [parse_location(tmp_path / "a,b[1]")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("data/train-*.tfrecord", ["contains: train-00000-of-00001, validation-00000-of-00001"]),
        ("data/train-0*,data/eval-*", ["'", "eval-*", "contains: train-"]),
        ("dat/train-*", ["has no folder 'dat'"]),
        ("empty/*", ["is empty"]),
        ("many/x*", ["00, 01", "and 5 more"]),
    ],
)
def test_a_pattern_without_a_match_reports_the_files_found(tmp_path, monkeypatch, pattern, expected):
    touch(tmp_path / "data", "train-00000-of-00001", "validation-00000-of-00001")
    touch(tmp_path / "empty")
    touch(tmp_path / "many", *(f"{number:02d}" for number in range(15)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInputError, match="matches no file") as caught:
        find_files(pattern)
    for part in expected:
        assert part in str(caught.value)


def test_atomic_write_shows_only_complete_files(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"

    def interrupted():
        with atomic_write(path) as temporary:
            temporary.write_text("other")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "half"
    assert names(tmp_path / "new") == ["file"]


def test_check_empty_rejects_a_folder_with_anything_in_it(tmp_path):
    check_empty(tmp_path)
    check_empty(tmp_path / "new")
    touch(tmp_path, "thesis.doc")
    for path in (tmp_path, tmp_path / "thesis.doc"):
        with pytest.raises(OutputError, match="never deleted"):
            check_empty(path)


def test_check_writable_makes_the_folder_and_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []
    touch(tmp_path, "file")
    with pytest.raises(OutputError, match="file"):
        check_writable(tmp_path / "file")
    with pytest.raises(OutputError):
        check_writable(tmp_path / "file" / "below")


def test_publish_folder_swaps_complete_folders(tmp_path):
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    touch(source, "one")
    publish_folder(source, target)
    (source / "one").rename(source / "two")
    publish_folder(source, target)
    assert names(target) == ["two"]
    assert names(tmp_path / "out") == ["target"]
    assert names(source) == ["two"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_publish_folder_that_fails_before_the_exchange_leaves_the_old_one(tmp_path, monkeypatch, failure):
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    touch(source, "new")
    touch(target, "old")

    def fail(*_):
        raise failure

    monkeypatch.setattr(local, "exchange", fail)
    with pytest.raises(OutputError if isinstance(failure, OSError) else KeyboardInterrupt):
        publish_folder(source, target)
    assert names(target) == ["old"]
    assert names(tmp_path / "out") == ["target"]


def test_publish_folder_without_a_source_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="target"):
        publish_folder(tmp_path / "nowhere", tmp_path / "out" / "target")
    assert names(tmp_path / "out") == []


def test_a_folder_given_as_a_pattern_is_reported_as_one(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-0").touch()
    with pytest.raises(MissingInputError, match="is a folder") as caught:
        find_files(str(tmp_path / "data"))
    assert "contains: train-0" in str(caught.value)
    assert str(tmp_path / "data" / "train-*") in str(caught.value)


def test_a_missing_file_is_not_called_a_pattern(tmp_path):
    with pytest.raises(MissingInputError, match="does not exist") as caught:
        find_files(str(tmp_path / "train.csv"))
    assert caught.value.remedy == "correct the path"


@pytest.fixture
def mounted_bucket(tmp_path, monkeypatch):
    """Folders with content are not renamed, and there are no hard links, as in gcsfuse."""
    refused = []

    def refuse(code, function, *paths):
        refused.append((function, *paths))
        raise OSError(code, os.strerror(code))

    def renaming(rename):
        def checked(source, target):
            if os.path.isdir(source) and os.listdir(source):
                refuse(errno.EMFILE, "rename", source, target)
            rename(source, target)

        return checked

    monkeypatch.setattr(os, "rename", renaming(os.rename))
    monkeypatch.setattr(os, "replace", renaming(os.replace))
    monkeypatch.setattr(os, "link", lambda *paths: refuse(errno.ENOSYS, "link", *paths))
    return refused


def write_files(folder, **contents):
    for name, content in contents.items():
        path = folder / name.replace("_in_", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def read_files(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def test_in_a_mounted_bucket_files_are_replaced_and_the_kept_folders_are_not_copied(
    tmp_path, mounted_bucket, monkeypatch
):
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    write_files(source, marker="1", sub_in_data="1", gone="1")
    publish_folder(source, target, first="sub/data", last="marker")
    write_files(target, trial_1_in_data="trial")
    (source / "gone").unlink()
    write_files(source, marker="2", sub_in_data="2")
    monkeypatch.setattr("shutil.copytree", lambda *paths, **_: pytest.fail(f"copied {paths}"))
    publish_folder(source, target, keep=re.compile("trial_.*"), first="sub/data", last="marker")
    assert read_files(target) == {"marker": "2", "sub/data": "2", "trial_1/data": "trial"}
    assert names(tmp_path / "out") == [".target.current", "target"]
    assert [function for function, *_ in mounted_bucket] == ["rename", "rename"]


class Killed(BaseException):
    """Simulates SIGKILL: nothing is cleaned up."""


def test_in_a_mounted_bucket_a_reader_finds_the_old_or_the_new_folder_at_any_moment(
    tmp_path, mounted_bucket, monkeypatch
):
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    old, new = (dict.fromkeys(("a", "marker", "sub/b"), text) for text in ("old", "new"))
    real = {name: getattr(os, name) for name in ("replace", "unlink")}
    for moment in range(30):
        write_files(source, a="old", marker="old", sub_in_b="old")
        publish_folder(source, target, last="marker")
        write_files(source, a="new", marker="new", sub_in_b="new")
        steps = 0

        def counted(name, moment=moment):
            def act(*paths, **options):
                nonlocal steps
                steps += str(paths[0]).startswith(str(tmp_path / "out"))
                if steps > moment:
                    raise Killed
                return real[name](*paths, **options)

            return act

        with monkeypatch.context() as context:
            for name in real:
                context.setattr(os, name, counted(name))
            # A killed process does not clean up.
            context.setattr("shutil.rmtree", lambda *_, **__: None)
            try:
                publish_folder(source, target, last="marker")
            except Killed:
                pass
            else:
                assert read_files(target) == new
                assert moment > 5
                return
        assert read_unchanged(LocalLocation(str(target)), lambda found: read_files(found.path)) in (old, new)
        found = read_files(target)
        assert "marker" not in found or found in (old, new)
    pytest.fail("publishing never ended")


def test_in_a_mounted_bucket_a_moved_folder_reserves_its_name(tmp_path, mounted_bucket):
    source, target = tmp_path / "source", tmp_path / "target"
    write_files(source, marker="1", sub_in_data="1")
    target.mkdir()
    with pytest.raises(FileExistsError):
        move_folder(source, target, last="marker")
    target.rmdir()
    move_folder(source, target, last="marker")
    assert read_files(target) == {"marker": "1", "sub/data": "1"}
    assert names(tmp_path) == ["target"]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EXDEV, "does not rename files"),
        (errno.ENOTSUP, "does not rename files"),
        (errno.EIO, "behind a mounted bucket"),
        (errno.EACCES, "use another folder"),
    ],
)
def test_an_error_of_the_operating_system_has_the_remedy_for_its_number(tmp_path, monkeypatch, code, remedy):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    touch(tmp_path / "source", "file")
    monkeypatch.setattr("shutil.copyfile", fail)
    with pytest.raises(OutputError, match=re.escape(os.strerror(code))) as caught:
        publish_folder(tmp_path / "source", tmp_path / "target")
    assert remedy in caught.value.remedy
