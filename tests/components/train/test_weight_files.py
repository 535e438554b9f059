"""Weight files in a folder that cannot be written to."""

import os

import pytest

from imgpipe.components.train.weight_files import link_weight_files


@pytest.fixture
def home(tmp_path, monkeypatch):
    models = tmp_path / "keras" / "models"
    models.mkdir(parents=True)
    (models / "some_weights.h5").write_bytes(b"weights")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


@pytest.fixture
def read_only(home, monkeypatch):
    # Root may write anywhere: what a read-only mount answers is said here.
    answers = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(home) and answers(path, mode))
    return home


def test_files_of_a_home_that_cannot_be_written_to_are_found_where_keras_looks_then(read_only, tmp_path):
    assert link_weight_files(tmp_path / "substitute") == 1
    assert (tmp_path / "substitute" / "models" / "some_weights.h5").read_bytes() == b"weights"
    assert link_weight_files(tmp_path / "substitute") == 0


def test_a_file_that_is_there_stays(read_only, tmp_path):
    there = tmp_path / "substitute" / "models" / "some_weights.h5"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"another")
    assert link_weight_files(tmp_path / "substitute") == 0
    assert there.read_bytes() == b"another"


def test_a_home_that_can_be_written_to_is_left_to_keras(home, tmp_path):
    assert link_weight_files(tmp_path / "substitute") == 0
    assert not (tmp_path / "substitute").exists()
