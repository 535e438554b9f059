import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.served_model import ServedModel, load_served_model
from imgpipe.components.common.tf_import import tf
from imgpipe.components.evaluate.attention import attention_maps

SIZE = 8


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Network(tf.Module):
    """Classes: as bright as the mean of the image, of a network with or without a pooling."""

    def __init__(self, pools: bool) -> None:
        self._weight = tf.Variable([[1.0, -1.0]] * 3)
        self._pools = pools

        @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8)])
        def outputs_of_pixels(images):
            features = tf.cast(images, tf.float32) / 255
            if self._pools:
                pooled = tf.reduce_mean(features, (1, 2))
            else:
                pooled = tf.reshape(features, [-1, SIZE * SIZE * 3])[:, :3]
            return {"probabilities": tf.nn.softmax(pooled @ self._weight)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def pixels_of_files(files):
            return tf.map_fn(tf.io.decode_png, files, fn_output_signature=tf.uint8)

        self.outputs_of_pixels = outputs_of_pixels
        self.pixels_of_files = pixels_of_files


@pytest.fixture
def bright_corner() -> bytes:
    pixels = np.zeros((SIZE, SIZE, 3))
    pixels[:2, :2] = 255
    return png(pixels)


def saved(pools: bool, folder: Path) -> ServedModel:
    network = Network(pools)
    tf.saved_model.save(network, str(folder))
    return ServedModel(tf.saved_model.load(str(folder)), ("bright", "dark"))


def test_the_map_is_where_the_features_speak_for_the_class(bright_corner, tmp_path):
    model = saved(True, tmp_path)
    for_bright, for_dark = attention_maps(model, [bright_corner] * 2, [0, 1])
    assert for_bright.shape == (SIZE, SIZE)
    np.testing.assert_allclose(for_bright[:2, :2], 1, rtol=1e-5)
    assert not for_bright[2:].any()
    # No place of the image supports darkness: its features are 0.
    assert not for_dark.any()


def test_a_network_without_pooling_has_no_map(bright_corner, tmp_path):
    assert attention_maps(saved(False, tmp_path), [bright_corner], [0]) is None


def test_a_trained_network_has_a_map_for_each_image(trained_digits, digit_records):
    model = load_served_model(trained_digits[0])
    images = [record.encoded for record in digit_records["train"][:9]]
    maps = attention_maps(model, images, [record.label - 1 for record in digit_records["train"][:9]])
    assert len(maps) == 9
    assert maps.max() == pytest.approx(1)
    assert np.isfinite(maps).all()
