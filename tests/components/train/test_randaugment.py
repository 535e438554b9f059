"""Compares the operations with Pillow's, which the authors used."""

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


def apply(picture, name, side):
    """Applies one operation and then the identity."""
    draws = np.array([(NAMES.index(name) + 0.5) / len(NAMES), side, 0, 0], np.float32)
    return randaugment(np.asarray(picture), draws).numpy().astype(int)


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
def test_operations_without_a_sign_equal_pillows(picture, name, expected, side):
    assert (apply(picture, name, side) == np.asarray(expected(picture))).all()


def test_autocontrast_differs_from_pillows_by_rounding(picture):
    difference = apply(picture, "autocontrast", 0.2) - np.asarray(ImageOps.autocontrast(picture))
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
def test_enhancing_weakens_or_strengthens_as_pillow(picture, name, enhancer, side, factor):
    changed = apply(picture, name, side)[1:-1, 1:-1]
    expected = np.asarray(enhancer(picture).enhance(factor)).astype(int)[1:-1, 1:-1]
    # Pillow rounds the degenerate version to integers first.
    assert np.abs(changed - expected).max() <= 2
    assert np.abs(changed - np.asarray(picture).astype(int)[1:-1, 1:-1]).max() > 2


@pytest.mark.parametrize(("side", "sign"), [(0.2, -1), (0.8, 1)])
def test_geometry_equals_pillows_about_the_centre(picture, side, sign):
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
        difference = np.abs(apply(picture, name, side) - np.asarray(image).astype(int))
        # Pillow does not blend with the outside colour along the edge.
        assert np.median(difference) <= 1, name
        assert (difference > 3).mean() < 0.06, name


def test_an_image_of_a_single_colour_is_unchanged():
    plain = Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
    for name in ("autocontrast", "equalize", "color", "contrast", "sharpness"):
        for side in (0.2, 0.8):
            assert (apply(plain, name, side) == 90).all(), name


def test_two_operations_are_applied_in_order(picture):
    draws = np.array(
        [(NAMES.index("solarize") + 0.5) / 14, 0, (NAMES.index("posterize") + 0.5) / 14, 0], np.float32
    )
    expected = ImageOps.posterize(ImageOps.solarize(picture, 230), 4)
    assert (randaugment(np.asarray(picture), draws).numpy() == np.asarray(expected)).all()


def test_the_largest_draw_selects_the_last_operation(picture):
    last = np.array([np.nextafter(np.float32(1), np.float32(0)), 0.8, 0, 0], np.float32)
    assert (randaugment(np.asarray(picture), last).numpy() == apply(picture, "translate_y", 0.8)).all()
