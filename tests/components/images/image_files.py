"""Image files of all kinds for the tests: generated ones, and real ones from other projects' test suites."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.components.records import encoded

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "odd_images"
# Skipped by the tests if they are not available.
REAL = sorted(path for path in FOLDER.glob("*/*.*") if path.is_file())
NOT_AVAILABLE = f"SKIPPED: the real unusual images are not at {FOLDER}"
HEIGHT, WIDTH = 24, 37


def picture(mode="RGB"):
    across, down = np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT))
    image = Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(down.astype(np.uint8)))
        return image
    return image.convert(mode)


def exif_orientation(number, endian="<"):
    """An EXIF block, with the prefix of a JPEG file's."""
    exif = Image.Exif()
    exif[0x010F] = "a camera manufacturer"
    exif[0x0112] = number
    exif.endian = endian
    return exif.tobytes()


def long_orientation(number):
    """An EXIF block with the orientation as a big-endian number of four bytes."""
    return b"Exif\0\0MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x0112, 4, 1, number, 0)


def with_segments(jpeg, *segments):
    """A JPEG with segments (marker, content) before its own, the first after a fill byte of 255."""
    made = b"".join(
        bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content for marker, content in segments
    )
    return jpeg[:2] + b"\xff" + made + jpeg[2:]


XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def png(width, height, bit_depth, color_type, rows, *chunks):
    """Encodes a PNG file, also of kinds that Pillow does not write."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [
        chunk(b"IHDR", header),
        *(chunk(name, content) for name, content in chunks),
        chunk(b"IDAT", pixels),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


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


def run_length_bmp():
    """A BMP with run-length encoded rows, which TensorFlow does not decode."""
    runs = b"".join(bytes((WIDTH, row * 10 % 256, 0, 0)) for row in range(HEIGHT)) + b"\0\1"
    return bmp(8, runs, palette=colors(256), compression=1)


def short_bmp(bits, rows, palette=b""):
    """An OS/2 1.x BMP."""
    size = 26 + len(palette)
    info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    return b"BM" + struct.pack("<IHHI", size + len(rows), 0, 0, size) + info + palette + rows


def rows_of(bits, height=HEIGHT):
    stride = (WIDTH * bits + 31) // 32 * 4
    draw = np.random.default_rng(bits)
    return draw.integers(0, 256, height * stride).astype(np.uint8).tobytes()


def colors(count, entry_bytes=4):
    draw = np.random.default_rng(count)
    return draw.integers(0, 256, (count, entry_bytes)).astype(np.uint8).tobytes()


def moved_gif(transparent):
    """A GIF with a single frame that covers a part of the screen."""
    small = picture("P").resize((12, 9))
    content = encoded(small, "GIF", **({"transparency": 3} if transparent else {}))
    screen = content[:6] + struct.pack("<HH", WIDTH, HEIGHT) + content[10:]
    place = screen.index(b"\x2c" + struct.pack("<HHHH", 0, 0, 12, 9))
    return screen[:place] + b"\x2c" + struct.pack("<HHHH", 5, 7, 12, 9) + screen[place + 9 :]


def sixteen_bit(color_type):
    """A PNG of 16 bits per channel: RGB (color type 2), gray with alpha (4) or RGB with alpha (6)."""
    channels = {2: 3, 4: 2, 6: 4}[color_type]
    values = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH * channels)).astype(">u2")
    return png(WIDTH, HEIGHT, 16, color_type, [row.tobytes() for row in values])


GRAY_16 = Image.fromarray(np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16))
# TensorFlow decodes these in the served graph exactly as their prepared versions in training.
EQUAL = {
    "JPEG": encoded(picture(), "JPEG", quality=95),
    "gray JPEG": encoded(picture("L"), "JPEG"),
    "CMYK JPEG": encoded(picture("CMYK"), "JPEG"),
    "progressive JPEG": encoded(picture(), "JPEG", progressive=True),
    "JPEG with upright orientation": encoded(picture(), "JPEG", exif=exif_orientation(1)),
    "JPEG with an invalid orientation": encoded(picture(), "JPEG", exif=exif_orientation(9)),
    "PNG": encoded(picture(), "PNG"),
    "interlaced gray PNG": encoded(picture("L"), "PNG"),
    "palette PNG": encoded(picture("P"), "PNG"),
    "two-color PNG": encoded(picture("1"), "PNG"),
    "four-bit palette PNG": encoded(picture().quantize(11), "PNG", bits=4),
    "transparent PNG": encoded(picture("RGBA"), "PNG"),
    "transparent gray PNG": encoded(picture("LA"), "PNG"),
    "PNG with a transparent color": encoded(picture(), "PNG", transparency=picture().getpixel((3, 0))),
    "gray PNG with a transparent color": encoded(picture("L"), "PNG", transparency=90),
    "palette PNG with a transparent color": encoded(picture("P"), "PNG", transparency=16),
    "palette PNG with alphas": encoded(picture("P"), "PNG", transparency=bytes(range(0, 250, 5))),
    "16-bit gray PNG": encoded(GRAY_16, "PNG"),
    "16-bit PNG": sixteen_bit(2),
    "16-bit gray PNG with alpha": sixteen_bit(4),
    "16-bit PNG with alpha": sixteen_bit(6),
    **{f"PNG rotated {n}": encoded(picture(), "PNG", exif=exif_orientation(n)) for n in range(2, 9)},
    "transparent PNG rotated 8": encoded(picture("RGBA"), "PNG", exif=exif_orientation(8, ">")),
    "GIF": encoded(picture("P"), "GIF"),
    "gray GIF": encoded(picture("L"), "GIF"),
    "transparent GIF": encoded(picture("P"), "GIF", transparency=40),
    "GIF of four colors": encoded(picture().quantize(4), "GIF"),
    "animated GIF": encoded(picture("P"), "GIF", save_all=True, append_images=[picture("P").rotate(180)]),
    "GIF with a comment": encoded(picture("P"), "GIF", comment=b"a" * 700),
    "GIF smaller than its screen": moved_gif(False),
    "transparent GIF smaller than its screen": moved_gif(True),
    **{f"{mode} BMP": encoded(picture(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")},
    **{
        f"BMP of {bits} bits": bmp(bits, rows_of(bits), palette=colors(2**bits) if bits <= 8 else b"")
        for bits in (1, 4, 8, 16, 24, 32)
    },
    "BMP from top to bottom": bmp(8, rows_of(8), palette=colors(256), height=-HEIGHT),
    "BMP of OS/2": short_bmp(8, rows_of(8), colors(256, 3)),
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
    **{
        f"WebP rotated {n}": encoded(picture(), "WEBP", lossless=True, exif=exif_orientation(n)[6:])
        for n in (3, 5, 6)
    },
    "WebP rotated 8, block as in a JPEG": encoded(picture(), "WEBP", lossless=True, exif=exif_orientation(8)),
    "transparent WebP rotated 6": encoded(
        picture("RGBA"), "WEBP", lossless=True, exact=True, exif=exif_orientation(6, ">")[6:]
    ),
}
PLAIN = encoded(picture(), "JPEG", quality=95)
# Convert re-encodes these JPEG files, with a small loss.
ROTATED = {
    **{f"rotated {n}": encoded(picture(), "JPEG", quality=95, exif=exif_orientation(n)) for n in range(2, 9)},
    "rotated 6, big-endian": encoded(picture(), "JPEG", quality=95, exif=exif_orientation(6, ">")),
    "rotated 8, in four bytes": with_segments(PLAIN, (0xE1, long_orientation(8))),
    "rotated 6 by XMP": with_segments(PLAIN, (0xE1, XMP)),
    "rotated 3 after other segments": with_segments(
        PLAIN, (0xFE, b"a comment"), (0xE2, b"\0" * 5000), (0xE1, XMP), (0xE1, exif_orientation(3))
    ),
    "rotated gray": encoded(picture("L"), "JPEG", quality=95, exif=exif_orientation(7)),
    "rotated CMYK": encoded(picture("CMYK"), "JPEG", quality=95, exif=exif_orientation(5)),
}
