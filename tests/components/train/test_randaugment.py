"""The operations against Pillow's, which the authors used."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from imgpipe.components.train.randaugment import randaugment

SIDE = 64
NAMES = [
    "identity",
    "autocontrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
]
GRAY = (128, 128, 128)


@pytest.fixture(scope="module")
def picture():
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(20, 256, (9, 9, 3), np.uint8))
    return coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def applied(picture, name, side):
    """One operation and then the first, which changes nothing."""
    drawn = np.array([(NAMES.index(name) + 0.5) / len(NAMES), side, 0, 0], np.float32)
    return randaugment(np.asarray(picture), drawn).numpy().astype(int)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("identity", lambda picture: picture),
        ("equalize", ImageOps.equalize),
        ("solarize", lambda picture: ImageOps.solarize(picture, 230)),
        ("posterize", lambda picture: ImageOps.posterize(picture, 4)),
    ],
)
@pytest.mark.parametrize("side", [0.2, 0.8])
def test_operations_without_a_side_are_exactly_pillows(picture, name, expected, side):
    assert (applied(picture, name, side) == np.asarray(expected(picture))).all()


def test_autocontrast_is_pillows_which_rounds_down(picture):
    difference = applied(picture, "autocontrast", 0.2) - np.asarray(ImageOps.autocontrast(picture))
    assert set(np.unique(difference)) == {0, 1}


@pytest.mark.parametrize(("side", "factor"), [(0.2, 0.28), (0.8, 1.72)])
@pytest.mark.parametrize(
    ("name", "enhancer"),
    [
        ("color", ImageEnhance.Color),
        ("contrast", ImageEnhance.Contrast),
        ("brightness", ImageEnhance.Brightness),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
def test_enhancing_weakens_or_strengthens_as_pillow_does(picture, name, enhancer, side, factor):
    changed = applied(picture, name, side)[1:-1, 1:-1]
    expected = np.asarray(enhancer(picture).enhance(factor)).astype(int)[1:-1, 1:-1]
    # Pillow rounds the plain version to whole numbers first.
    assert np.abs(changed - expected).max() <= 2
    assert np.abs(changed - np.asarray(picture).astype(int)[1:-1, 1:-1]).max() > 2


@pytest.mark.parametrize(("side", "sign"), [(0.2, -1), (0.8, 1)])
def test_geometry_is_pillows_about_the_centre(picture, side, sign):
    centre, shear, moved = SIDE / 2, sign * 0.27, sign * 0.9 * 100 / 331 * SIDE
    matrices = {
        "shear_x": (1, shear, -shear * centre, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, -shear * centre),
        "translate_x": (1, 0, moved, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, moved),
    }
    expected = {
        name: picture.transform(
            picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GRAY
        )
        for name, matrix in matrices.items()
    }
    expected["rotate"] = picture.rotate(sign * 27, Image.Resampling.BILINEAR, fillcolor=GRAY)
    for name, image in expected.items():
        difference = np.abs(applied(picture, name, side) - np.asarray(image).astype(int))
        # Along the edge Pillow mixes nothing of the colour outside in.
        assert np.median(difference) <= 1, name
        assert (difference > 3).mean() < 0.06, name


def test_a_picture_of_one_colour_stays_one(picture):
    plain = Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
    for name in ("autocontrast", "equalize", "color", "contrast", "sharpness"):
        for side in (0.2, 0.8):
            assert (applied(plain, name, side) == 90).all(), name


def test_two_operations_one_after_the_other(picture):
    drawn = np.array(
        [(NAMES.index("solarize") + 0.5) / 14, 0, (NAMES.index("posterize") + 0.5) / 14, 0], np.float32
    )
    expected = ImageOps.posterize(ImageOps.solarize(picture, 230), 4)
    assert (randaugment(np.asarray(picture), drawn).numpy() == np.asarray(expected)).all()


def test_every_operation_is_drawn_up_to_the_last(picture):
    last = np.array([np.nextafter(np.float32(1), np.float32(0)), 0.8, 0, 0], np.float32)
    assert (randaugment(np.asarray(picture), last).numpy() == applied(picture, "translate_y", 0.8)).all()
