"""A job_dir belongs to one run, and is rejected if it has other files."""

import pytest

from imgpipe.components.common.errors import OutputError
from imgpipe.pipelines.run_folder import RunFolder, claimed, new_folder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "job")


def make_unfinished(folder):
    with claimed(folder):
        folder.artifacts.mkdir()
        (folder.artifacts / "shard").write_text("half")
        folder.log.write_text("log")


def make_finished(folder):
    with claimed(folder):
        folder.model.mkdir()


def test_the_folder_of_an_unfinished_run_is_cleared_and_reused(folder):
    make_unfinished(folder)
    with claimed(folder):
        assert not folder.artifacts.exists()
        assert not folder.log.exists()


def test_the_folder_of_a_finished_run_is_rejected(folder):
    make_finished(folder)
    with pytest.raises(OutputError, match="not an empty folder"), claimed(folder):
        pass
    assert folder.model.is_dir()


def test_a_run_that_succeeds_after_a_failure_removes_the_lock_file(folder):
    make_unfinished(folder)
    make_finished(folder)
    assert [path.name for path in folder.job_dir.iterdir()] == ["model"]


def test_other_files_in_the_folder_of_an_unfinished_run_are_never_removed(folder):
    make_unfinished(folder)
    (folder.job_dir / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.txt"), claimed(folder):
        pass
    assert (folder.job_dir / "thesis.txt").exists()
    assert folder.artifacts.exists()


def test_two_runs_cannot_lock_one_folder(folder):
    with claimed(folder), pytest.raises(OutputError, match="another run"), claimed(RunFolder(folder.job_dir)):
        pass


def test_a_folder_without_a_lock_file_is_rejected(folder):
    folder.job_dir.mkdir()
    (folder.job_dir / "run.log").write_text("other")
    with pytest.raises(OutputError, match="not an empty folder"), claimed(folder):
        pass
    assert (folder.job_dir / "run.log").read_text() == "other"


def test_a_new_folder_has_an_unused_name(tmp_path):
    for expected in ("now", "now-2", "now-3"):
        folder = new_folder(tmp_path, "now").job_dir
        assert folder.name == expected
        folder.mkdir()


def test_an_interrupted_tuning_resumes_in_its_folder(tmp_path):
    folder = RunFolder(tmp_path / "job")
    with claimed(folder):
        (folder.model / "trial_1").mkdir(parents=True)
        (folder.job_dir / "study").mkdir()
    with claimed(folder):
        assert (folder.model / "trial_1").is_dir()
        (folder.model / "saved_model.pb").touch()
    with pytest.raises(OutputError), claimed(folder):
        pass
