import base64
import io
import random
import struct
import sys

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from imgpipe.components.images import checking
from imgpipe.components.images.checking import ImageError
from imgpipe.components.images.preparation import prepare_image
from tests.components.images.image_files import HEIGHT, WIDTH, picture, png
from tests.components.records import encoded

# Smooth, so that lossy formats change it little; all corners differ, so that rotations are detected.
ROWS, COLUMNS = np.mgrid[0:24, 0:40]
PIXELS = np.stack([ROWS * 10, COLUMNS * 6, 255 - ROWS * 5 - COLUMNS * 3], axis=-1).astype(np.uint8)
PHOTO = Image.fromarray(PIXELS)


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def decoded(prepared):
    image = Image.open(io.BytesIO(prepared.encoded))
    assert image.format == prepared.format
    assert (image.height, image.width) == (prepared.height, prepared.width)
    assert image.getexif().get(0x0112, 1) == 1
    return np.asarray(image.convert("RGB")).astype(int)


KEPT = {
    "jpeg": encoded(PHOTO, "JPEG"),
    "progressive jpeg": encoded(PHOTO, "JPEG", progressive=True),
    "gray jpeg": encoded(PHOTO.convert("L"), "JPEG"),
    "cmyk jpeg": encoded(PHOTO.convert("CMYK"), "JPEG"),
    # libjpeg-turbo's own interface, which the fast check uses, rejects this valid file.
    "subsampled cmyk jpeg": encoded(PHOTO.convert("CMYK"), "JPEG", subsampling=2),
    "upright jpeg": encoded(PHOTO, "JPEG", exif=exif(1)),
    "jpeg with an invalid orientation": encoded(PHOTO, "JPEG", exif=exif(77)),
    "jpeg with a color profile": encoded(PHOTO, "JPEG", icc_profile=b"profile" * 1000),
    "jpeg with trailing bytes": encoded(PHOTO, "JPEG") + b"trailer",
    "png": encoded(PHOTO, "PNG"),
    "gray png": encoded(PHOTO.convert("L"), "PNG"),
    "palette png": encoded(PHOTO.quantize(16), "PNG"),
    "two-color png": encoded(PHOTO.convert("1"), "PNG"),
}


@pytest.mark.parametrize("data", KEPT.values(), ids=KEPT.keys())
def test_a_file_that_tensorflow_decodes_correctly_is_kept_byte_for_byte(data):
    prepared = prepare_image(data)
    assert prepared.encoded == data
    assert prepared.reencoded == ""
    assert (prepared.height, prepared.width) == (24, 40)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_rotated_jpeg_is_reencoded_upright(orientation, mode):
    data = encoded(PHOTO.convert(mode), "JPEG", quality=95, exif=exif(orientation))
    prepared = prepare_image(data)
    viewed = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert prepared.format == "JPEG"
    assert prepared.reencoded == f"EXIF orientation {orientation}"
    assert np.abs(decoded(prepared) - np.asarray(viewed)).mean() < 2
    if mode != "L":
        assert simplejpeg.decode_jpeg_header(prepared.encoded)[3] == "444"


def test_a_rotated_png_and_webp_are_reencoded_upright_without_loss():
    upright = np.asarray(PHOTO.transpose(Image.Transpose.ROTATE_270))
    for data, reason in (
        (encoded(PHOTO, "PNG", exif=exif(6)), "EXIF orientation 6"),
        (encoded(PHOTO, "WEBP", lossless=True, exif=exif(6)), "WebP, EXIF orientation 6"),
    ):
        prepared = prepare_image(data)
        assert prepared.reencoded == reason
        assert (decoded(prepared) == upright).all()


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "WEBP"])
def test_other_formats_become_png_without_loss(image_format):
    source = PHOTO.quantize(64) if image_format == "GIF" else PHOTO
    data = encoded(source, image_format, **({"lossless": True} if image_format == "WEBP" else {}))
    prepared = prepare_image(data)
    assert prepared.format == "PNG"
    assert prepared.reencoded.upper() == image_format
    assert (decoded(prepared) == np.asarray(source.convert("RGB"))).all()


