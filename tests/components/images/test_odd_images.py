"""TensorFlow decodes prepared images, generated and real ones of all kinds, to what a viewer shows."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageOps

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.checking import ImageError
from imgpipe.components.images.graph.training_decoder import decode_pixels
from imgpipe.components.images.preparation import prepare_image
from tests.components.images.image_files import EQUAL, NOT_AVAILABLE, REAL, ROTATED, run_length_bmp

GENERATED = {**EQUAL, **ROTATED, "run-length encoded BMP": run_length_bmp()}
REJECTED = {
    "empty.jpg": "an empty file",
    "text_named_jpg.jpg": "a text file",
    "truncated_daisy.jpg": "undecodable",
    "truncated_jpeg.jpg": "undecodable",
    "ultrahdr.jpg": "undecodable",
    "corrupt.jpg": "undecodable",
    "corrupt34_3.jpg": "undecodable",
    "hopper_bad_exif.jpg": "damaged but decodable",
    "junk_jpeg_header.jpg": "damaged but decodable",
    "bad_huffman.jpg": "damaged but decodable",
}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def shown_by_a_viewer(data):
    """The pixels upright, on white: float [height, width, 3]."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        return np.repeat(np.asarray(image)[..., None] / 257.0, 3, axis=-1)
    layered = np.asarray(image.convert("RGBA")).astype(float)
    share = layered[..., 3:] / 255
    opaque = np.asarray(image.convert("RGB")) if not image.has_transparency_data else layered[..., :3]
    return opaque * share + 255 * (1 - share)


def check(data):
    prepared = prepare_image(data)
    assert (prepared.encoded == data) == (prepared.reencoded == "")
    pixels = decode_pixels(tf.constant(prepared.encoded)).numpy()
    assert pixels.shape == (prepared.height, prepared.width, 3)
    assert np.abs(pixels - shown_by_a_viewer(data)).mean() < 2
    return prepared


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_image_is_decoded_to_what_a_viewer_shows(name):
    check(GENERATED[name])


@pytest.mark.skipif(not REAL, reason=NOT_AVAILABLE)
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_a_real_image_is_decoded_to_what_a_viewer_shows_or_rejected(path):
    try:
        prepared = check(path.read_bytes())
    except ImageError as error:
        assert REJECTED[path.name] in str(error)  # noqa: PT017
        return
    assert path.name not in REJECTED
    assert Image.open(io.BytesIO(prepared.encoded)).getexif().get(0x0112, 1) == 1


@pytest.mark.skipif(not REAL, reason=NOT_AVAILABLE)
def test_the_real_images_are_of_all_kinds():
    kinds = Counter()
    for path in REAL:
        try:
            kinds[bool(prepare_image(path.read_bytes()).reencoded)] += 1
        except ImageError:
            kinds["rejected"] += 1
    assert kinds["rejected"] == len(REJECTED)
    assert min(kinds[True], kinds[False]) >= 15
