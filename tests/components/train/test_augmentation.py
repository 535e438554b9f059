import io

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.training_decoder import decode_image
from imgpipe.components.images.resize_modes import CROP, LETTERBOX
from imgpipe.components.train.augmentation import (
    CROP_FLIP,
    MILD_CROP,
    MILD_CROP_FLIP,
    NONE,
    RANDAUGMENT,
    augment_cached,
    cached_size,
    crop_parameters,
    crop_window,
    decode_and_augment,
    decode_for_cache,
    draws_needed,
)
from imgpipe.components.train.example_order import random_draws

DRAWS = draws_needed(CROP_FLIP)
MIRRORED, NOT_MIRRORED = 0.2, 0.8


def random_parameters(count, augmentation=CROP_FLIP):
    return crop_parameters(random_draws(0, 0, count, draws_needed(augmentation)))


def photo(height=90, width=120):
    """A smooth image whose colours encode the position: red increases downwards, green to the right."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 250 / height, columns * 250 / width, rows * 0 + 128], -1).astype(np.uint8)


def encoded(pixels, image_format):
    buffer = io.BytesIO()
    options = {"quality": 98, "subsampling": 0} if image_format == "JPEG" else {}
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return tf.constant(buffer.getvalue())


def windows(count, height, width):
    parameters = tf.data.Dataset.from_tensor_slices(random_parameters(count))
    crops = parameters.map(lambda values: crop_window(values, [height, width])).batch(count)
    return next(iter(crops)).numpy().T


def test_mild_crops_are_at_least_35_percent_of_the_area():
    draws = random_draws(0, 0, 1000, draws_needed(MILD_CROP_FLIP))
    heights, widths = crop_parameters(draws, MILD_CROP_FLIP)[:, :20].reshape(1000, 2, 10).swapaxes(0, 1)
    areas = heights * widths
    assert 0.35 <= areas.min() < 0.36
    assert areas.max() <= 1 + 1e-6


def crop_difference(augmented, pixels, parameters):
    """Returns the absolute differences between an augmented image and Pillow's crop of the same window."""
    window = crop_window(tf.constant(parameters), pixels.shape[:2])
    top, left, rows, columns = (int(value) for value in window)
    crop = Image.fromarray(pixels[top : top + rows, left : left + columns])
    expected = np.asarray(crop.resize(augmented.shape[:2], Image.Resampling.BILINEAR)).astype(int)
    expected = expected[:, ::-1] if parameters[DRAWS - 1] < 0.5 else expected
    return np.abs(augmented - expected)


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 333), (224, 224), (10, 1000), (1, 1), (3, 2)]
)
def test_crops_are_inside_the_image(height, width):
    top, left, rows, columns = windows(5000, height, width)
    assert min(rows.min(), columns.min()) >= 1
    assert min(top.min(), left.min()) >= 0
    assert (top + rows).max() <= height
    assert (left + columns).max() <= width


def test_crops_have_the_published_areas_shapes_and_positions():
    top, left, rows, columns = windows(20_000, 375, 500)
    area = rows * columns / (375 * 500)
    assert 0.079 < area.min() < 0.09
    assert 0.95 < area.max() <= 1
    # Uniform for areas at which all shapes fit; large ones are drawn again if they do not fit.
    assert np.histogram(area, 5, (0.1, 0.6))[0].std() / 20_000 < 0.005
    shape = np.log(columns / rows)
    assert np.abs(shape).max() < np.log(4 / 3) + 0.02
    small = area < 0.2
    assert abs(shape[small].mean()) < 0.01
    for start, room in ((top, 375 - rows), (left, 500 - columns)):
        position = start[small] / room[small]
        assert abs(position.mean() - 0.5) < 0.02
        assert position.min() < 0.01
        assert position.max() > 0.99


def test_the_whole_image_is_used_if_no_shape_fits():
    top, left, rows, columns = windows(1000, 10, 1000)
    assert (top == 0).all()
    assert (left == 0).all()
    assert (rows == 10).all()
    assert (columns == 1000).all()


def whole_image(mirrored):
    """Parameters that select the whole of a square image: all of its area, aspect ratio 1."""
    values = np.full(DRAWS, 0.5, np.float32)
    values[:10] = 1.0
    values[-1] = mirrored
    return tf.constant(crop_parameters(values[None])[0])


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_crop_of_the_whole_image_equals_the_validation_image_or_its_mirror_image(image_format):
    content = encoded(photo(64, 64), image_format)
    validation = decode_image(content, 48).numpy().astype(int)
    plain, mirrored = (
        decode_and_augment(content, whole_image(side), CROP_FLIP, 48).numpy().astype(int)
        for side in (NOT_MIRRORED, MIRRORED)
    )
    # Augmentation rounds halves up, validation to even.
    assert np.abs(plain - validation).max() <= 1
    assert (mirrored == plain[:, ::-1]).all()
    never_mirrored = decode_and_augment(content, whole_image(MIRRORED), MILD_CROP, 48).numpy()
    assert (never_mirrored == plain).all()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "GIF"])
