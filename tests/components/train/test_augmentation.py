import io

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.training_decoder import decode_image
from imgpipe.components.train.augmentation import (
    CROP_FLIP,
    NONE,
    RANDAUGMENT,
    choices_of,
    crop_window,
    decode_and_vary,
    decode_for_keeping,
    draws_needed,
    kept_size,
    vary_kept,
)
from imgpipe.components.train.example_order import random_draws

DRAWS = draws_needed(CROP_FLIP)
MIRRORED, NOT_MIRRORED = 0.2, 0.8


def choices(count, seed=0, augmentation=CROP_FLIP):
    return choices_of(random_draws(seed, 0, count, draws_needed(augmentation)))


def photo(height=90, width=120):
    """A smooth picture whose colours tell each place: red grows downwards, green to the right."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 250 / height, columns * 250 / width, rows * 0 + 128], -1).astype(np.uint8)


def encoded(pixels, image_format):
    buffer = io.BytesIO()
    options = {"quality": 98, "subsampling": 0} if image_format == "JPEG" else {}
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return tf.constant(buffer.getvalue())


def windows(count, height, width):
    drawn = tf.data.Dataset.from_tensor_slices(choices(count))
    return next(iter(drawn.map(lambda chosen: crop_window(chosen, [height, width])).batch(count))).numpy().T


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 333), (224, 224), (10, 1000), (1, 1), (3, 2)]
)
def test_crops_lie_inside_the_image(height, width):
    top, left, rows, columns = windows(5000, height, width)
    assert min(rows.min(), columns.min()) >= 1
    assert min(top.min(), left.min()) >= 0
    assert (top + rows).max() <= height
    assert (left + columns).max() <= width


def test_crops_have_the_published_areas_and_shapes_and_lie_anywhere():
    top, left, rows, columns = windows(20_000, 375, 500)
    area = rows * columns / (375 * 500)
    assert 0.079 < area.min() < 0.09
    assert 0.95 < area.max() <= 1
    # Uniform where every shape fits; large ones are chosen again when they do not.
    assert np.histogram(area, 5, (0.1, 0.6))[0].std() / 20_000 < 0.005
    shape = np.log(columns / rows)
    assert np.abs(shape).max() < np.log(4 / 3) + 0.02
    small = area < 0.2
    assert abs(shape[small].mean()) < 0.01
    for start, room in ((top, 375 - rows), (left, 500 - columns)):
        place = start[small] / room[small]
        assert abs(place.mean() - 0.5) < 0.02
        assert place.min() < 0.01
        assert place.max() > 0.99


def test_an_image_that_no_shape_fits_into_stays_whole():
    top, left, rows, columns = windows(1000, 10, 1000)
    assert (top == 0).all()
    assert (left == 0).all()
    assert (rows == 10).all()
    assert (columns == 1000).all()


def whole_image(mirrored):
    """The draws that take the whole of a square image: all its area, ratio 1."""
    values = np.full(DRAWS, 0.5, np.float32)
    values[:10] = 1.0
    values[-1] = mirrored
    return tf.constant(choices_of(values[None])[0])


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_the_whole_image_is_what_validation_sees_mirrored_or_not(image_format):
    content = encoded(photo(64, 64), image_format)
    seen = decode_image(content, 48).numpy().astype(int)
    plain, mirrored = (
        decode_and_vary(content, whole_image(side), CROP_FLIP, 48).numpy().astype(int)
        for side in (NOT_MIRRORED, MIRRORED)
    )
    # Halves round up here and to even there.
    assert np.abs(plain - seen).max() <= 1
    assert (mirrored == plain[:, ::-1]).all()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "GIF"])
def test_a_crop_shows_its_part_of_the_image_in_every_format(image_format):
    pixels = photo()
    if image_format == "GIF":
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    content = encoded(pixels, image_format)
    for chosen in choices(20):
        varied = decode_and_vary(content, chosen, CROP_FLIP, 32).numpy()
        assert varied.shape == (32, 32, 3)
        assert varied.dtype == np.uint8
        top, left, rows, columns = (int(value) for value in crop_window(tf.constant(chosen), [90, 120]))
        crop = Image.fromarray(pixels[top : top + rows, left : left + columns])
        expected = np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
        expected = expected[:, ::-1] if chosen[DRAWS - 1] < 0.5 else expected
        assert np.abs(varied - expected).mean() < 3


@pytest.mark.parametrize("size", [(640, 480), (1201, 1603), (4000, 3000), (4000, 200)])
def test_large_photos_are_decoded_smaller_and_show_the_same_crop(size):
    pixels = photo(*size)
    content = encoded(pixels, "JPEG")
    for chosen in choices(12):
        varied = decode_and_vary(content, chosen, CROP_FLIP, 64).numpy().astype(int)
        top, left, rows, columns = (int(value) for value in crop_window(tf.constant(chosen), size))
        crop = Image.fromarray(pixels[top : top + rows, left : left + columns])
        expected = np.asarray(crop.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
        expected = expected[:, ::-1] if chosen[DRAWS - 1] < 0.5 else expected
        assert np.abs(varied - expected).mean() < 2
        assert np.abs(varied - expected).max() < 12


def test_a_kept_image_gives_the_same_crop():
    content = encoded(photo(), "JPEG")
    kept, height, width = decode_for_keeping(content, CROP_FLIP, 56)
    assert kept.shape == (64, 64, 3)
    assert (int(height), int(width)) == (90, 120)
    for chosen in choices(20):
        from_kept = vary_kept(kept, height, width, tf.constant(chosen), CROP_FLIP, 56).numpy().astype(int)
        from_file = decode_and_vary(content, chosen, CROP_FLIP, 56).numpy()
        assert from_kept.shape == (56, 56, 3)
        assert np.abs(from_kept - from_file).mean() < 3
        assert np.abs(from_kept - from_file).max() < 12


def test_without_augmentation_files_and_kept_images_are_what_validation_sees():
    content = encoded(photo(), "JPEG")
    seen = decode_image(content, 30).numpy()
    none = tf.zeros([0])
    kept, height, width = decode_for_keeping(content, NONE, 30)
    assert (decode_and_vary(content, none, NONE, 30).numpy() == seen).all()
    assert (vary_kept(kept, height, width, none, NONE, 30).numpy() == seen).all()


def test_sizes_and_draws():
    assert [kept_size(name, 224) for name in (NONE, CROP_FLIP, RANDAUGMENT)] == [224, 256, 256]
    assert [draws_needed(name) for name in (NONE, CROP_FLIP, RANDAUGMENT)] == [0, 23, 27]


def test_randaugment_is_crop_flip_and_then_more():
    content = encoded(photo(), "JPEG")
    changed = 0
    for chosen in choices(40, augmentation=RANDAUGMENT):
        cropped = decode_and_vary(content, chosen[:DRAWS], CROP_FLIP, 32).numpy()
        varied = decode_and_vary(content, chosen, RANDAUGMENT, 32).numpy()
        assert varied.shape == (32, 32, 3)
        changed += (varied != cropped).any()
        # The first of the fourteen operations changes nothing.
        chosen[[DRAWS, DRAWS + 2]] = 0
        assert (decode_and_vary(content, chosen, RANDAUGMENT, 32).numpy() == cropped).all()
    assert changed > 30


def test_what_is_no_image_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_and_vary(tf.constant(b"no image"), choices(1)[0], CROP_FLIP, 32)
