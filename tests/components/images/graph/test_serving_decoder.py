"""A file that a client sends is decoded, inside the graph, to the pixels that it would be trained with."""

import io
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.checking import ImageError
from imgpipe.components.images.graph.serving_decoder import decode_image_file
from imgpipe.components.images.graph.training_decoder import decode_image
from imgpipe.components.images.preparation import prepare_image

FOLDER = Path(__file__).parents[5] / "shared" / "data" / "odd_images"
REAL = sorted(path for path in FOLDER.glob("*/*.*") if path.is_file() and path.stat().st_size < 700_000)
HEIGHT, WIDTH, SIZE = 24, 37, 32
# What TensorFlow cannot decode inside a graph, and what is refused therefore.
REFUSED = {"hopper_rle8.bmp", "iss634.webp"}
# Convert encodes a photo that it turns anew; the served graph does not. In levels of 0..255.
LARGEST_MEAN_DIFFERENCE = 1.0

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def serve(encoded):
    return decode_image_file(encoded, SIZE)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def train(encoded):
    return decode_image(encoded, SIZE)


def picture(mode="RGB"):
    across, down = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    image = Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(down.astype(np.uint8)))
        return image
    return image.convert(mode)


def encoded(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def turned(number, endian="<"):
    exif = Image.Exif()
    exif[0x010F] = "a camera of some make"
    exif[0x0112] = number
    exif.endian = endian
    return exif.tobytes()


def long_orientation(number):
    """An EXIF block that says the orientation as a number of four bytes, most significant first."""
    return b"Exif\0\0MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x0112, 4, 1, number, 0)


def with_segments(jpeg, *segments):
    """A JPEG with segments (marker, content) in front of its own, the first behind 255 as a filler."""
    made = b"".join(
        bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content for marker, content in segments
    )
    return jpeg[:2] + b"\xff" + made + jpeg[2:]


XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def bmp(bits, rows, *, palette=b"", height=HEIGHT, width=WIDTH, compression=0, masks=b"", header=40):
    size = 14 + header + len(palette) + (len(masks) if header == 40 else 0)
    fields = struct.pack(
        "<IiiHHIIiiII",
        header,
        width,
        height,
        1,
        bits,
        compression,
        len(rows),
        2835,
        2835,
        len(palette) // 4,
        0,
    )
    info = (fields + masks).ljust(header, b"\0") if header > 40 else fields + masks
    return b"BM" + struct.pack("<IHHI", size + len(rows), 0, 0, size) + info + palette + rows


def short_bmp(bits, rows, palette=b""):
    """A BMP of OS/2 1.x."""
    size = 26 + len(palette)
    info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    return b"BM" + struct.pack("<IHHI", size + len(rows), 0, 0, size) + info + palette + rows


def rows_of(bits, height=HEIGHT):
    stride = (WIDTH * bits + 31) // 32 * 4
    draw = np.random.default_rng(bits)
    return draw.integers(0, 256, height * stride).astype(np.uint8).tobytes()


def colours(count, entry_bytes=4):
    draw = np.random.default_rng(count)
    return draw.integers(0, 256, (count, entry_bytes)).astype(np.uint8).tobytes()


def moved_gif(transparent):
    """A GIF whose only frame covers a part of the screen."""
    small = picture("P").resize((12, 9))
    content = encoded(small, "GIF", **({"transparency": 3} if transparent else {}))
    screen = content[:6] + struct.pack("<HH", WIDTH, HEIGHT) + content[10:]
    place = screen.index(b"\x2c" + struct.pack("<HHHH", 0, 0, 12, 9))
    return screen[:place] + b"\x2c" + struct.pack("<HHHH", 5, 7, 12, 9) + screen[place + 9 :]


def sixteen_bit_rgb(colour_type=2):
    """A PNG of 16 bits per channel with three (2) or four (6) channels, or gray with alpha (4), which Pillow
    does not write."""
    import zlib

    channels = {2: 3, 4: 2, 6: 4}[colour_type]
    values = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH * channels)).astype(">u2")
    body = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


