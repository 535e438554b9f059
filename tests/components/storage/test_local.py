import os

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, OutputError
from imgpipe.components.storage import (
    atomic_write,
    check_empty,
    check_writable,
    find_files,
    local_path,
    parse_location,
    publish_folder,
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
def test_publish_folder_that_fails_between_the_renames_leaves_the_old_one(tmp_path, monkeypatch, failure):
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    touch(source, "new")
    touch(target, "old")
    replace = os.replace

    def replace_until_the_swap(here, there):
        if str(here).endswith(".partial"):
            raise failure
        replace(here, there)

    monkeypatch.setattr(os, "replace", replace_until_the_swap)
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