@pytest.mark.parametrize("image_format", ["GIF", "WEBP"])
def test_an_animation_becomes_its_first_frame(image_format):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:])
    prepared = prepare_image(data)
    assert "first frame of an animation" in prepared.reencoded
    assert np.abs(decoded(prepared) - (255, 0, 0)).max() < 4


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_transparency_is_composited_on_white(image_format):
    alpha = Image.fromarray((COLUMNS * 6).astype(np.uint8))
    layered = PHOTO.copy()
    layered.putalpha(alpha)
    lossless = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    prepared = prepare_image(encoded(layered, image_format, **lossless))
    share = np.asarray(alpha)[..., None] / 255
    assert np.abs(decoded(prepared) - (PIXELS * share + 255 * (1 - share))).max() <= 1
    assert prepared.reencoded.endswith("transparency")
    assert Image.open(io.BytesIO(prepared.encoded)).mode == "RGB"


def test_transparent_gif_and_rotated_transparent_png():
    source = Image.new("P", (2, 1))
    source.putpalette([0, 0, 255, 255, 0, 0])
    source.putdata([0, 1])
    prepared = prepare_image(encoded(source, "GIF", transparency=0))
    assert decoded(prepared).tolist() == [[[255, 255, 255], [255, 0, 0]]]
    assert prepared.reencoded == "GIF, transparency"
    layered = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    layered.putpixel((0, 0), (255, 0, 0, 255))
    prepared = prepare_image(encoded(layered, "PNG", exif=exif(3)))
    assert decoded(prepared).tolist() == [[[255, 255, 255], [255, 0, 0]]]
    assert prepared.reencoded == "transparency, EXIF orientation 3"


@pytest.mark.parametrize(
    ("bit_depth", "row", "transparent", "expected"),
    [
        (1, b"\x40", 1, [0, 255]),
        (1, b"\x40", 0, [255, 255]),
        (2, b"\x60", 2, [85, 255]),
        (4, b"\x1b", 11, [17, 255]),
        (8, b"\x1b\x05", 5, [27, 255]),
        (16, b"\x1b\x05\x80\x00", 0x8000, [27, 255]),
    ],
)
def test_a_transparent_gray_is_white_at_every_bit_depth(bit_depth, row, transparent, expected):
    data = png(2, 1, bit_depth, 0, [row], (b"tRNS", struct.pack(">H", transparent)))
    prepared = prepare_image(data)
    assert decoded(prepared)[0, :, 0].tolist() == expected
    assert prepared.reencoded.endswith("transparency")


def test_a_transparent_palette_entry_and_color_are_white():
    palette = (b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    data = png(2, 1, 8, 3, [b"\0\1"], palette, (b"tRNS", b"\0"))
    assert decoded(prepare_image(data)).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    sixteen = b"\x10\x00\x20\x00\x30\x00"
    data = png(2, 1, 16, 2, [sixteen + b"\x40\x00\x50\x00\x60\x00"], (b"tRNS", sixteen))
    prepared = prepare_image(data)
    assert decoded(prepared).tolist() == [[[255, 255, 255], [64, 80, 96]]]
    assert prepared.reencoded == "16 bits per channel, transparency"


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = np.arange(0, 65536, 256, dtype=np.uint16)[None]
    prepared = prepare_image(encoded(Image.fromarray(ramp), "PNG"))
    assert prepared.reencoded == "16 bits per channel"
    assert np.abs(decoded(prepared)[0, :, 0] - ramp[0] / 257).max() <= 0.5
    rotated = prepare_image(encoded(Image.fromarray(ramp), "PNG", exif=exif(6)))
    assert (rotated.height, rotated.width) == (256, 1)


def test_reencoding_carries_no_metadata_and_is_always_the_same():
    data = encoded(PHOTO, "WEBP", icc_profile=b"profile" * 100, exif=exif(8))
    prepared = prepare_image(data)
    assert prepare_image(data) == prepared
    assert b"iCCP" not in prepared.encoded
    assert b"eXIf" not in prepared.encoded


def test_a_truncated_jpeg_that_the_fast_check_does_not_support_is_rejected():
    with pytest.raises(ImageError, match="undecodable JPEG"):
        prepare_image(KEPT["subsampled cmyk jpeg"][:-100])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_damaged_exif_block_is_ignored():
    data = encoded(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert prepare_image(data).encoded == data


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}])
def test_a_jpeg_truncated_at_any_length_is_rejected(options):
    data = encoded(PHOTO, "JPEG", **options)
    for length in range(3, len(data)):
        with pytest.raises(ImageError, match="JPEG"):
            prepare_image(data[:length])


