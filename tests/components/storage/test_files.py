import os

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, MissingInputError, OutputError
from imgpipe.components.storage.files import (
    check_empty,
    check_writable,
    local_path,
    match_pattern,
    publish_folder,
    written_whole,
)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def touch(folder, *file_names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in file_names:
        (folder / name).touch()


def test_a_url_is_no_local_path():
    with pytest.raises(InvalidArgumentError, match="gs://") as caught:
        local_path("gs://bucket/x.csv")
    assert "copy the data" in str(caught.value)


def test_patterns_match_as_in_the_original_algorithm(tmp_path):
    touch(tmp_path, "train-00000-of-00002", "train-00001-of-00002", "train-x", "other", ".train-hidden")
    matched = match_pattern(f"{tmp_path}/train-0000[0-9]-of-0000?")
    assert [os.path.basename(path) for path in matched] == ["train-00000-of-00002", "train-00001-of-00002"]
    assert [os.path.basename(path) for path in match_pattern(f"{tmp_path}/oth*, {tmp_path}/train-x")] == [
        "other",
        "train-x",
    ]
    assert [os.path.basename(path) for path in match_pattern(f"{tmp_path}/*")] == names(tmp_path)[1:]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    touch(tmp_path, "a,b[1]")
    assert match_pattern(f"{tmp_path}/a,b[1]") == [str(tmp_path / "a,b[1]")]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("data/train-*.tfrecord", ["holds: train-00000-of-00001, validation-00000-of-00001"]),
        ("data/train-0*,data/eval-*", ["'", "eval-*", "holds: train-"]),
        ("dat/train-*", ["has no folder 'dat'"]),
        ("empty/*", ["is empty"]),
        ("many/x*", ["00, 01", "and 5 more"]),
    ],
)
def test_a_pattern_without_a_match_says_what_lies_there(tmp_path, monkeypatch, pattern, said):
    touch(tmp_path / "data", "train-00000-of-00001", "validation-00000-of-00001")
    touch(tmp_path / "empty")
    touch(tmp_path / "many", *(f"{number:02d}" for number in range(15)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInputError, match="matches no file") as caught:
        match_pattern(pattern)
    for part in said:
        assert part in str(caught.value)


def test_written_whole_shows_only_whole_files(tmp_path):
    path = tmp_path / "new" / "file"
    with written_whole(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half"

    def interrupted():
        with written_whole(path) as temporary:
            temporary.write_text("other")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "half"
    assert names(tmp_path / "new") == ["file"]


def test_check_empty_refuses_what_holds_anything(tmp_path):
    check_empty(tmp_path)
    check_empty(tmp_path / "new")
    touch(tmp_path, "thesis.doc")
    for place in (tmp_path, tmp_path / "thesis.doc"):
        with pytest.raises(OutputError, match="nothing is deleted"):
            check_empty(place)


def test_check_writable_makes_the_folder_and_leaves_no_trace(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []
    touch(tmp_path, "file")
    with pytest.raises(OutputError, match="file"):
        check_writable(tmp_path / "file")
    with pytest.raises(OutputError):
        check_writable(tmp_path / "file" / "below")


def test_publish_folder_swaps_whole_folders(tmp_path):
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


def test_a_folder_that_is_given_as_a_pattern_is_called_so(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-0").touch()
    with pytest.raises(MissingInputError, match="is a folder") as caught:
        match_pattern(str(tmp_path / "data"))
    assert "holds: train-0" in str(caught.value)
    assert str(tmp_path / "data" / "train-*") in str(caught.value)
