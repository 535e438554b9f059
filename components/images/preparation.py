"""Prepares an image file so that TensorFlow decodes it to what a viewer shows. No TensorFlow.

TensorFlow's decoders ignore the EXIF orientation, drop an alpha channel instead of compositing it on a
background, and differ in the formats that they accept. A file that they decode as a viewer shows it is
kept byte for byte; any other is re-encoded once, and the reason is recorded.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps

from imgpipe.components.images.checking import (
    check_jpeg,
    check_png_chunks,
    detect_image_format,
    load_pixels,
    open_image,
    undecodable,
)
from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_PIXELS

_JPEG_QUALITY = 95
_UPRIGHT = 1
_FIRST_OF_SEVERAL = {"TIFF": "first page", "HEIF": "first of several pictures"}
# A JPEG file has its orientation in an EXIF block or in XMP (tiff:Orientation), if it has any.
_ORIENTATION_KEYWORDS = (b"Exif", b"rientation")
# Source: ITU-T T.81, table B.1. A marker may be preceded by any number of bytes 0xFF.
_MARKER = 0xFF
_START_OF_SCAN = 0xDA
_CODES_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xDA), 0xFF))


@dataclass(frozen=True)
class PreparedImage:
    """An image as it is stored in a record.

    Attributes:
        encoded: A JPEG or PNG file that TensorFlow decodes to 8-bit pixels, upright, opaque.
        format: ``JPEG`` or ``PNG``.
        height: In pixels.
        width: In pixels.
        reencoded: Why ``encoded`` differs from the input; empty if it is the input's bytes.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    reencoded: str = ""


def prepare_image(data: bytes, max_pixels: int = DEFAULT_MAX_IMAGE_PIXELS) -> PreparedImage:
    """Checks a whole image file and re-encodes it if TensorFlow would decode it wrongly.

    The format is detected from the content, not from a file name. JPEG files stay JPEG, all others become
    PNG; an animation is reduced to its first frame; transparency is composited on white. Equal input gives
    equal output. Thread-safe.

    Args:
        data: The content of the file.
        max_pixels: The largest width times height.

    Raises:
        ImageError: if the file is empty, has another format, is damaged (even where a viewer would
            still show something) or has more than ``max_pixels``.
    """
    image_format = detect_image_format(data)
    if image_format == "JPEG":
        return _prepare_jpeg(data, max_pixels)
    if image_format == "PNG":
        return _prepare_png(data, max_pixels)
    return _prepare_other(data, image_format, max_pixels)


def _prepare_jpeg(data: bytes, max_pixels: int) -> PreparedImage:
    height, width = check_jpeg(data, max_pixels)
    header = _jpeg_header(data)
    if not any(keyword in header for keyword in _ORIENTATION_KEYWORDS):
        return PreparedImage(data, "JPEG", height, width)
    image = open_image(data, "JPEG", max_pixels)
    orientation = _orientation(image)
    if orientation == _UPRIGHT:
        return PreparedImage(data, "JPEG", height, width)
    pixels = _rotate_upright(image)
    if pixels.mode not in ("RGB", "L"):
        pixels = pixels.convert("RGB")
    encoded = _encode(pixels, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return PreparedImage(encoded, "JPEG", pixels.height, pixels.width, f"EXIF orientation {orientation}")


def _jpeg_header(data: bytes) -> bytes:
    """Returns the bytes before the first scan, or the whole file if its segments are not contiguous."""
    offset = 2
    while offset + 4 <= len(data) and data[offset] == _MARKER:
        code = data[offset + 1]
        if code == _START_OF_SCAN:
            return data[:offset]
        if code in _CODES_WITHOUT_LENGTH:
            break
        offset += 2 + (data[offset + 2] << 8 | data[offset + 3])
    return data


def _prepare_png(data: bytes, max_pixels: int) -> PreparedImage:
    bit_depth, transparent = check_png_chunks(data)
    image = open_image(data, "PNG", max_pixels)
    load_pixels(image)
    orientation = _orientation(image)
    reasons = []
    if bit_depth == 16:
        reasons.append("16 bits per channel")
    if transparent:
        reasons.append("transparency")
    if orientation != _UPRIGHT:
        reasons.append(f"EXIF orientation {orientation}")
    if not reasons:
        return PreparedImage(data, "PNG", image.height, image.width)
    return _as_png(_with_eight_bits(image, bit_depth), reasons)


def _prepare_other(data: bytes, image_format: str, max_pixels: int) -> PreparedImage:
    image = open_image(data, image_format, max_pixels)
    reasons = [image_format]
    try:
        if getattr(image, "is_animated", False):
            reasons.append(_FIRST_OF_SEVERAL.get(image_format, "first frame of an animation"))
        transparent = image.has_transparency_data
    except Exception as error:
        raise undecodable(image_format, error) from None
    load_pixels(image)
    orientation = _orientation(image)
    if orientation != _UPRIGHT:
        reasons.append(f"EXIF orientation {orientation}")
    if transparent:
        reasons.append("transparency")
    if image.mode.startswith("I;16"):
        reasons.append("16 bits per channel")
        image = _with_eight_bits(image, 16)
    return _as_png(image, reasons)


def _as_png(image: Image.Image, reasons: list[str]) -> PreparedImage:
    pixels = _rotate_upright(_composite_on_white(image))
    if pixels.mode not in ("RGB", "L"):
        try:
            pixels = pixels.convert("RGB")
        except ValueError as error:
            # Pillow cannot convert all color spaces of TIFF.
            raise undecodable(image.format, error) from None
    return PreparedImage(_encode(pixels, "PNG"), "PNG", pixels.height, pixels.width, ", ".join(reasons))


def _with_eight_bits(image: Image.Image, bit_depth: int) -> Image.Image:
    """Returns the loaded PNG with 8 bits per channel, and its transparent color on the same scale.

    Pillow scales the pixels of all PNG modes to 8 bits except 16-bit gray, and keeps the value of the
    transparent color (tRNS) as the file has it.
    """
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        # 65535 / 257 = 255: full range to full range, rounded. Pillow's own conversion clips at 255.
        gray = ((values + 128) // 257).astype(np.uint8)
        if isinstance(transparent, int):
            gray[values == transparent] = 255
        return _with_info_of(image, Image.fromarray(gray))
    if image.mode in ("L", "1") and isinstance(transparent, int):
        image = image.convert("L")
        image.info["transparency"] = transparent * 255 // (2**bit_depth - 1)
    elif image.mode == "RGB" and bit_depth == 16 and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return image


def _composite_on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return _with_info_of(image, Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))


def _with_info_of(image: Image.Image, opaque: Image.Image) -> Image.Image:
    # Keeps the EXIF block: the orientation is applied last.
    opaque.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return opaque


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 (upright) if it is missing or invalid."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    except Exception:
        # A damaged EXIF block does not affect the pixels; viewers ignore it.
        return _UPRIGHT
    return orientation if orientation in range(1, 9) else _UPRIGHT


def _rotate_upright(image: Image.Image) -> Image.Image:
    try:
        return image if _orientation(image) == _UPRIGHT else ImageOps.exif_transpose(image)
    except Exception as error:
        raise undecodable(image.format, error) from None


def _encode(image: Image.Image, image_format: str, **options: int) -> bytes:
    # Otherwise Pillow writes the color profile and the transparent color in info to the file.
    image.info = {}
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()
