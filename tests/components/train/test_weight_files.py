"""Missing and damaged files of ImageNet weights are reported before the run starts."""

import socket
import urllib.request

import h5py
import pytest

from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.common.tf_import import keras
from imgpipe.components.train.arguments import RecipeTrainingArguments, TrainingArguments
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.weight_files import check_weights, weights_file_name

MOBILENET = TrainingArguments(model_type="mobilenet-v2")
MOBILENET_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


@pytest.fixture
def models(keras_models, monkeypatch):
    """The folder of Keras' weights; there is no connection to the internet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # urllib caches an opener made from the environment variables.
    monkeypatch.setattr(urllib.request, "_opener", None)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    yield keras_models
    # An opener with this proxy must not stay.
    urllib.request._opener = None


def test_missing_weights_are_reported_with_the_file_and_its_folder(models):
    with pytest.raises(UnavailableError, match="mobilenet-v2 are not on this machine") as caught:
        check_weights(MOBILENET)
    assert caught.value.where == str(models / MOBILENET_FILE)
    assert f"copy the file {MOBILENET_FILE} to this folder" in caught.value.remedy


def test_missing_weights_in_a_container_are_to_be_added_to_its_image(models, monkeypatch):
    # Tests may run as root, who can write everywhere.
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UnavailableError) as caught:
        check_weights(MOBILENET)
    assert f"build the image of the training with the file {MOBILENET_FILE}" in caught.value.remedy


def test_weights_on_this_machine_need_no_connection(models):
    with h5py.File(models / MOBILENET_FILE, "w") as file:
        file.create_group("layer")
    check_weights(MOBILENET)


@pytest.mark.parametrize("content", [b"", b"not an HDF5 file", None])
def test_a_damaged_file_is_reported_with_its_path(models, content):
    file = models / MOBILENET_FILE
    if content is None:
        with h5py.File(file, "w") as written:
            written.create_dataset("layer", data=list(range(10_000)))
        content = file.read_bytes()[:-1000]
    file.write_bytes(content)
    with pytest.raises(UnavailableError, match="is damaged") as caught:
        check_weights(MOBILENET)
    assert caught.value.where == str(file)
    assert caught.value.remedy.startswith("delete it")


@pytest.mark.parametrize(
    "arguments",
    [
        TrainingArguments(model_type="mobilenet-v2", weights="none"),
        TrainingArguments(model_type="mobilenet-v2", pretrained_checkpoint_path="model"),
    ],
)
def test_training_runs_that_need_no_imagenet_weights_are_not_checked(models, arguments):
    assert not list(models.iterdir())
    check_weights(arguments)


@pytest.mark.parametrize(
    ("model_type", "size"),
    [
        ("mobilenet-v2", 224),
        ("mobilenet-v2", 128),
        ("mobilenet-v2", 32),
        ("efficientnet-b0", 32),
        ("efficientnet-v2-b0", 32),
        ("resnet-50", 32),
        ("mobilenet-v3-small", 32),
        pytest.param("mobilenet-v3-large", 224, marks=pytest.mark.proof),
        ("convnext-tiny", 32),
        pytest.param("convnext-small", 224, marks=pytest.mark.proof),
    ],
)
@pytest.mark.usefixtures("models")
def test_the_names_are_those_that_keras_downloads(model_type, size):
    with pytest.raises(Exception, match=f"URL fetch failure on .*/{weights_file_name(model_type, size)}:"):
        getattr(keras.applications, MODEL_TYPES[model_type].keras_name)(
            include_top=False, weights="imagenet", input_shape=(size, size, 3), pooling="avg"
        )


def test_a_training_that_selects_one_of_several_networks_needs_no_connection(models):
    for name in ("efficientnet-b0", "mobilenet-v3-small"):
        (models / weights_file_name(name, 224)).touch()
    check_weights(RecipeTrainingArguments())
    with pytest.raises(UnavailableError, match="mobilenet-v2 are not on this machine"):
        check_weights(RecipeTrainingArguments(model_type="mobilenet-v2"))
