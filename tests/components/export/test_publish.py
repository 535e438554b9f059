import pytest

from components.common.errors import InvalidArgumentError, OutputError
from components.common.provenance import write_provenance
from components.export.arguments import ExportArguments
from components.export.publish import check_model_target, publish_model


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "trained"
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "data").write_text("new")
    write_provenance(folder, {})
    return folder


def test_a_model_goes_to_job_dir_model_whole(model, tmp_path):
    target = publish_model(model, str(tmp_path / "a" / "job"))
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
    target = publish_model(model, str(tmp_path / "job"))
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
    assert (publish_model(model, str(tmp_path / "job")) / "variables").is_dir()


def test_a_bucket_is_refused_instead_of_becoming_a_folder_named_gs(model):
    with pytest.raises(InvalidArgumentError, match="a local path is needed"):
        publish_model(model, "gs://bucket/job")
    with pytest.raises(InvalidArgumentError, match="a local path is needed"):
        ExportArguments(job_dir="gs://bucket/job")