def test_every_damaged_png_is_rejected():
    data = encoded(PHOTO, "PNG")
    for position in range(8, len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises(ImageError, match="PNG"):
            prepare_image(bytes(damaged))
        with pytest.raises(ImageError, match="PNG"):
            prepare_image(data[:position])


# Red on the left; green over blue on the right; 24 x 16 pixels.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAWhtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABjAABAAAAAAAAAF0AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA6GlwcnAAAADJaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEA"
    "GEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAAD"
    "AIRiAAEABkQBwXPBiQAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAAAYAAAAAQAAABAAAAAB////2AAAAAL////Q"
    "AAAAAgAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIEgwAAAGVtZGF0AAAAWSgBrwnIbYgmI5iW/2d/"
    "/b/IVWF8k9ITEEXs67WUpN6oBsEsCtx2P2k09myvMYdTw/eX/bIPNhYPrh73y6t+gP51scWeN8Pb0IMxhT9gNmaVfyji"
    "p6NyrXWA"
)


def test_heic_becomes_png():
    pytest.importorskip("pi_heif", reason="NOT CHECKED: pi-heif is not installed")
    prepared = prepare_image(HEIC)
    assert (prepared.format, prepared.height, prepared.width, prepared.reencoded) == ("PNG", 16, 24, "HEIF")
    pixels = np.asarray(Image.open(io.BytesIO(prepared.encoded)))
    assert [pixels[row, column].argmax() for row, column in ((4, 4), (4, 20), (12, 20))] == [0, 1, 2]
    with pytest.raises(ImageError, match="undecodable HEIF"):
        prepare_image(HEIC[:-40])


def test_heic_without_its_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    checking._add_heif_to_pillow.cache_clear()
    with pytest.raises(ImageError, match="a HEIC photo, which needs the package pi-heif: install it"):
        prepare_image(HEIC)


GRAY_16 = encoded(Image.fromarray(np.full((2, 2), 257, np.uint16)), "TIFF")


def with_tiff_tag(data, tag, value):
    """Changes the value of a tag with one 16-bit number in a little-endian TIFF file."""
    start = data.index(struct.pack("<HHI", tag, 3, 1)) + 8
    return data[:start] + struct.pack("<H", value) + data[start + 2 :]


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_tiff_becomes_png_with_the_same_pixels(mode, options):
    prepared = prepare_image(encoded(picture(mode), "TIFF", **options))
    assert (prepared.format, prepared.reencoded) == ("PNG", "TIFF")
    expected = picture(mode).convert("RGB")
    assert Image.open(io.BytesIO(prepared.encoded)).convert("RGB").tobytes() == expected.tobytes()


def test_tiff_is_scaled_to_eight_bits_and_reduced_to_its_first_page():
    values = np.array([[0, 257, 65535]], np.uint16)
    data = encoded(Image.fromarray(values), "TIFF", save_all=True, append_images=[Image.new("L", (3, 1))])
    prepared = prepare_image(data)
    assert prepared.reencoded == "TIFF, first page, 16 bits per channel"
    assert np.asarray(Image.open(io.BytesIO(prepared.encoded))).tolist() == [[0, 1, 255]]


def test_tiff_is_turned_upright_and_composited_on_white():
    prepared = prepare_image(encoded(picture("RGBA"), "TIFF", tiffinfo={0x0112: 6}))
    assert (prepared.height, prepared.width) == (WIDTH, HEIGHT)
    assert prepared.reencoded == "TIFF, transparency"
    # The first row of the picture, fully transparent, is now its right edge.
    assert Image.open(io.BytesIO(prepared.encoded)).getpixel((HEIGHT - 1, 3)) == (255, 255, 255)


def test_avif_becomes_png():
    prepared = prepare_image(encoded(picture(), "AVIF", quality=100))
    assert (prepared.format, prepared.reencoded) == ("PNG", "AVIF")
    pixels = np.asarray(Image.open(io.BytesIO(prepared.encoded)), int)
    assert np.abs(pixels - np.asarray(picture(), int)).mean() < 4


def test_damaged_but_decodable_and_undecodable_files_are_distinguished():
    data = encoded(PHOTO, "JPEG")
    with pytest.raises(ImageError, match=r"^undecodable JPEG: .*Premature end"):
        prepare_image(data[:-50])
    extra = data[:-2] + b"\x00\x11\x22\x33" + data[-2:]
    with pytest.raises(ImageError, match=r"^damaged but decodable JPEG: .*extraneous bytes"):
        prepare_image(extra)
    text = png(1, 1, 8, 0, [b"\0"], (b"tEXt", b"Title\0x")).replace(b"Title\0x", b"Title\0y")
    with pytest.raises(ImageError, match=r"^damaged but decodable PNG: .*tEXt"):
        prepare_image(text)


