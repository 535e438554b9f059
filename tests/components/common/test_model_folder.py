"""Finding the model in a folder, local and in a bucket."""

import pytest

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.model_folder import local_model
from imgpipe.components.storage import parse_location
from tests.servers.faulty_bucket import BUCKET


@pytest.fixture(params=["local", "bucket"])
def write_files(request, tmp_path, cloud):
    """``write_files(*names)`` writes files and returns the location of their folder."""

    def write(*names):
        for name in names:
            if request.param == "bucket":
                cloud.put(f"models/{name}", name.encode())
            else:
                path = tmp_path / "models" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(name)
        return parse_location(f"gs://{BUCKET}/models" if request.param == "bucket" else tmp_path / "models")

    return write


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["saved_model.pb", "assets/labels.txt"], "saved_model.pb"),
        (["9/saved_model.pb", "10/saved_model.pb", "10/assets/labels.txt"], "10/saved_model.pb"),
        (["model/saved_model.pb", "run.log"], "model/saved_model.pb"),
        (["2/saved_model.pb", "00000123/saved_model.pb"], "00000123/saved_model.pb"),
        (["1/saved_model.pb", "²/saved_model.pb", "7/variables", "x/saved_model.pb"], "1/saved_model.pb"),
    ],
)
def test_the_model_or_its_highest_version_is_used(write_files, names, found):
    with local_model(write_files(*names)) as folder:
        assert (folder / "saved_model.pb").read_text() == found


def test_the_models_of_trials_are_not_fetched(write_files):
    with local_model(write_files("saved_model.pb", "trial_1/saved_model.pb")) as folder:
        assert (folder / "saved_model.pb").is_file()
        if "imgpipe-model-" in str(folder):
            assert not (folder / "trial_1").exists()


def test_a_location_without_a_model_is_reported(write_files):
    location = write_files("notes.txt")
    with pytest.raises(MissingInputError, match="models"), local_model(location):
        pass
