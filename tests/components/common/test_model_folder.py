"""Which model a folder means, on a disk and in a bucket."""

import pytest

from imgpipe.components.common.errors import MissingInputError
from imgpipe.components.common.model_folder import local_model
from tests.servers.cloud_storage import BUCKET


@pytest.fixture(params=["local", "bucket"])
def place(request, tmp_path, cloud):
    """A function that lays files out and returns where."""

    def lay(*names):
        for name in names:
            if request.param == "bucket":
                cloud.put(f"models/{name}", name.encode())
            else:
                path = tmp_path / "models" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(name)
        return f"gs://{BUCKET}/models" if request.param == "bucket" else str(tmp_path / "models")

    return lay


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["saved_model.pb", "assets/labels.txt"], "saved_model.pb"),
        (["9/saved_model.pb", "10/saved_model.pb", "10/assets/labels.txt"], "10/saved_model.pb"),
        (["2/saved_model.pb", "00000123/saved_model.pb"], "00000123/saved_model.pb"),
        (["1/saved_model.pb", "²/saved_model.pb", "7/variables", "x/saved_model.pb"], "1/saved_model.pb"),
    ],
)
def test_the_model_or_its_highest_version_is_meant(place, names, found):
    with local_model(place(*names)) as folder:
        assert (folder / "saved_model.pb").read_text() == found


def test_the_models_of_trials_are_not_fetched(place):
    with local_model(place("saved_model.pb", "trial_1/saved_model.pb")) as folder:
        assert (folder / "saved_model.pb").is_file()
        if "imgpipe-model-" in str(folder):
            assert not (folder / "trial_1").exists()


def test_a_place_without_a_model_is_named(place):
    location = place("notes.txt")
    with pytest.raises(MissingInputError, match="models"), local_model(location):
        pass
