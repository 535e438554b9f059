"""A job_dir belongs to one run, and to nobody's run if anything else is in it."""

import pytest

from imgpipe.components.common.errors import OutputError
from imgpipe.pipelines.run_folder import RunFolder, claimed, new_folder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "job")


def unfinished(folder):
    with claimed(folder):
        folder.artifacts.mkdir()
        (folder.artifacts / "shard").write_text("half")
        folder.log.write_text("log")


def finished(folder):
    with claimed(folder):
        folder.model.mkdir()


def test_an_unfinished_runs_folder_is_taken_again_without_its_remains(folder):
    unfinished(folder)
    with claimed(folder):
        assert not folder.artifacts.exists()
        assert not folder.log.exists()


def test_a_finished_runs_folder_is_not_taken_again(folder):
    finished(folder)
    with pytest.raises(OutputError, match="not an empty folder"), claimed(folder):
        pass
    assert folder.model.is_dir()


def test_a_run_that_failed_once_and_then_ended_well_leaves_no_mark(folder):
    unfinished(folder)
    finished(folder)
    assert [path.name for path in folder.job_dir.iterdir()] == ["model"]


def test_what_somebody_put_into_an_unfinished_runs_folder_is_never_removed(folder):
    unfinished(folder)
    (folder.job_dir / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.txt"), claimed(folder):
        pass
    assert (folder.job_dir / "thesis.txt").exists()
    assert folder.artifacts.exists()


def test_two_runs_cannot_hold_one_folder(folder):
    with claimed(folder), pytest.raises(OutputError, match="another run"), claimed(RunFolder(folder.job_dir)):
        pass


def test_somebodys_folder_is_left_alone(folder):
    folder.job_dir.mkdir()
    (folder.job_dir / "run.log").write_text("theirs")
    with pytest.raises(OutputError, match="not an empty folder"), claimed(folder):
        pass
    assert (folder.job_dir / "run.log").read_text() == "theirs"


def test_a_new_folders_name_is_not_taken(tmp_path):
    for expected in ("now", "now-2", "now-3"):
        folder = new_folder(tmp_path, "now").job_dir
        assert folder.name == expected
        folder.mkdir()


def test_a_tuning_that_was_interrupted_may_go_on_in_its_folder(tmp_path):
    folder = RunFolder(tmp_path / "job")
    with claimed(folder):
        (folder.model / "trial_1").mkdir(parents=True)
        (folder.job_dir / "study").mkdir()
    with claimed(folder):
        assert (folder.model / "trial_1").is_dir()
        (folder.model / "saved_model.pb").touch()
    with pytest.raises(OutputError), claimed(folder):
        pass
