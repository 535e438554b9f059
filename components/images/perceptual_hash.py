"""A hash of what an image shows, which changes little when the image is scaled or compressed again.

Only integers are added and multiplied, so that every machine gets the same hash.
"""

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from imgpipe.components.images.checking import detect_image_format, open_image
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_PIXELS

HASH_WORDS = 4
# Smaller images have too few pixels to be compared.
_MIN_SIDE = 64
# JPEG files are decoded at the smallest of libjpeg's scales with this side.
_MIN_DECODED_SIDE = 96
_SIDE = 32
_FREQUENCIES = 16
# The standard deviation of the brightness, 0..255. The hash of a flatter image would be noise.
_MIN_CONTRAST = 6
_COSINES = np.round(
    1024 * np.cos(np.pi * (2 * np.arange(_SIDE) + 1) * np.arange(_FREQUENCIES)[:, None] / (2 * _SIDE))
).astype(np.int64)
_ROWS, _COLUMNS = np.divmod(np.arange(_FREQUENCIES**2), _FREQUENCIES)
# From the lowest frequency on. The first is the mean brightness, which is left out.
_ORDER = np.argsort(_ROWS**2 + _COLUMNS**2, kind="stable")[1:]


def perceptual_hash(
    data: bytes, max_pixels: int = DEFAULT_MAX_IMAGE_PIXELS
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]] | None:
    """Returns the hash of an image file, and its mean color.

    The hash is the sign of 255 frequencies of the image at 32x32 pixels, the lowest first. Scaled or
    recompressed copies of a photo differ in up to 20 of them; different photos of one flower species differ
    in 70 and more.

    Args:
        data: The content of the file.
        max_pixels: Larger images are not decoded.

    Returns:
        uint64 [4] and uint8 [3]; None if the image cannot be decoded, is smaller than 64 pixels on a side, or
        shows almost nothing.
    """
    try:
        pixels = _decode(data, max_pixels)
    except Exception:
        # Pillow raises almost any class for a damaged file; the conversion rejects it with the reason.
        return None
    if pixels is None:
        return None
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    gray = (299 * red + 587 * green + 114 * blue) // 1000
    count = gray.size
    if count * int((gray**2).sum()) - int(gray.sum()) ** 2 < (_MIN_CONTRAST * count) ** 2:
        return None
    frequencies = (_COSINES @ gray @ _COSINES.T).ravel()[_ORDER]
    bits = np.packbits(np.append(frequencies > 0, False))
    color = (pixels.reshape(count, 3).astype(np.int64).sum(axis=0) // count).astype(np.uint8)
    return bits.view(np.uint64), color


def _decode(data: bytes, max_pixels: int) -> npt.NDArray[np.uint8] | None:
    """Returns the image at 32x32 pixels, uint8 [32, 32, 3]; None if it is too small."""
    image_format = detect_image_format(data)
    image = _decode_jpeg(data, max_pixels) if image_format == "JPEG" else None
    if image is None:
        image = open_image(data, image_format, max_pixels)
    if min(image.size) < _MIN_SIDE:
        return None
    if "transparency" in image.info or image.mode == "PA":
        image = image.convert("RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    # Scaled first, to need little memory.
    small_image = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    if small_image.mode in ("LA", "RGBA"):
        white = Image.new("RGBA", small_image.size, "white")
        small_image = Image.alpha_composite(white, small_image.convert("RGBA"))
    return np.asarray(small_image.convert("RGB"))


def _decode_jpeg(data: bytes, max_pixels: int) -> Image.Image | None:
    """Returns the image at a reduced size; None if it is one for Pillow, which takes three times as long."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
        if min(height, width) < _MIN_SIDE or height * width > max_pixels:
            return None
        side = _MIN_DECODED_SIDE
        return Image.fromarray(simplejpeg.decode_jpeg(data, min_height=side, min_width=side, strict=False))
    except ValueError:
        return None