GRAY_16 = Image.fromarray(np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16))
EQUAL = {
    "JPEG": encoded(picture(), "JPEG", quality=95),
    "gray JPEG": encoded(picture("L"), "JPEG"),
    "CMYK JPEG": encoded(picture("CMYK"), "JPEG"),
    "progressive JPEG": encoded(picture(), "JPEG", progressive=True),
    "JPEG that says upright": encoded(picture(), "JPEG", exif=turned(1)),
    "JPEG whose orientation makes no sense": encoded(picture(), "JPEG", exif=turned(9)),
    "PNG": encoded(picture(), "PNG"),
    "interlaced gray PNG": encoded(picture("L"), "PNG"),
    "palette PNG": encoded(picture("P"), "PNG"),
    "two-colour PNG": encoded(picture("1"), "PNG"),
    "four-bit palette PNG": encoded(picture().quantize(11), "PNG", bits=4),
    "transparent PNG": encoded(picture("RGBA"), "PNG"),
    "transparent gray PNG": encoded(picture("LA"), "PNG"),
    "PNG with a transparent colour": encoded(picture(), "PNG", transparency=picture().getpixel((3, 0))),
    "gray PNG with a transparent colour": encoded(picture("L"), "PNG", transparency=90),
    "palette PNG with a transparent colour": encoded(picture("P"), "PNG", transparency=16),
    "palette PNG with alphas": encoded(picture("P"), "PNG", transparency=bytes(range(0, 250, 5))),
    "16-bit gray PNG": encoded(GRAY_16, "PNG"),
    "16-bit PNG": sixteen_bit_rgb(2),
    "16-bit gray PNG with alpha": sixteen_bit_rgb(4),
    "16-bit PNG with alpha": sixteen_bit_rgb(6),
    **{f"PNG turned {n}": encoded(picture(), "PNG", exif=turned(n)) for n in range(2, 9)},
    "transparent PNG turned 8": encoded(picture("RGBA"), "PNG", exif=turned(8, ">")),
    "GIF": encoded(picture("P"), "GIF"),
    "gray GIF": encoded(picture("L"), "GIF"),
    "transparent GIF": encoded(picture("P"), "GIF", transparency=40),
    "GIF of four colours": encoded(picture().quantize(4), "GIF"),
    "animated GIF": encoded(picture("P"), "GIF", save_all=True, append_images=[picture("P").rotate(180)]),
    "GIF with a comment": encoded(picture("P"), "GIF", comment=b"a" * 700),
    "GIF smaller than its screen": moved_gif(False),
    "transparent GIF smaller than its screen": moved_gif(True),
    **{f"{mode} BMP": encoded(picture(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")},
    **{
        f"BMP of {bits} bits": bmp(bits, rows_of(bits), palette=colours(2**bits) if bits <= 8 else b"")
        for bits in (1, 4, 8, 16, 24, 32)
    },
    "BMP from top to bottom": bmp(8, rows_of(8), palette=colours(256), height=-HEIGHT),
    "BMP of OS/2": short_bmp(8, rows_of(8), colours(256, 3)),
    "BMP of OS/2, 24 bits": short_bmp(24, rows_of(24)),
    "BMP of 5, 6 and 5 bits": bmp(
        16, rows_of(16), compression=3, masks=struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    ),
    "BMP with alpha": bmp(
        32,
        rows_of(32),
        compression=3,
        header=124,
        masks=struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    ),
    "WebP": encoded(picture(), "WEBP", lossless=True),
    "lossy WebP": encoded(picture(), "WEBP", quality=80),
    "transparent WebP": encoded(picture("RGBA"), "WEBP", lossless=True, exact=True),
    "lossy transparent WebP": encoded(picture("RGBA"), "WEBP", quality=80),
    **{f"WebP turned {n}": encoded(picture(), "WEBP", lossless=True, exif=turned(n)[6:]) for n in (3, 5, 6)},
    "WebP turned 8, block as in a JPEG": encoded(picture(), "WEBP", lossless=True, exif=turned(8)),
    "transparent WebP turned 6": encoded(
        picture("RGBA"), "WEBP", lossless=True, exact=True, exif=turned(6, ">")[6:]
    ),
}
PLAIN = encoded(picture(), "JPEG", quality=95)
TURNED = {
    **{f"turned {n}": encoded(picture(), "JPEG", quality=95, exif=turned(n)) for n in range(2, 9)},
    "turned 6, big-endian": encoded(picture(), "JPEG", quality=95, exif=turned(6, ">")),
    "turned 8, in four bytes": with_segments(PLAIN, (0xE1, long_orientation(8))),
    "turned 6 by XMP": with_segments(PLAIN, (0xE1, XMP)),
    "turned 3 behind other segments": with_segments(
        PLAIN, (0xFE, b"a comment"), (0xE2, b"\0" * 5000), (0xE1, XMP), (0xE1, turned(3))
    ),
    "turned gray": encoded(picture("L"), "JPEG", quality=95, exif=turned(7)),
    "turned CMYK": encoded(picture("CMYK"), "JPEG", quality=95, exif=turned(5)),
}


def prepared(data):
    return train(tf.constant(prepare_image(data).encoded)).numpy().astype(int)


@pytest.mark.parametrize("name", EQUAL)
def test_the_pixels_are_those_of_training_bit_for_bit(name):
    np.testing.assert_array_equal(serve(tf.constant(EQUAL[name])).numpy(), prepared(EQUAL[name]))


@pytest.mark.parametrize("name", TURNED)
def test_a_photo_that_has_to_be_turned_differs_by_no_more_than_encoding_it_anew_does(name):
    data = TURNED[name]
    assert prepare_image(data).reencoded.startswith("EXIF orientation")
    difference = np.abs(serve(tf.constant(data)).numpy() - prepared(data))
    assert difference.mean() < LARGEST_MEAN_DIFFERENCE
    # The test could tell: as it lies in the file, it is another picture.
    assert np.abs(train(tf.constant(data)).numpy() - prepared(data)).mean() > 10


@pytest.mark.skipif(not REAL, reason=f"SKIPPED: the real odd images are not at {FOLDER}")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_a_real_odd_image_is_decoded_as_convert_and_training_would(path):
    data = path.read_bytes()
    try:
        expected = prepared(data)
    except ImageError:
        # Convert is stricter about damage than a decoder that has to answer.
        pytest.skip("convert rejects it")
    if path.name in REFUSED:
        with pytest.raises(tf.errors.InvalidArgumentError, match="cannot be decoded"):
            serve(tf.constant(data))
        return
    difference = np.abs(serve(tf.constant(data)).numpy() - expected)
    if "EXIF" in prepare_image(data).reencoded and data.startswith(b"\xff\xd8"):
        assert difference.mean() < LARGEST_MEAN_DIFFERENCE
    else:
        assert difference.max() == 0


def test_an_animated_webp_is_refused_before_it_reaches_the_decoder():
    data = encoded(picture(), "WEBP", save_all=True, append_images=[picture().rotate(180)], lossless=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="an animated WebP cannot be decoded"):
        serve(tf.constant(data))


def test_a_bmp_of_runs_is_refused():
    data = bmp(8, b"\0\1" * 40, palette=colours(256), compression=1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a BMP of this kind cannot be decoded"):
        serve(tf.constant(data))


@pytest.mark.parametrize("data", [b"", b"B", b"text", b"II*\0 a TIFF file", b"RIFF", b"RIFFxxxxWEBPVP8X"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(tf.constant(data))


ANY = [*EQUAL.values(), *TURNED.values()]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_decoded_or_refused_and_never_ends_the_process(data):
    content = bytearray(data.draw(st.sampled_from(ANY)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    with suppress(tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError):
        assert serve(tf.constant(bytes(content))).shape == (SIZE, SIZE, 3)
