"""Checks that a file is a complete, undamaged image of an accepted format. No TensorFlow."""

import importlib
import io
import struct
import zlib
from functools import cache

import simplejpeg
from PIL import Image, UnidentifiedImageError

from imgpipe.components.images.limits import DEFAULT_MAX_IMAGE_PIXELS

# The limit is an argument here, checked before memory is allocated; Pillow's own is one per process.
Image.MAX_IMAGE_PIXELS = None

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A HEIC photo may have the main brand mif1, as an AVIF image may.
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"))
_CANNOT_DECODE = "which TensorFlow cannot decode: save it as PNG"
_ACCEPTED = "JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIC"
_TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*")
# Source: TIFF 6.0, section 8 (NewSubfileType: bit 0 = a reduced version of another image), and the DNG
# specification (DNGVersion).
_SUBFILE_TYPE_TAG, _BITS_TAG, _PHOTOMETRIC_TAG, _DNG_VERSION_TAG = 254, 258, 262, 50706
# What users have under names such as photo.jpg: the first bytes, and the description for the error.
_OTHER_SIGNATURES = (
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
    """The file is not an image that training can use; the message is the reason, in one line."""


def detect_image_format(data: bytes) -> str:
    """Returns JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIF, as detected from the first bytes.

    Raises:
        ImageError: for any other content, with a description of it.
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
    if data.startswith(_TIFF_SIGNATURES):
        return "TIFF"
    brands = _media_brands(data)
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIC_BRANDS:
        return "HEIF"
    raise ImageError(f"{_describe_unknown_file(data)}, not {_ACCEPTED}")


def check_image_header(data: bytes, max_pixels: int = DEFAULT_MAX_IMAGE_PIXELS) -> None:
    """Checks only the first bytes of an image file: the format and the size.

    Damage after the header is not detected; decoding the file detects it.

    Raises:
        ImageError: if it is empty, has another format or an invalid header, or if its header declares more
            than ``max_pixels``.
    """
    image_format = detect_image_format(data)
    if image_format == "WebP":
        _check_pixels(*_webp_size(data), max_pixels)
        return
    if image_format == "JPEG":
        _reject_rare_jpeg(data)
    open_image(data, image_format, max_pixels)


def open_image(data: bytes, image_format: str, max_pixels: int) -> Image.Image:
    """Opens an image file without decoding its pixels.

    Raises:
        ImageError: if the header is damaged or declares more than ``max_pixels``.
    """
    if image_format == "WebP":
        # Pillow allocates the memory of a WebP image when it opens the file.
        _check_pixels(*_webp_size(data), max_pixels)
    if image_format == "HEIF":
        _add_heif_to_pillow()
    try:
        image = Image.open(io.BytesIO(data), formats=[image_format])
    except Exception as error:
        if image_format == "JPEG":
            _reject_rare_jpeg(data)
        # Pillow raises almost any exception class for a damaged file.
        raise undecodable(image_format, error) from None
    _check_pixels(image.width, image.height, max_pixels)
    if image_format == "TIFF":
        _check_tiff(image, data)
    return image


@cache
def _add_heif_to_pillow() -> None:
    """Lets Pillow open HEIC photos.

    Raises:
        ImageError: if pi-heif is not installed.
    """
    try:
        # No dependency: its libraries have another license (LGPL).
        importlib.import_module("pi_heif").register_heif_opener()
    except ImportError:
        raise ImageError(
            "a HEIC photo, which needs the package pi-heif: install it (extra `heic`), or save it as JPEG"
        ) from None


def _check_tiff(image: Image.Image, data: bytes) -> None:
    """Rejects TIFF files whose pixels are not a picture of 8 or 16 bits.

    Raw photos of cameras are TIFF files whose first image is often a small preview.

    Raises:
        ImageError: for such a file.
    """
    tags = getattr(image, "tag_v2", {})
    try:
        is_preview = bool(int(tags.get(_SUBFILE_TYPE_TAG, 0)) & 1)
        inverted_or_narrow = tags.get(_PHOTOMETRIC_TAG) == 0 or tags.get(_BITS_TAG, 16) not in (16, (16,))
    except Exception as error:  # A tag may have any type.
        raise undecodable("TIFF", error) from None
    if data[8:10] == b"CR" or _DNG_VERSION_TAG in tags or is_preview:
        raise ImageError("a camera's raw photo or a TIFF file with a preview: save it as JPEG or PNG")
    if image.mode in ("I", "F"):
        raise ImageError("a TIFF file of numbers with 32 bits, whose white is unknown: save it as PNG")
    if image.mode.startswith("I;16") and inverted_or_narrow:
        # Pillow returns 12 bits as they are, nearly black, and does not invert 16 bits.
        raise ImageError("a gray TIFF file with 12 bits, or with 16 bits and white as 0: save it as PNG")


def load_pixels(image: Image.Image) -> None:
    """Decodes an opened image.

    Raises:
        ImageError: if the file is damaged.
    """
    try:
        image.load()
    except Exception as error:
        raise undecodable(image.format, error) from None


def check_jpeg(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Checks a whole JPEG file and returns its height and width.

    Raises:
        ImageError: if it is damaged, even where a decoder would tolerate that, or too large.
    """
    height, width = _jpeg_size(data, max_pixels)
    try:
        # Decoding at an eighth of the size skips most of the work but reads every coded bit, and strict
        # makes an error of damage that the decoder would otherwise conceal.
        simplejpeg.decode_jpeg(data, colorspace="GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        _check_with_pillow(data, str(error), max_pixels)
    return height, width


def _jpeg_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Returns height and width; uses Pillow, a fifth of the time of decoding, only as a fallback."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        _reject_rare_jpeg(data)
        # Damaged, or of a kind that libjpeg-turbo's own interface does not support.
        image = open_image(data, "JPEG", max_pixels)
        return image.height, image.width
    _check_pixels(width, height, max_pixels)
    return height, width


def _check_with_pillow(data: bytes, complaint: str, max_pixels: int) -> None:
    """Raises unless the fast check's complaint is about a valid file of an unsupported kind."""
    _reject_rare_jpeg(data)
    image = open_image(data, "JPEG", max_pixels)
    try:
        image.load()
    except Exception as error:
        raise ImageError(f"undecodable JPEG: {complaint} ({_one_line(error)})") from None
    # libjpeg-turbo's own interface, whose messages begin with tj, rejects unusual chroma sampling. That is
    # not damage: the decoders of Pillow and TensorFlow accept it.
    if not complaint.startswith("tj"):
        raise ImageError(f"damaged but decodable JPEG: {complaint}")


def _reject_rare_jpeg(data: bytes) -> None:
    """Raises for a valid kind of JPEG that TensorFlow cannot decode.

    Source: ITU-T T.81, table B.1 and section B.2.2: the marker of the frame header says whether the file is
    lossless; its first byte is the number of bits of a sample.
    """
    position = 2
    while data[position : position + 1] == b"\xff" and position + 5 <= len(data):
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits = data[position + 4]
            if marker % 4 == 3:
                raise ImageError(f"a lossless JPEG with {bits} bits per sample, {_CANNOT_DECODE}")
            if bits > 8:
                raise ImageError(f"a JPEG with {bits} bits per sample, {_CANNOT_DECODE}")
            return
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def check_png_chunks(data: bytes) -> tuple[int, bool]:
    """Checks the checksum of every chunk, which Pillow does not do for the pixels.

    Returns:
        The bits per channel, and whether the image has transparency.

    Raises:
        ImageError: if the file is truncated or damaged.
    """
    offset = len(_PNG_SIGNATURE)
    names: list[bytes] = []
    header = b""
    while not names or names[-1] != b"IEND":
        if len(data) < offset + 12:
            raise ImageError(f"undecodable PNG: the file is truncated after {len(data):,} bytes")
        length, name = struct.unpack_from(">I4s", data, offset)
        end = offset + 8 + length
        if len(data) < end + 4:
            raise ImageError(
                f"undecodable PNG: the file is truncated: it has {len(data):,} bytes, "
                f"its chunk {_text(name)} needs {end + 4:,}"
            )
        checksum = zlib.crc32(memoryview(data)[offset + 4 : end])
        if checksum != struct.unpack_from(">I", data, end)[0]:
            # A lowercase first letter marks a chunk that a decoder may skip.
            kind = "damaged but decodable" if name[:1].islower() else "undecodable"
            raise ImageError(f"{kind} PNG: the checksum of chunk {_text(name)} does not match")
        if not names:
            header = data[offset + 8 : end]
        names.append(name)
        offset = end + 4
    if names[0] != b"IHDR" or len(header) != 13:
        raise ImageError("undecodable PNG: it does not begin with a header")
    bit_depth, color_type = header[8], header[9]
    # Color type 4 is gray with alpha, 6 is RGB with alpha.
    return bit_depth, color_type in (4, 6) or b"tRNS" in names


def undecodable(image_format: str | None, error: BaseException) -> ImageError:
    """Returns the error for a file that Pillow cannot decode."""
    return ImageError(f"undecodable {image_format}: {_one_line(error)}")


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"the image header declares {width:,} x {height:,} pixels, more than "
            f"max_image_pixels={max_pixels:,}; scale the image down or raise the limit"
        )


def _media_brands(data: bytes) -> frozenset[bytes]:
    """Returns the brands of a file in the ISO base media format; empty for another file.

    Source: ISO/IEC 14496-12, section 4.3: the first box has a size, the type ftyp, the main brand, a version
    and the compatible brands.
    """
    if data[4:8] != b"ftyp":
        return frozenset()
    size = min(int.from_bytes(data[:4], "big"), 4096)
    return frozenset(data[start : start + 4] for start in (8, *range(16, size, 4)))


def _webp_size(data: bytes) -> tuple[int, int]:
    """Returns width and height from a WebP file's header; 0 for an invalid header.

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


def _describe_unknown_file(data: bytes) -> str:
    if not data:
        return "an empty file"
    start = data[:64].lstrip().lower()
    for signature, description in _OTHER_SIGNATURES:
        if data.startswith(signature) or start.startswith(signature.lower()):
            return description
    if data[4:8] == b"ftyp":
        return f"a file of type {_text(data[8:12])} (a video or an unknown kind of image)"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in data[:64]):
        return "a text file"
    return f"a file that begins with the bytes {data[:8].hex(' ')}"


def _text(name: bytes) -> str:
    return name.decode("ascii", "backslashreplace")


def _one_line(error: BaseException) -> str:
    # Pillow's message for a file that it cannot open ends with the address of an object in memory.
    if isinstance(error, UnidentifiedImageError):
        return "invalid header"
    return " ".join(str(error).split()) or type(error).__name__