def test_crops_are_correct_in_every_format(image_format):
    pixels = photo()
    if image_format == "GIF":
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    content = encoded(pixels, image_format)
    for parameters in random_parameters(20):
        augmented = decode_and_augment(content, parameters, CROP_FLIP, 32).numpy()
        assert augmented.shape == (32, 32, 3)
        assert augmented.dtype == np.uint8
        assert crop_difference(augmented, pixels, parameters).mean() < 3


@pytest.mark.parametrize("size", [(640, 480), (1201, 1603), (4000, 3000), (4000, 200)])
def test_crops_of_large_photos_are_correct_when_decoded_at_a_lower_resolution(size):
    pixels = photo(*size)
    content = encoded(pixels, "JPEG")
    for parameters in random_parameters(12):
        augmented = decode_and_augment(content, parameters, CROP_FLIP, 64).numpy()
        difference = crop_difference(augmented, pixels, parameters)
        assert difference.mean() < 2
        assert difference.max() < 12


def test_a_cached_image_gives_the_same_crop_as_the_file():
    content = encoded(photo(), "JPEG")
    cached, size = decode_for_cache(content, CROP_FLIP, 56)
    assert cached.shape == (64, 64, 3)
    assert size.numpy().tolist() == [90, 120]
    for parameters in random_parameters(20):
        from_cache = augment_cached(cached, size, tf.constant(parameters), CROP_FLIP, 56).numpy().astype(int)
        from_file = decode_and_augment(content, parameters, CROP_FLIP, 56).numpy()
        assert from_cache.shape == (56, 56, 3)
        assert np.abs(from_cache - from_file).mean() < 3
        assert np.abs(from_cache - from_file).max() < 12


def test_without_augmentation_files_and_cached_images_equal_the_validation_image():
    content = encoded(photo(), "JPEG")
    validation = decode_image(content, 30).numpy()
    none = tf.zeros([0])
    cached, size = decode_for_cache(content, NONE, 30)
    assert (decode_and_augment(content, none, NONE, 30).numpy() == validation).all()
    assert (augment_cached(cached, size, none, NONE, 30).numpy() == validation).all()


@pytest.mark.parametrize("resize", [CROP, LETTERBOX])
def test_each_way_to_resize_is_the_same_from_files_and_from_the_cache(resize):
    content = encoded(photo(), "JPEG")
    cached, size = decode_for_cache(content, NONE, 30, resize)
    assert (cached.numpy() == decode_image(content, 30, resize).numpy()).all()
    cached, size = decode_for_cache(content, CROP_FLIP, 56, resize)
    for parameters in map(tf.constant, random_parameters(10)):
        from_cache = augment_cached(cached, size, parameters, CROP_FLIP, 56).numpy().astype(int)
        from_file = decode_and_augment(content, parameters, CROP_FLIP, 56, resize).numpy()
        assert np.abs(from_cache - from_file).mean() < 3
        whole = decode_and_augment(content, parameters, CROP_FLIP, 56).numpy()
        # Of a cropped image, the crops are those of the whole image.
        assert (from_file == whole).all() == (resize == CROP)


def test_cached_sizes_and_numbers_of_draws():
    assert [cached_size(name, 224) for name in (NONE, CROP_FLIP, RANDAUGMENT)] == [224, 256, 256]
    assert [draws_needed(name) for name in (NONE, CROP_FLIP, RANDAUGMENT)] == [0, 23, 27]


def test_randaugment_is_applied_after_crop_flip():
    content = encoded(photo(), "JPEG")
    changed = 0
    for parameters in random_parameters(40, augmentation=RANDAUGMENT):
        cropped = decode_and_augment(content, parameters[:DRAWS], CROP_FLIP, 32).numpy()
        augmented = decode_and_augment(content, parameters, RANDAUGMENT, 32).numpy()
        assert augmented.shape == (32, 32, 3)
        changed += (augmented != cropped).any()
        # The first of the fourteen operations is the identity.
        parameters[[DRAWS, DRAWS + 2]] = 0
        assert (decode_and_augment(content, parameters, RANDAUGMENT, 32).numpy() == cropped).all()
    assert changed > 30


def test_a_file_that_is_not_an_image_is_rejected():
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_and_augment(tf.constant(b"no image"), random_parameters(1)[0], CROP_FLIP, 32)
