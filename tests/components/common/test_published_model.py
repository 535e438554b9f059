from pathlib import Path

import pytest

from imgpipe.components.common.errors import InvalidArgumentError, OutputError
from imgpipe.components.common.provenance import write_provenance
from imgpipe.components.common.published_model import check_model_target, publish_model
from imgpipe.components.export.arguments import ExportArguments
from imgpipe.components.storage import cloud_storage
from imgpipe.components.storage.folders import CloudFolder


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "trained"
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "data").write_text("new")
    write_provenance(folder, {})
    return folder


def test_a_model_goes_to_job_dir_model_whole(model, tmp_path):
    target = Path(publish_model(model, str(tmp_path / "a" / "job")))
    assert target == tmp_path / "a" / "job" / "model"
    assert (target / "variables" / "data").read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_an_earlier_model_of_ours_is_replaced_leaving_nothing_of_it(model, tmp_path):
    old = tmp_path / "job" / "model"
    old.mkdir(parents=True)
    write_provenance(old, {})
    (old / "saved_model.pb").write_text("old")
    publish_model(model, str(tmp_path / "job"))
    assert sorted(path.name for path in old.iterdir()) == ["provenance.json", "variables"]


@pytest.mark.parametrize("provenance", ["[]", "{}", "no JSON", '{"versions": []}'])
def test_a_folder_with_somebody_elses_provenance_is_left_alone(model, tmp_path, provenance):
    theirs = tmp_path / "job" / "model"
    theirs.mkdir(parents=True)
    (theirs / "provenance.json").write_text(provenance)
    with pytest.raises(OutputError, match="not a model that"):
        publish_model(model, str(tmp_path / "job"))


def test_a_model_of_ours_to_which_something_was_added_is_left_alone(model, tmp_path):
    target = Path(publish_model(model, str(tmp_path / "job")))
    (target / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a model that"):
        publish_model(model, str(tmp_path / "job"))
    assert (target / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("make", ["folder", "file"])
def test_what_is_not_ours_is_left_alone(model, tmp_path, make):
    theirs = tmp_path / "job" / "model"
    theirs.parent.mkdir()
    if make == "file":
        theirs.write_text("mine")
    else:
        theirs.mkdir()
        (theirs / "saved_model.pb").write_text("mine")
    job_dir = str(tmp_path / "job")
    with pytest.raises(OutputError, match="not a model that"):
        check_model_target(job_dir)
    with pytest.raises(OutputError, match="not a model that"):
        publish_model(model, job_dir)
    assert (theirs if make == "file" else theirs / "saved_model.pb").read_text() == "mine"


def test_an_empty_folder_may_be_filled(model, tmp_path):
    (tmp_path / "job" / "model").mkdir(parents=True)
    assert (Path(publish_model(model, str(tmp_path / "job"))) / "variables").is_dir()


def test_another_url_is_refused_instead_of_becoming_a_folder_of_its_name(model):
    with pytest.raises(InvalidArgumentError, match="local paths and gs:// are understood"):
        publish_model(model, "s3://bucket/job")
    with pytest.raises(InvalidArgumentError, match="local paths and gs:// are understood"):
        ExportArguments(job_dir="s3://bucket/job")


# ---------------------------------------------------------------- Cloud Storage


@pytest.fixture
def saved(model):
    (model / "saved_model.pb").write_text("new")
    return model


def files_of(model):
    return {p.relative_to(model).as_posix(): p.read_bytes() for p in model.rglob("*") if p.is_file()}


def test_a_model_in_cloud_storage_replaces_an_earlier_one_of_ours(cloud, saved):
    assert publish_model(saved, "gs://photos/job") == "gs://photos/job/model"
    assert cloud.contents("job/model/") == files_of(saved)
    (saved / "variables" / "data").rename(saved / "variables" / "other")
    publish_model(saved, "gs://photos/job")
    assert cloud.contents("job/model/") == files_of(saved)
    assert set(cloud.contents("job/")) == {f"model/{name}" for name in files_of(saved)}


def test_a_model_that_cannot_be_uploaded_leaves_the_old_one_whole(cloud, saved, monkeypatch):
    publish_model(saved, "gs://photos/job")
    old = files_of(saved)
    (saved / "saved_model.pb").write_text("newer")
    uploads = []

    def upload_twice(path, uri, upload=cloud_storage.upload):
        uploads.append(uri)
        if len(uploads) == 3:
            raise OutputError("no", remedy="none")
        upload(path, uri)

    monkeypatch.setattr(cloud_storage, "upload", upload_twice)
    with pytest.raises(OutputError):
        publish_model(saved, "gs://photos/job")
    assert cloud.contents("job/") == {f"model/{name}": content for name, content in old.items()}


class Killed(BaseException):
    """As SIGKILL: nothing is tidied up after it."""


def test_a_publication_killed_at_any_moment_is_made_up_for_by_the_next(cloud, saved, monkeypatch):
    publish_model(saved, "gs://photos/job")
    steps, allowed = 0, 0
    real = {name: getattr(CloudFolder, name) for name in ("remove", "move")}

    def counted(name):
        def act(folder, *words):
            nonlocal steps
            steps += 1
            if steps > allowed:
                raise Killed
            real[name](folder, *words)

        return act

    for moment in range(2 * len(files_of(saved))):
        steps, allowed = 0, moment
        with monkeypatch.context() as context:
            for name in real:
                context.setattr(CloudFolder, name, counted(name))
            with pytest.raises(Killed):
                publish_model(saved, "gs://photos/job")
        publish_model(saved, "gs://photos/job")
        assert cloud.contents("job/") == {f"model/{name}": value for name, value in files_of(saved).items()}


def test_somebody_elses_objects_are_left_alone(cloud, saved):
    cloud.put("job/model/saved_model.pb", b"mine")
    with pytest.raises(OutputError, match="not a model that"):
        publish_model(saved, "gs://photos/job")
    assert cloud.contents("job/") == {"model/saved_model.pb": b"mine"}
