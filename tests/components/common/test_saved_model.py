import shutil

import numpy as np
import pytest

from imgpipe.components.common.label_sets import label_sets
from imgpipe.components.common.saved_model import write_saved_model
from imgpipe.components.common.served_model import load_served_model
from imgpipe.components.common.temperature import logits_of, probabilities_of
from imgpipe.components.common.tensorflow_2_6 import unknown_operations
from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.training_decoder import decode_image
from imgpipe.components.images.preparation import prepare_image
from imgpipe.components.images.resize_modes import RESIZE_MODES
from tests.command_line import run_python

LABELS = ("dark", "größer, 日本", "bright")


@pytest.fixture(scope="module")
def folder(linear_model, tmp_path_factory):
    return linear_model(tmp_path_factory.mktemp("model") / "model", LABELS)


@pytest.fixture(scope="module")
def signature(folder):
    loaded = tf.saved_model.load(str(folder))
    yield loaded.signatures["serving_default"]
    # The variables are deleted with the model.
    assert loaded is not None


@pytest.fixture(scope="module")
def images(encode):
    draw = np.random.default_rng(0)
    return [encode(draw.integers(0, 256, (8, 8, 3))) for _ in range(32)]


def call(signature, images, keys=None):
    keys = [f"key {number}".encode() for number in range(len(images))] if keys is None else keys
    answer = signature(image_bytes=tf.constant(images, tf.string), key=tf.constant(keys, tf.string))
    return {name: value.numpy() for name, value in answer.items()}


def test_the_signature_equals_the_original_algorithm_s(folder):
    loaded = tf.saved_model.load(str(folder))
    assert set(loaded.signatures) == {"serving_default", "classify", "top_labels"}
    for name in ("serving_default", "classify"):
        signature = loaded.signatures[name]
        inputs = signature.structured_input_signature[1]
        assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in inputs.items()} == {
            "image_bytes": (tf.string, [None]),
            "key": (tf.string, [None]),
        }
        outputs = signature.structured_outputs
        assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in outputs.items()} == {
            "classes": (tf.int64, [None]),
            "key": (tf.string, [None]),
            "probabilities": (tf.float32, [None, 3]),
        }


def test_probabilities_are_the_softmax_and_the_class_is_their_argmax(signature, images):
    answer = call(signature, images)
    assert answer["probabilities"].sum(axis=1) == pytest.approx(np.ones(32), abs=1e-6)
    assert (answer["classes"] == answer["probabilities"].argmax(axis=1)).all()
    assert len(set(answer["classes"])) > 1


@pytest.mark.parametrize("count", [0, 1, 32])
def test_a_batch_of_any_size_is_predicted(signature, images, count):
    answer = call(signature, images[:count])
    assert answer["classes"].shape == (count,)
    assert answer["probabilities"].shape == (count, 3)
    assert answer["key"].tolist() == [f"key {number}".encode() for number in range(count)]
    everything = call(signature, images)["probabilities"][:count]
    np.testing.assert_allclose(answer["probabilities"], everything, atol=1e-6)


def test_top_labels_returns_the_most_probable_labels_in_order(folder, signature, images):
    answer = call(tf.saved_model.load(str(folder)).signatures["top_labels"], images)
    probabilities = call(signature, images)["probabilities"]
    order = np.argsort(-probabilities, axis=1, kind="stable")
    assert answer["classes"].tolist() == order.tolist()
    assert answer["probabilities"].tolist() == np.take_along_axis(probabilities, order, axis=1).tolist()
    assert [[name.decode() for name in row] for row in answer["labels"]] == [
        [LABELS[number] for number in row] for row in order
    ]
    assert answer["key"].tolist() == [f"key {number}".encode() for number in range(32)]


def test_top_labels_returns_at_most_five_labels(linear_model, images, tmp_path):
    folder = linear_model(tmp_path / "model", [f"label {number}" for number in range(9)])
    answer = call(tf.saved_model.load(str(folder)).signatures["top_labels"], images)
    assert answer["labels"].shape == answer["classes"].shape == answer["probabilities"].shape == (32, 5)


