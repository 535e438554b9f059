"""Checks an image file and makes it one that TensorFlow decodes to what a person sees. No TensorFlow.

TensorFlow's decoders ignore the EXIF orientation, drop an alpha channel instead of laying it on a
background, and differ in which formats they take. A file that they decode as a viewer shows it is
kept byte for byte; any other is encoded anew, once, and says why.
"""

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_PIXELS

# The limit is an argument here, checked before memory is taken; Pillow's own is one for the whole process.
Image.MAX_IMAGE_PIXELS = None

JPEG_QUALITY = 95
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ACCEPTED = "JPEG, PNG, GIF, BMP or WebP"
_UPRIGHT = 1
# A JPEG file without any of them has no orientation: it stands in an EXIF block or in XMP (tiff:Orientation).
_WORDS_OF_ORIENTATION = (b"Exif", b"rientation")
# Source: ITU-T T.81, table B.1. A marker may be preceded by any number of bytes 0xFF.
_MARKER = 0xFF
_START_OF_SCAN = 0xDA
_CODES_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xDA), 0xFF))
# What else people find under a name like photo.jpg: the first bytes, and what to say.
_KNOWN_STRANGERS = (
    (b"II*\x00", "a TIFF file"),
    (b"MM\x00*", "a TIFF file"),
    (b"\x00\x00\x00\x0cjP", "a JPEG 2000 file"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF file"),
    (b"version https://git-lfs", "a Git LFS pointer (fetch the image with: git lfs pull)"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
)


class ImageError(ValueError):
    """The file is no image that training can use; the message is the reason, in one line."""


@dataclass(frozen=True)
class PreparedImage:
    """An image as it is stored in a record.

    Attributes:
        encoded: A JPEG or PNG file that TensorFlow decodes to 8-bit pixels, upright, opaque.
        format: ``JPEG`` or ``PNG``.
        height: In pixels.
        width: In pixels.
        reencoded: Why ``encoded`` is not the bytes that were given; empty when it is.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    reencoded: str = ""


def prepare_image(data: bytes, max_pixels: int = DEFAULT_MAX_IMAGE_PIXELS) -> PreparedImage:
    """Checks the whole of an image file and encodes it anew if TensorFlow would show it wrongly.

    The format is told by the content, not by a file name. JPEG files stay JPEG, all others end as
    PNG; an animation ends as its first frame; transparency is laid on white. Equal input gives
    equal output. Safe to call from several threads.

    Args:
        data: The content of the file.
        max_pixels: The largest width times height.

    Raises:
        ImageError: if the file is empty, of another format, damaged (also where a viewer would
            still show something) or has more than ``max_pixels``.
    """
    image_format = image_format_of(data)
    if image_format == "JPEG":
        return _prepare_jpeg(data, max_pixels)
    if image_format == "PNG":
        return _prepare_png(data, max_pixels)
    return _prepare_other(data, image_format, max_pixels)


def image_format_of(data: bytes) -> str:
    """Returns JPEG, PNG, GIF, BMP or WebP, told by the first bytes.

    Raises:
        ImageError: for anything else, with what it seems to be.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    raise ImageError(f"{_stranger(data)}, not {_ACCEPTED}")


def _prepare_jpeg(data: bytes, max_pixels: int) -> PreparedImage:
    height, width = _jpeg_size(data, max_pixels)
    try:
        # An eighth of the size skips most of the work but reads every coded bit, and strict makes an
        # error of what the decoder would otherwise patch over.
        simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        _check_with_pillow(data, str(error), max_pixels)
    header = _jpeg_header(data)
    if not any(word in header for word in _WORDS_OF_ORIENTATION):
        return PreparedImage(data, "JPEG", height, width)
    image = _open(data, "JPEG", max_pixels)
    orientation = _orientation(image)
    if orientation == _UPRIGHT:
        return PreparedImage(data, "JPEG", height, width)
    pixels = _upright(image)
    if pixels.mode not in ("RGB", "L"):
        pixels = pixels.convert("RGB")
    encoded = _encode(pixels, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return PreparedImage(encoded, "JPEG", pixels.height, pixels.width, f"EXIF orientation {orientation}")


def _jpeg_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Returns height and width; asks Pillow, a fifth of the time of decoding, only where it must."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        # Damaged, or of a kind that libjpeg-turbo's own interface does not know.
        image = _open(data, "JPEG", max_pixels)
        return image.height, image.width
    _check_pixels(width, height, max_pixels)
    return height, width


def _jpeg_header(data: bytes) -> bytes:
    """Returns what comes before the first scan; all of a file whose segments do not follow one another."""
    offset = 2
    while offset + 4 <= len(data) and data[offset] == _MARKER:
        code = data[offset + 1]
        if code == _START_OF_SCAN:
            return data[:offset]
        if code in _CODES_WITHOUT_LENGTH:
            break
        offset += 2 + (data[offset + 2] << 8 | data[offset + 3])
    return data


def _check_with_pillow(data: bytes, complaint: str, max_pixels: int) -> None:
    """Decides what the fast check's complaint means: a damaged file, or one that it does not know."""
    image = _open(data, "JPEG", max_pixels)
    try:
        image.load()
    except Exception as error:
        raise ImageError(f"undecodable JPEG: {complaint} ({_one_line(error)})") from None
    # libjpeg-turbo's own interface, whose messages begin with tj, refuses unusual chroma sampling, which
    # is no damage: the decoders of Pillow and TensorFlow take it.
    if not complaint.startswith("tj"):
        raise ImageError(f"damaged but decodable JPEG: {complaint}")


def _prepare_png(data: bytes, max_pixels: int) -> PreparedImage:
    header = _check_png_chunks(data)
    image = _open(data, "PNG", max_pixels)
    _load(image)
    orientation = _orientation(image)
    reasons = []
    if header.bit_depth == 16:
        reasons.append("16 bits a channel")
    if header.transparent:
        reasons.append("transparency")
    if orientation != _UPRIGHT:
        reasons.append(f"EXIF orientation {orientation}")
    if not reasons:
        return PreparedImage(data, "PNG", image.height, image.width)
    return _as_png(_with_eight_bits(image, header), reasons)


def _prepare_other(data: bytes, image_format: str, max_pixels: int) -> PreparedImage:
    image = _open(data, image_format, max_pixels)
    reasons = [image_format]
    try:
        if getattr(image, "is_animated", False):
            reasons.append("first frame of an animation")
        transparent = image.has_transparency_data
    except Exception as error:
        raise ImageError(f"undecodable {image_format}: {_one_line(error)}") from None
    _load(image)
    orientation = _orientation(image)
    if orientation != _UPRIGHT:
        reasons.append(f"EXIF orientation {orientation}")
    if transparent:
        reasons.append("transparency")
    return _as_png(image, reasons)


def _as_png(image: Image.Image, reasons: list[str]) -> PreparedImage:
    pixels = _upright(_on_white(image))
    if pixels.mode not in ("RGB", "L"):
        pixels = pixels.convert("RGB")
    return PreparedImage(_encode(pixels, "PNG"), "PNG", pixels.height, pixels.width, ", ".join(reasons))


@dataclass(frozen=True)
class _PngHeader:
    bit_depth: int
    transparent: bool


def _check_png_chunks(data: bytes) -> _PngHeader:
    """Checks the checksum of every chunk, which Pillow does not do for the pixels, and reads the header."""
    offset = len(_PNG_SIGNATURE)
    names: list[bytes] = []
    header = b""
    while not names or names[-1] != b"IEND":
        if len(data) < offset + 12:
            raise ImageError(f"undecodable PNG: the file ends too early, after {len(data):,} bytes")
        length, name = struct.unpack_from(">I4s", data, offset)
        end = offset + 8 + length
        if len(data) < end + 4:
            raise ImageError(
                f"undecodable PNG: the file is cut off: it has {len(data):,} bytes, "
                f"its chunk {_text(name)} needs {end + 4:,}"
            )
        checksum = zlib.crc32(memoryview(data)[offset + 4 : end])
        if checksum != struct.unpack_from(">I", data, end)[0]:
            # The name of a chunk that a decoder may skip begins with a small letter.
            kind = "damaged but decodable" if name[:1].islower() else "undecodable"
            raise ImageError(f"{kind} PNG: the checksum of chunk {_text(name)} does not match")
        if not names:
            header = data[offset + 8 : end]
        names.append(name)
        offset = end + 4
    if names[0] != b"IHDR" or len(header) != 13:
        raise ImageError("undecodable PNG: it does not begin with a header")
    bit_depth, colour_type = header[8], header[9]
    # Colour type 4 is gray with alpha, 6 is RGB with alpha.
    return _PngHeader(bit_depth, transparent=colour_type in (4, 6) or b"tRNS" in names)


def _with_eight_bits(image: Image.Image, header: _PngHeader) -> Image.Image:
    """Returns the loaded PNG with 8 bits a channel, its transparent colour in the same scale.

    Pillow scales the pixels of all PNG modes to 8 bits except 16-bit gray, and leaves the number of the
    transparent colour (tRNS) as it stands in the file.
    """
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        # 65535 / 257 = 255: whole range to whole range, rounded. Pillow's own conversion clips at 255.
        gray = ((values + 128) // 257).astype(np.uint8)
        if isinstance(transparent, int):
            gray[values == transparent] = 255
        return _with_info_of(image, Image.fromarray(gray))
    if image.mode in ("L", "1") and isinstance(transparent, int):
        image = image.convert("L")
        image.info["transparency"] = transparent * 255 // (2**header.bit_depth - 1)
    elif image.mode == "RGB" and header.bit_depth == 16 and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    layered = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return _with_info_of(image, Image.alpha_composite(white, layered).convert("RGB"))


def _with_info_of(image: Image.Image, opaque: Image.Image) -> Image.Image:
    # The EXIF block goes along: the orientation is applied last.
    opaque.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return opaque


def _open(data: bytes, image_format: str, max_pixels: int) -> Image.Image:
    if image_format == "WebP":
        # Pillow takes the memory of a WebP image when it opens it.
        _check_pixels(*_webp_size(data), max_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=[image_format])
    except Exception as error:
        # Pillow raises nearly every kind of error for damaged files.
        raise ImageError(f"undecodable {image_format}: {_one_line(error)}") from None
    _check_pixels(image.width, image.height, max_pixels)
    return image


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"the image claims {width:,} x {height:,} pixels, more than max_image_pixels={max_pixels:,}; "
            "scale it down or raise the limit"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Returns width and height as a WebP file's header has them; 0 for a header that makes no sense.

    Source: RFC 9649, WebP Image Format, sections 2.5 to 2.7.
    """
    kind, header = data[12:16], data[20:30]
    if len(header) < 10:
        return 0, 0
    if kind == b"VP8X":
        return 1 + int.from_bytes(header[4:7], "little"), 1 + int.from_bytes(header[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(header[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", header, 6)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:
        raise ImageError(f"undecodable {image.format}: {_one_line(error)}") from None


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1 (upright) when there is none or it makes no sense."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    except Exception:
        # A damaged EXIF block does not touch the pixels; viewers ignore it.
        return _UPRIGHT
    return orientation if orientation in range(1, 9) else _UPRIGHT


def _upright(image: Image.Image) -> Image.Image:
    try:
        return image if _orientation(image) == _UPRIGHT else ImageOps.exif_transpose(image)
    except Exception as error:
        raise ImageError(f"undecodable {image.format}: {_one_line(error)}") from None


def _encode(image: Image.Image, image_format: str, **options: int) -> bytes:
    # Pillow writes a colour profile and a transparent colour that it finds here into the file.
    image.info = {}
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def _stranger(data: bytes) -> str:
    if not data:
        return "an empty file"
    start = data[:64].lstrip().lower()
    for signature, description in _KNOWN_STRANGERS:
        if data.startswith(signature) or start.startswith(signature.lower()):
            return description
    if data[4:8] == b"ftyp":
        return f"a file of type {_text(data[8:12])} (HEIC, AVIF or a video)"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in data[:64]):
        return "a text file"
    return f"a file that begins with the bytes {data[:8].hex(' ')}"


def _text(name: bytes) -> str:
    return name.decode("ascii", "backslashreplace")


def _one_line(error: BaseException) -> str:
    # Pillow's message for a file that it cannot open ends with the address of an object in memory.
    if isinstance(error, UnidentifiedImageError):
        return "its header makes no sense"
    return " ".join(str(error).split()) or type(error).__name__


def check_image_header(data: bytes, max_pixels: int = DEFAULT_MAX_IMAGE_PIXELS) -> None:
    """Looks at an image file's first bytes only: is it of a known format, and not too large?

    What is damaged further on passes; decoding tells.

    Raises:
        ImageError: if it is empty, of another format, its header makes no sense, or it claims more than
            ``max_pixels``.
    """
    image_format = image_format_of(data)
    if image_format == "WebP":
        _check_pixels(*_webp_size(data), max_pixels)
    else:
        _open(data, image_format, max_pixels)
