"""Loading the weights of a previously trained model."""

import itertools
import json
import zipfile

import numpy as np
import pytest

from imgpipe.components.common.errors import InvalidArgumentError, InvalidDataError, MissingInputError
from imgpipe.components.common.log import parse_event
from imgpipe.components.common.saved_model import write_saved_model
from imgpipe.components.common.tf_import import keras
from imgpipe.components.storage import parse_location
from imgpipe.components.train.checkpoints import Checkpoint, CheckpointFolder, to_arrays
from imgpipe.components.train.models import build_classifier
from tests.servers.faulty_bucket import BUCKET

SIZE = 32


def build(model_type="mobilenet-v2", *, classes=3, seed=0, path="", **more):
    return build_classifier(
        model_type,
        num_classes=classes,
        image_size=SIZE,
        weights="none",
        seed=seed,
        pretrained_checkpoint_path=str(path),
        **more,
    )


def saved_model(classifier, folder, classes=3):
    write_saved_model(classifier, SIZE, [f"class {number}" for number in range(classes)], folder)
    return folder


def checkpoints(classifier, folder, *, complete=True):
    """Writes checkpoints as the training loop."""
    values = [variable.numpy() for variable in classifier.variables]
    checkpoint_folder = CheckpointFolder(parse_location(folder), keep=1)
    arrays = to_arrays("model", classifier.variables, values)
    checkpoint_folder.write_best(4, arrays, {"complete": complete})
    checkpoint_folder.write(Checkpoint(5, {}, {"best_step": 4}))
    return folder


def keras_file(classifier, path):
    """Writes the network with the head as a Keras model."""
    features = classifier.network.output
    dense = keras.layers.Dense(classifier.head.output_shape[-1])
    model = keras.Model(classifier.network.input, dense(features))
    for variable, value in zip(dense.weights, classifier.head.weights, strict=True):
        variable.assign(value)
    if path.name.endswith(".keras"):
        model.save(path)
    else:
        model.save_weights(path)
    return path


KINDS = {
    "SavedModel": lambda classifier, folder: saved_model(classifier, folder / "model"),
    "checkpoints": lambda classifier, folder: checkpoints(classifier, folder / "checkpoints"),
    "weights.h5": lambda classifier, folder: keras_file(classifier, folder / "a.weights.h5"),
    "keras": lambda classifier, folder: keras_file(classifier, folder / "a.keras"),
}


def all_weights(classifier):
    return [*classifier.network.weights, *classifier.head.weights]


def assert_equal_weights(actual, expected):
    for variable, original in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(variable.numpy(), original.numpy())


def last_event(capsys):
    events = filter(None, map(parse_event, capsys.readouterr().out.splitlines()))
    return next(event for event in events if event["event"] == "pretrained_weights")


@pytest.mark.parametrize(
    ("model_type", "kind"),
    # The name of efficientnet-b0's scaling layer has a number that differs between networks.
    [
        *itertools.product(["mobilenet-v2"], KINDS),
        ("efficientnet-b0", "checkpoints"),
        ("efficientnet-b0", "keras"),
        # Layers in nested models, dense layers before the last one, and weights with a number as their name.
        *(pytest.param("convnext-tiny", kind, marks=pytest.mark.proof) for kind in KINDS),
    ],
)
def test_all_weights_are_loaded_from_every_format(model_type, kind, tmp_path, capsys):
    original = build(model_type, seed=1)
    rng = np.random.default_rng(0)
    for variable in all_weights(original):
        variable.assign(np.asarray(rng.uniform(0.5, 1.5, variable.shape)).astype(variable.dtype))
    loaded = build(model_type, seed=2, path=KINDS[kind](original, tmp_path))
    assert_equal_weights(all_weights(loaded), all_weights(original))
    event = last_event(capsys)
    assert event["loaded"] == len(all_weights(original))
    assert event["last_layer_loaded"] is True
    assert f"weights of {model_type} loaded from" in event["message"]


@pytest.mark.parametrize("kind", ["SavedModel", "versions", "checkpoints", "file.weights.h5", "file.keras"])
def test_weights_are_loaded_from_cloud_storage_as_from_local_files(kind, tmp_path, cloud):
    source = build(seed=1)
    if kind == "checkpoints":
        folder = checkpoints(source, tmp_path / "it")
    elif kind == "SavedModel":
        folder = saved_model(source, tmp_path / "it")
    elif kind == "versions":
        saved_model(build(seed=2), tmp_path / "it" / "1")
        saved_model(source, tmp_path / "it" / "12")
        folder = tmp_path / "it"
    else:
        folder = keras_file(source, tmp_path / kind)
    for path in [folder] if folder.is_file() else folder.rglob("*"):
        if path.is_file():
            cloud.put(f"models/{path.relative_to(tmp_path)}", path.read_bytes())
    for location in (f"gs://{BUCKET}/models/{folder.name}", folder):
        assert_equal_weights(build(path=location).variables, source.variables)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_last_layer_has_random_weights_for_another_number_of_classes(kind, tmp_path, capsys):
    original = build(seed=1)
    loaded = build(seed=2, classes=5, path=KINDS[kind](original, tmp_path))
    assert_equal_weights(loaded.network.weights, original.network.weights)
    assert_equal_weights(loaded.head.weights, build(seed=2, classes=5).head.weights)
    event = last_event(capsys)
    assert event["last_layer_loaded"] is False
    assert "for 5 classes, has new random weights because the one there is for 3" in event["message"]