@pytest.mark.parametrize("keys", [[b"a"], [b"a", b"b", b"c"], []])
def test_every_image_needs_a_key(signature, images, keys):
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have the same length"):
        call(signature, images[:2], keys)


class Mean:
    """Returns the mean red, green and blue as logits."""

    variables = ()

    def logits(self, images, **_):
        return tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2]) / 5 - 25


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_temperature_divides_the_logits(multi_label, images, tmp_path):
    for temperature in (1.0, 3.7):
        folder = tmp_path / str(temperature)
        write_saved_model(Mean(), 8, LABELS, folder, multi_label=multi_label, temperature=temperature)
    plain, scaled = (
        load_served_model(tmp_path / name).call(images, [str(n) for n in range(32)])
        for name in ("1.0", "3.7")
    )
    logits = logits_of(plain["probabilities"], 1.0, multi_label=multi_label)
    expected = probabilities_of(logits, 3.7, multi_label=multi_label)
    np.testing.assert_allclose(scaled["probabilities"], expected, atol=1e-5)
    np.testing.assert_array_equal(scaled["classes"], plain["classes"])
    assert unknown_operations(tmp_path / "3.7") == []


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_label_sets_are_those_of_the_probabilities(multi_label, images, tmp_path):
    thresholds = (0.5, 0.3, 0.6) if multi_label else (0.4,)
    folder = tmp_path / "model"
    write_saved_model(Mean(), 8, LABELS, folder, multi_label=multi_label, set_thresholds=thresholds)
    model = load_served_model(folder)
    answer = model.call(images, [str(number) for number in range(32)], "label_sets")
    plain = model.call(images, [""] * 32)
    np.testing.assert_array_equal(answer["probabilities"], plain["probabilities"])
    assert answer["key"].tolist() == [str(number).encode() for number in range(32)]
    expected = label_sets(plain["probabilities"], thresholds, multi_label=multi_label)
    np.testing.assert_array_equal(answer["in_set"], expected)
    assert 0.1 < expected.mean() < 0.9
    assert unknown_operations(folder) == []


@pytest.mark.parametrize("resize", RESIZE_MODES)
def test_serving_decodes_to_the_pixels_of_training(encode, tmp_path, resize):
    class Echo:
        """Returns the image's pixels as logits."""

        variables = ()

        def logits(self, images, **_):
            return tf.reshape(tf.cast(images, tf.float32), [-1, 6 * 6 * 3]) / 16

    draw = np.random.default_rng(0)
    photo = encode(draw.integers(0, 256, (19, 31, 3)), "JPEG")
    # As a client may send it, with an alpha channel.
    glass = encode(draw.integers(0, 256, (19, 31, 4)), "PNG")
    write_saved_model(Echo(), 6, [str(number) for number in range(108)], tmp_path / "model", resize=resize)
    assert unknown_operations(tmp_path / "model") == []
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    answer = call(loaded.signatures["serving_default"], [photo, glass])
    records = [photo, prepare_image(glass).encoded]
    pixels = np.stack(
        [decode_image(tf.constant(record), 6, resize).numpy().reshape(108) for record in records]
    )
    expected = tf.nn.softmax(pixels / np.float32(16)).numpy()
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-6)


def test_a_moved_folder_can_be_served_without_our_code(folder, signature, images, tmp_path):
    moved = tmp_path / "elsewhere" / "1"
    shutil.copytree(folder, moved)
    (tmp_path / "image").write_bytes(images[3])
    code = (
        "import sys, tensorflow as tf\n"
        f"model = tf.saved_model.load({str(moved)!r})\n"
        f"image = open({str(tmp_path / 'image')!r}, 'rb').read()\n"
        "call = model.signatures['serving_default']\n"
        "answer = call(image_bytes=tf.constant([image]), key=tf.constant(['k']))\n"
        "assert not any(name.split('.')[0] == 'components' for name in sys.modules)\n"
        "print(*answer['probabilities'][0].numpy().tolist())\n"
    )
    result = run_python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = [float(word) for word in result.stdout.split()]
    assert found == pytest.approx(call(signature, [images[3]])["probabilities"][0].tolist(), abs=1e-6)
