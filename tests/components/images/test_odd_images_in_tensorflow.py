"""TensorFlow decodes a record to the pixels that Pillow shows: for generated and for real unusual images."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.checking import ImageError
from imgpipe.components.images.graph.training_decoder import decode_image
from imgpipe.components.images.preparation import prepare_image

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "odd_images"
REAL = sorted(path for path in FOLDER.glob("*/*.*") if path.is_file())
HEIGHT, WIDTH = 24, 36

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def picture(mode):
    across, down = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    pixels = np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)
    image = Image.fromarray(pixels)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(down.astype(np.uint8)))
        return image
    return image.convert(mode)


def encoded(mode, image_format, **options):
    buffer = io.BytesIO()
    picture(mode).save(buffer, image_format, **options)
    return buffer.getvalue()


def exif_orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif.tobytes()


def run_length_bmp():
    """A BMP with run-length encoded rows, which TensorFlow does not decode."""
    palette = b"".join(bytes((number, 255 - number, 80, 0)) for number in range(256))
    body = b"".join(bytes((WIDTH, row * 10 % 256, 0, 0)) for row in range(HEIGHT)) + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(body), 2835, 2835, 256, 0)
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + header + palette + body


def sixteen_bit():
    buffer = io.BytesIO()
    gray = np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
    Image.fromarray(gray).save(buffer, "PNG")
    return buffer.getvalue()


MADE = {
    "red, green and blue JPEG": encoded("RGB", "JPEG", quality=95),
    "gray JPEG": encoded("L", "JPEG", quality=95),
    "CMYK JPEG": encoded("CMYK", "JPEG", quality=95),
    "progressive JPEG": encoded("RGB", "JPEG", quality=95, progressive=True),
    **{
        f"JPEG rotated {number}": encoded("RGB", "JPEG", quality=95, exif=exif_orientation(number))
        for number in range(2, 9)
    },
    "PNG": encoded("RGB", "PNG"),
    "palette PNG": encoded("P", "PNG"),
    "transparent PNG": encoded("RGBA", "PNG"),
    "rotated PNG": encoded("RGB", "PNG", exif=exif_orientation(6)),
    "16-bit PNG": sixteen_bit(),
    "GIF": encoded("P", "GIF"),
    "BMP": encoded("RGB", "BMP"),
    "run-length encoded BMP": run_length_bmp(),
    "WebP": encoded("RGB", "WEBP", lossless=True),
    "transparent WebP": encoded("RGBA", "WEBP", lossless=True, exact=True),
}


def shown(data):
    """The pixels in a viewer: upright, on white, float [height, width, 3]."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        return np.repeat(np.asarray(image)[..., None] / 257.0, 3, axis=-1)
    layered = np.asarray(image.convert("RGBA")).astype(float)
    share = layered[..., 3:] / 255
    opaque = np.asarray(image.convert("RGB")) if not image.has_transparency_data else layered[..., :3]
    return opaque * share + 255 * (1 - share)


def decoded(data):
    if data.startswith(b"\xff\xd8\xff"):
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    return tf.io.decode_image(data, channels=3, expand_animations=False).numpy()


def check(data):
    prepared = prepare_image(data)
    pixels = decoded(prepared.encoded)
    assert pixels.shape == (prepared.height, prepared.width, 3)
    assert np.abs(pixels - shown(data)).mean() < 2
    # The decoder of training.
    assert decode_image(tf.constant(prepared.encoded), 16).shape == (16, 16, 3)


@pytest.mark.parametrize("name", MADE)
def test_a_generated_image_is_decoded_to_what_a_viewer_shows(name):
    check(MADE[name])


@pytest.mark.skipif(not REAL, reason=f"SKIPPED: the real unusual images are not at {FOLDER}")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_a_real_image_is_decoded_to_what_a_viewer_shows_or_rejected(path):
    try:
        check(path.read_bytes())
    except ImageError as error:
        assert str(error)  # noqa: PT017