@pytest.mark.parametrize(
    ("kind", "saved_type", "model_type"),
    [
        *((kind, "resnet-18", "mobilenet-v2") for kind in KINDS),
        ("checkpoints", "mobilenet-v2", "resnet-18"),
        ("weights.h5", "mobilenet-v2", "resnet-18"),
    ],
)
def test_weights_of_another_network_are_rejected_with_the_differences(kind, saved_type, model_type, tmp_path):
    path = KINDS[kind](build(saved_type), tmp_path)
    with pytest.raises(InvalidArgumentError, match=f"do not match model_type={model_type}") as caught:
        build(model_type, path=path)
    assert any(difference in caught.value.problem for difference in (" missing: ", " unknown: "))
    assert str(path) in caught.value.where
    assert "model_type" in caught.value.remedy


def test_a_wider_network_with_the_same_names_is_rejected_because_of_its_shapes(tmp_path):
    path = checkpoints(build("efficientnet-b1"), tmp_path / "checkpoints")
    with pytest.raises(InvalidArgumentError, match=r"with another shape: .* in efficientnet-b2"):
        build("efficientnet-b2", path=path)


def test_a_rejected_saved_model_is_described_by_its_provenance(tmp_path):
    path = saved_model(build(), tmp_path / "model")
    (path / "provenance.json").write_text(json.dumps({"model_type": "mobilenet-v2"}))
    with pytest.raises(InvalidArgumentError, match=r"SavedModel of mobilenet-v2 \(260\)"):
        build("resnet-18", path=path)


def test_a_network_within_another_model_is_found_and_the_last_layer_may_be_missing(tmp_path, capsys):
    network = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(96, 96, 3))
    layers = [keras.Input((96, 96, 3)), keras.layers.Rescaling(2.0), network]
    keras.Sequential(layers).save_weights(tmp_path / "a.weights.h5")
    assert_equal_weights(build(path=tmp_path / "a.weights.h5").network.weights, network.weights)
    assert "has new random weights because there is none" in last_event(capsys)["message"]


def test_a_checkpoint_with_only_the_last_layer_is_rejected(tmp_path):
    path = checkpoints(build(), tmp_path / "checkpoints", complete=False)
    with pytest.raises(MissingInputError, match="only the last layer"):
        build(path=path)


def test_missing_files_and_unknown_formats_are_rejected(tmp_path, cloud):
    with pytest.raises(MissingInputError, match="does not exist"):
        build(path=tmp_path / "nothing")
    with pytest.raises(MissingInputError, match="no checkpoint"):
        build(path=tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"?")
    with pytest.raises(MissingInputError, match="unsupported file format"):
        build(path=tmp_path / "model.onnx")
    with pytest.raises(MissingInputError, match="does not exist"):
        build(path=f"gs://{BUCKET}/model")
    with pytest.raises(InvalidArgumentError, match=r"az:// is not supported"):
        build(path="az://bucket/model")


def test_damaged_files_are_rejected_as_invalid_data(tmp_path):
    (tmp_path / "a.weights.h5").write_bytes(b"not an HDF5 file")
    (tmp_path / "a.keras").write_bytes(b"not a zip file")
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    model = saved_model(build(), tmp_path / "model")
    index = model / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:100])
    for name in ("a.weights.h5", "a.keras", "b.keras", "model"):
        with pytest.raises(InvalidDataError, match="cannot be read") as caught:
            build(path=tmp_path / name)
        assert name in caught.value.where


def test_a_saved_model_of_another_tool_is_rejected(tmp_path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).export(tmp_path / "model", verbose=False)
    with pytest.raises(InvalidArgumentError, match="was not written by imgpipe"):
        build(path=tmp_path / "model")


def test_a_frozen_network_keeps_the_loaded_weights(tmp_path):
    path = saved_model(build(seed=1), tmp_path / "model")
    loaded = build(seed=2, classes=4, path=path, freeze="stage2")
    trained = {id(variable) for variable in loaded.trained_variables}
    stem = loaded.network.get_layer("Conv1").kernel
    assert id(stem) not in trained
    assert np.array_equal(stem.numpy(), build(seed=1).network.get_layer("Conv1").kernel.numpy())
