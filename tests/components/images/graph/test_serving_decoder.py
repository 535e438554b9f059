"""The serving decoder decodes a client's file to the same pixels as training."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.checking import ImageError
from imgpipe.components.images.graph.serving_decoder import decode_image_file
from imgpipe.components.images.graph.training_decoder import decode_image
from imgpipe.components.images.preparation import prepare_image
from tests.components.images.image_files import EQUAL, NOT_AVAILABLE, REAL, ROTATED, picture, run_length_bmp
from tests.components.records import encoded

SMALL = [path for path in REAL if path.stat().st_size < 700_000]
SIZE = 32
# Rejected, because TensorFlow cannot decode them inside a graph.
REJECTED = {"hopper_rle8.bmp", "iss634.webp"}
# Convert re-encodes a photo that it rotates; the served graph does not. In levels of 0..255.
MAX_MEAN_DIFFERENCE = 1.0

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def serve(encoded):
    return decode_image_file(encoded, SIZE, webp=True)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def serve_without_webp(encoded):
    return decode_image_file(encoded, SIZE, webp=False)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def train(encoded):
    return decode_image(encoded, SIZE)


def prepared(data):
    return train(tf.constant(prepare_image(data).encoded)).numpy().astype(int)


@pytest.mark.parametrize("name", EQUAL)
def test_the_pixels_equal_training_bit_for_bit(name):
    np.testing.assert_array_equal(serve(tf.constant(EQUAL[name])).numpy(), prepared(EQUAL[name]))


@pytest.mark.parametrize("name", ROTATED)
def test_a_rotated_photo_differs_only_by_the_loss_of_reencoding(name):
    data = ROTATED[name]
    assert prepare_image(data).reencoded.startswith("EXIF orientation")
    difference = np.abs(serve(tf.constant(data)).numpy() - prepared(data))
    assert difference.mean() < MAX_MEAN_DIFFERENCE
    # The test is sensitive: without the rotation, the pixels differ.
    assert np.abs(train(tf.constant(data)).numpy() - prepared(data)).mean() > 10


@pytest.mark.skipif(not SMALL, reason=NOT_AVAILABLE)
@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.name)
def test_a_real_image_is_decoded_as_by_convert_and_training(path):
    data = path.read_bytes()
    try:
        expected = prepared(data)
    except ImageError:
        # Convert is stricter about damage than the serving decoder.
        pytest.skip("convert rejects it")
    if path.name in REJECTED:
        with pytest.raises(tf.errors.InvalidArgumentError, match="cannot be decoded"):
            serve(tf.constant(data))
        return
    difference = np.abs(serve(tf.constant(data)).numpy() - expected)
    if "EXIF" in prepare_image(data).reencoded and data.startswith(b"\xff\xd8"):
        assert difference.mean() < MAX_MEAN_DIFFERENCE
    else:
        assert difference.max() == 0


def test_an_animated_webp_is_rejected_before_it_reaches_the_decoder():
    data = encoded(picture(), "WEBP", save_all=True, append_images=[picture().rotate(180)], lossless=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="an animated WebP cannot be decoded"):
        serve(tf.constant(data))


def test_without_webp_the_pixels_are_the_same_and_webp_is_rejected_with_a_remedy():
    for name, data in EQUAL.items():
        if "WebP" not in name:
            np.testing.assert_array_equal(serve_without_webp(tf.constant(data)).numpy(), prepared(data))
    with pytest.raises(tf.errors.InvalidArgumentError, match="does not decode WebP files: send a JPEG or"):
        serve_without_webp(tf.constant(EQUAL["WebP"]))


def test_a_run_length_encoded_bmp_is_rejected():
    with pytest.raises(tf.errors.InvalidArgumentError, match="a BMP of this kind cannot be decoded"):
        serve(tf.constant(run_length_bmp()))


@pytest.mark.parametrize("data", [b"", b"B", b"text", b"II*\0 a TIFF file", b"RIFF", b"RIFFxxxxWEBPVP8X"])
def test_other_files_are_rejected(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(tf.constant(data))


ANY = [*EQUAL.values(), *ROTATED.values()]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_decoded_or_rejected_and_never_crashes(data):
    content = bytearray(data.draw(st.sampled_from(ANY)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    with suppress(tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError):
        assert serve(tf.constant(bytes(content))).shape == (SIZE, SIZE, 3)