@pytest.mark.parametrize(
    ("data", "description"),
    [
        (b"", "an empty file"),
        (b"hello\n", "a text file"),
        (encoded(PHOTO.convert("F"), "TIFF"), "numbers with 32 bits"),
        (encoded(PHOTO, "TIFF", tiffinfo={254: 1}), "raw photo or a TIFF file with a preview"),
        (encoded(PHOTO, "TIFF", tiffinfo={50706: b"\1\4\0\0"}), "raw photo"),
        # The tag that marks previews is a text.
        (
            encoded(PHOTO, "TIFF", tiffinfo={254: 0}).replace(
                struct.pack("<HHI", 254, 4, 1), struct.pack("<HHI", 254, 2, 4)
            ),
            "undecodable TIFF",
        ),
        (with_tiff_tag(GRAY_16, 262, 0), "with 16 bits and white as 0"),
        (with_tiff_tag(GRAY_16, 258, 12), "with 12 bits"),
        (encoded(PHOTO, "TIFF")[:-200], "undecodable TIFF"),
        (encoded(PHOTO, "AVIF")[:-200], "undecodable AVIF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404", "a web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HE"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp41", "a file of type isom (a video"),
        (b"\xff\xd8 no jpeg", "begins with the bytes ff d8"),
        (b"\xff\xd8\xff", "undecodable JPEG"),
        (b"\x89PNG\r\n\x1a\n", "undecodable PNG"),
        (b"GIF89a", "undecodable GIF"),
        (b"BMW", "undecodable BMP"),
        (b"RIFF\0\0\0\0WEBP", "undecodable WebP"),
        (png(1, 1, 8, 0, [b"\0"]).replace(b"IHDR", b"IHDX"), "undecodable PNG"),
    ],
)
def test_other_files_are_rejected_with_a_description(data, description):
    with pytest.raises(ImageError) as caught:
        prepare_image(data)
    assert description in str(caught.value)
    assert "\n" not in str(caught.value)
    assert " at 0x" not in str(caught.value)


@pytest.mark.parametrize(
    "bomb",
    [
        png(20_000, 20_000, 8, 0, [b""]),
        b"RIFF\x80\0\0\0WEBPVP8X\n\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2 + b"\0" * 100,
        b"RIFF\x80\0\0\0WEBPVP8L\x64\0\0\0\x2f\xff\xff\xff\x0f" + b"\0" * 100,
        b"RIFF\x80\0\0\0WEBPVP8 \x64\0\0\0\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + b"\0" * 100,
    ],
    ids=["PNG", "extended WebP", "lossless WebP", "WebP"],
)
def test_an_image_of_too_many_pixels_is_rejected_before_memory_is_taken(bomb):
    with pytest.raises(ImageError, match="more than max_image_pixels=100,000,000"):
        prepare_image(bomb)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_the_limit_of_pixels_is_configurable(image_format):
    data = encoded(PHOTO, image_format)
    prepared = prepare_image(data)
    pixels = prepared.width * prepared.height
    assert prepare_image(data, pixels) == prepared
    with pytest.raises(ImageError, match=f"more than max_image_pixels={pixels - 1:,}"):
        prepare_image(data, pixels - 1)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_raises_no_other_error():
    chance = random.Random(0)  # noqa: S311
    seeds = [
        encoded(PHOTO, "JPEG", exif=exif(6)),
        encoded(PHOTO, "PNG"),
        encoded(PHOTO, "GIF"),
        encoded(PHOTO, "BMP"),
        encoded(PHOTO, "WEBP"),
    ]
    for data in seeds:
        for _ in range(150):
            damaged = bytearray(data)
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            try:
                prepared = prepare_image(bytes(damaged))
            except ImageError as error:
                assert str(error)  # noqa: PT017
            else:
                decoded(prepared)


def test_an_orientation_is_found_at_any_position():
    plain = encoded(PHOTO, "JPEG", quality=95)
    rotated = encoded(PHOTO, "JPEG", quality=95, exif=exif(6))
    segment = b"\xff\xe2" + struct.pack(">H", 2 + 300) + b"\xff\xda" * 150
    assert prepare_image(rotated[:2] + segment + rotated[2:]).reencoded == "EXIF orientation 6"
    assert prepare_image(rotated[:2] + b"\xff\xff" + rotated[2:]).reencoded == "EXIF orientation 6"
    text = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="8"/>'
    xmp = b"\xff\xe1" + struct.pack(">H", 2 + len(text)) + text
    assert prepare_image(plain[:2] + xmp + plain[2:]).reencoded == "EXIF orientation 8"
    assert prepare_image(plain[:2] + segment + plain[2:]).reencoded == ""
