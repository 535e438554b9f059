import io

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.serving_decoder import decode_image_file
from imgpipe.components.images.graph.training_decoder import decode_image, scale_to_square
from imgpipe.components.images.resize_modes import CROP, LETTERBOX, STRETCH
from tests.components.records import encoded as saved

SIZE = 40


@pytest.fixture(scope="module")
def picture():
    """A smooth image with an edge, like a photo: 40 pixels wide and high."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    red = 127 + 120 * np.sin(rows / 9)
    green = np.where(columns > SIZE // 2, 220, 30)
    return np.stack([red, green, 3 * rows + 2 * columns], axis=-1).astype(np.uint8)


def decoded(encoded, size=SIZE):
    return decode_image(tf.constant(encoded), size).numpy()


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_jpeg_decodes_to_pillows_pixels(picture, subsampling):
    encoded = saved(Image.fromarray(picture), "JPEG", quality=90, subsampling=subsampling)
    pillow = np.asarray(Image.open(io.BytesIO(encoded)), np.int32)
    difference = np.abs(decoded(encoded) - pillow)
    assert difference.mean() <= 0.05
    assert difference.max() <= 2


def test_a_grey_jpeg_has_three_equal_channels(picture):
    encoded = saved(Image.fromarray(picture).convert("L"), "JPEG")
    pixels = decoded(encoded)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert (pixels == pixels[:, :, :1]).all()


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [("RGB", "PNG"), ("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("RGB", "BMP"), ("P", "GIF")],
)
def test_lossless_files_decode_exactly(picture, mode, image_format):
    image = Image.fromarray(picture).convert(mode)
    assert (decoded(saved(image, image_format)) == np.asarray(image.convert("RGB"))).all()


def test_an_animation_is_decoded_to_its_first_frame():
    frames = [Image.new("RGB", (SIZE, SIZE), color) for color in ("red", "lime", "blue")]
    encoded = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    pixels = decoded(encoded)
    assert pixels.shape == (SIZE, SIZE, 3)
    assert (pixels == (255, 0, 0)).all()


def test_the_whole_image_is_scaled_to_a_square():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 30:] = 200
    pixels = decoded(saved(Image.fromarray(image), "PNG"), 30)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (30, 30, 3)
    assert (pixels[:, :14] == 0).all()
    assert (pixels[:, 16:] == 200).all()


def test_scaling_has_no_antialiasing():
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    # At a third of the size, the center of each pixel is the center of a pixel of the image.
    assert (decoded(saved(Image.fromarray(image), "PNG"), 10) == image[1::3, 1::3]).all()


def test_an_image_of_one_pixel_fills_the_square():
    encoded = saved(Image.new("RGB", (1, 1), (7, 8, 9)), "PNG")
    assert (decoded(encoded, 5) == (7, 8, 9)).all()


@pytest.mark.parametrize("encoded", [b"", b"\xff\xd8\xff", b"no image at all", b"\x89PNG\r\n\x1a\n cut"])
def test_bytes_that_are_not_an_image_are_an_error(encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoded(encoded)


def test_a_truncated_jpeg_is_an_error(picture):
    encoded = saved(Image.fromarray(picture), "JPEG")
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoded(encoded[: len(encoded) // 2])


@pytest.mark.parametrize("shape", [(30, 90), (90, 30), (31, 90), (50, 50), (1, 400), (400, 1)])
def test_a_letterboxed_image_keeps_its_shape_between_equal_bars(shape):
    pixels = scale_to_square(tf.fill([*shape, 3], tf.constant(200, tf.uint8)), 30, LETTERBOX).numpy()
    rows, columns = (max(1, round(30 * side / max(shape))) for side in shape)
    top, left = (30 - rows) // 2, (30 - columns) // 2
    shown = np.zeros((30, 30), bool)
    shown[top : top + rows, left : left + columns] = True
    assert (pixels[shown] == 200).all()
    assert (pixels[~shown] == 128).all()


@pytest.mark.parametrize("shape", [(30, 90), (90, 31), (50, 50)])
def test_a_cropped_image_is_the_square_in_its_middle(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    middle = pixels[top : top + side, left : left + side]
    expected = scale_to_square(tf.constant(middle), 20, STRETCH).numpy()
    assert (scale_to_square(tf.constant(pixels), 20, CROP).numpy() == expected).all()


@pytest.mark.parametrize("resize", [CROP, LETTERBOX])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP"])
def test_the_served_model_gets_the_pixels_of_the_training(resize, image_format):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    content = tf.constant(saved(Image.fromarray(pixels), image_format))
    served = decode_image_file(content, 24, webp=False, resize=resize).numpy()
    assert (served == decode_image(content, 24, resize).numpy()).all()
