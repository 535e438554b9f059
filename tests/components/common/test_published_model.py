import pytest

from imgpipe.components.common.errors import OutputError
from imgpipe.components.common.provenance import write_provenance
from imgpipe.components.common.published_model import check_model_target, publish_model
from imgpipe.components.storage import parse_location


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "trained"
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "data").write_text("new")
    write_provenance(folder, {})
    return folder


def test_a_model_goes_to_job_dir_model_whole(model, tmp_path):
    target = publish_model(model, parse_location(tmp_path / "a" / "job")).path
    assert target == tmp_path / "a" / "job" / "model"
    assert (target / "variables" / "data").read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_an_earlier_model_is_replaced_completely(model, tmp_path):
    old = tmp_path / "job" / "model"
    old.mkdir(parents=True)
    write_provenance(old, {})
    (old / "saved_model.pb").write_text("old")
    publish_model(model, parse_location(tmp_path / "job"))
    assert sorted(path.name for path in old.iterdir()) == ["provenance.json", "variables"]


@pytest.mark.parametrize("provenance", ["[]", "{}", "no JSON", '{"versions": []}'])
def test_a_folder_with_other_provenance_is_not_replaced(model, tmp_path, provenance):
    existing = tmp_path / "job" / "model"
    existing.mkdir(parents=True)
    (existing / "provenance.json").write_text(provenance)
    with pytest.raises(OutputError, match="not a model that"):
        publish_model(model, parse_location(tmp_path / "job"))


def test_a_model_of_ours_to_which_something_was_added_is_left_alone(model, tmp_path):
    target = publish_model(model, parse_location(tmp_path / "job")).path
    (target / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a model that"):
        publish_model(model, parse_location(tmp_path / "job"))
    assert (target / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("make", ["folder", "file"])
def test_other_files_and_folders_are_not_replaced(model, tmp_path, make):
    existing = tmp_path / "job" / "model"
    existing.parent.mkdir()
    if make == "file":
        existing.write_text("mine")
    else:
        existing.mkdir()
        (existing / "saved_model.pb").write_text("mine")
    job_dir = parse_location(tmp_path / "job")
    with pytest.raises(OutputError, match="not a model that"):
        check_model_target(job_dir)
    with pytest.raises(OutputError, match="not a model that"):
        publish_model(model, job_dir)
    assert (existing if make == "file" else existing / "saved_model.pb").read_text() == "mine"


def test_an_empty_folder_is_accepted(model, tmp_path):
    (tmp_path / "job" / "model").mkdir(parents=True)
    assert (publish_model(model, parse_location(tmp_path / "job")).path / "variables").is_dir()


# ---------------------------------------------------------------- buckets


@pytest.fixture
def saved(model):
    (model / "saved_model.pb").write_text("new")
    return model


# Beside a model that has been replaced.
SWITCH = ".model.current"


def files_of(model):
    return {p.relative_to(model).as_posix(): p.read_bytes() for p in model.rglob("*") if p.is_file()}


def test_a_model_in_cloud_storage_replaces_an_earlier_one_of_ours(bucket, saved):
    assert publish_model(saved, parse_location(f"{bucket.uri}/job")) == parse_location(
        f"{bucket.uri}/job/model"
    )
    assert bucket.contents("job/model/") == files_of(saved)
    (saved / "variables" / "data").rename(saved / "variables" / "other")
    publish_model(saved, parse_location(f"{bucket.uri}/job"))
    assert bucket.contents("job/model/") == files_of(saved)
    assert set(bucket.contents("job/")) == {SWITCH, *(f"model/{name}" for name in files_of(saved))}


def test_a_model_that_cannot_be_uploaded_leaves_the_old_one_whole(bucket, saved, monkeypatch):
    publish_model(saved, parse_location(f"{bucket.uri}/job"))
    old = files_of(saved)
    (saved / "saved_model.pb").write_text("newer")
    uploads = []
    store = type(parse_location(bucket.uri))

    def upload_twice(location, path, upload=store.upload):
        uploads.append(location)
        if len(uploads) == 3:
            raise OutputError("no", remedy="none")
        upload(location, path)

    monkeypatch.setattr(store, "upload", upload_twice)
    with pytest.raises(OutputError):
        publish_model(saved, parse_location(f"{bucket.uri}/job"))
    assert bucket.contents("job/") == {f"model/{name}": content for name, content in old.items()}


def test_other_objects_are_not_replaced(bucket, saved):
    bucket.put("job/model/saved_model.pb", b"mine")
    with pytest.raises(OutputError, match="not a model that"):
        publish_model(saved, parse_location(f"{bucket.uri}/job"))
    assert bucket.contents("job/") == {"model/saved_model.pb": b"mine"}
