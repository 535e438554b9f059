"""How training images are varied, by random numbers that come from outside.

crop-flip: random crops as in the training of Inception and ResNet (Szegedy et al., "Going Deeper with
Convolutions", 2015; He et al., "Deep Residual Learning", 2016): a part of 8 to 100 percent of the area, of
an aspect ratio between 3/4 and 4/3, scaled to the square, mirrored every other time. The whole image,
stretched to the square, is what validation sees: the limit of these crops. randaugment: crop-flip, then
what ``randaugment`` does.
"""

import math
from typing import Any

from components.common.image_decoding import JPEG_TRANSFORM, decode_image, decode_pixels, is_jpeg
from components.common.quiet_tensorflow import tf
from components.train.randaugment import DRAWS as RANDAUGMENT_DRAWS
from components.train.randaugment import randaugment

NONE, CROP_FLIP, RANDAUGMENT = "none", "crop-flip", "randaugment"

_AREA = (0.08, 1.0)
_ASPECT_RATIO = (3 / 4, 4 / 3)
# Shapes that are drawn, until one fits into the image.
_ATTEMPTS = 10
# What the random numbers decide: area and aspect ratio of each attempt, the place, whether it is mirrored;
# what follows is RandAugment's.
_TOP, _LEFT, _MIRRORED, _CROP_DRAWS = range(2 * _ATTEMPTS, 2 * _ATTEMPTS + 4)
# Of the size that was asked for: usual for images that crops are taken from (256 pixels for 224).
_KEPT_SCALE = 256 / 224


def draws_needed(augmentation: str) -> int:
    """Returns how many random numbers an image takes."""
    return {NONE: 0, CROP_FLIP: _CROP_DRAWS, RANDAUGMENT: _CROP_DRAWS + RANDAUGMENT_DRAWS}[augmentation]


def kept_size(augmentation: str, image_size: int) -> int:
    """Returns the side, in pixels, of the square in which a decoded image is kept for later epochs."""
    return image_size if augmentation == NONE else round(image_size * _KEPT_SCALE)


def decode_for_keeping(encoded: Any, augmentation: str, image_size: int) -> tuple[Any, Any, Any]:
    """Decodes an image, a scalar string, to the square in which it is kept.

    Returns:
        uint8 [kept_size, kept_size, 3], and the image's own height and width in pixels, int32.
    """
    pixels = decode_pixels(encoded)
    shape = tf.shape(pixels)
    return decode_image(encoded, kept_size(augmentation, image_size)), shape[0], shape[1]


def decode_and_vary(encoded: Any, draws: Any, augmentation: str, image_size: int) -> Any:
    """Decodes an image and varies it.

    Of a JPEG only the crop is decoded. That does not notice when the file is cut off behind it, as
    evaluation and serving do: the validate step finds such files.

    Args:
        encoded: A scalar string tensor, the bytes of the file.
        draws: float32 [draws_needed], uniform in [0, 1).
        augmentation: One of the three.
        image_size: Side of the square, in pixels.

    Returns:
        uint8 [image_size, image_size, 3].
    """
    if augmentation == NONE:
        return decode_image(encoded, image_size)
    cropped = tf.cond(
        is_jpeg(encoded), lambda: _crop_of_jpeg(encoded, draws), lambda: _crop_of_other(encoded, draws)
    )
    cropped.set_shape([None, None, 3])
    return _finished(cropped, draws, augmentation, image_size)


def vary_kept(image: Any, height: Any, width: Any, draws: Any, augmentation: str, image_size: int) -> Any:
    """Varies a kept image: the same crop as of the file, from pixels of the kept size.

    Args:
        image: uint8 [kept_size, kept_size, 3].
        height: An int scalar, of the image before it was kept, in pixels.
        width: Likewise.
        draws: float32 [draws_needed], uniform in [0, 1).
        augmentation: One of the three.
        image_size: Side of the square, in pixels.

    Returns:
        uint8 [image_size, image_size, 3].
    """
    if augmentation == NONE:
        return image
    window = crop_window(draws, height, width)
    side = image.shape[0]
    (top, rows), (left, columns) = (
        _scaled_span(first, length, side, size)
        for first, length, size in zip(window[:2], window[2:], (height, width), strict=True)
    )
    cropped = image[top : top + rows, left : left + columns]
    return _finished(cropped, draws, augmentation, image_size)


def _scaled_span(first: Any, length: Any, side: int, size: Any) -> tuple[Any, Any]:
    """Returns where a span of an image of ``size`` pixels begins, and its length, when there are ``side``."""
    scale = tf.cast(side, tf.float32) / tf.cast(size, tf.float32)
    start = tf.cast(tf.round(tf.cast(first, tf.float32) * scale), tf.int32)
    end = tf.cast(tf.round(tf.cast(first + length, tf.float32) * scale), tf.int32)
    start = tf.minimum(start, side - 1)
    return start, tf.maximum(end - start, 1)


def crop_window(draws: Any, heights: Any, widths: Any) -> tuple[Any, Any, Any, Any]:
    """Returns top, left, height and width, int32 [...], of the random part of images.

    Args:
        draws: float32 [..., draws_needed].
        heights: int [...], of the images, in pixels.
        widths: int [...], likewise.
    """
    heights, widths = tf.cast(heights, tf.float32), tf.cast(widths, tf.float32)
    areas = _AREA[0] + (_AREA[1] - _AREA[0]) * draws[..., :_ATTEMPTS]
    low, high = (math.log(bound) for bound in _ASPECT_RATIO)
    ratios = tf.exp(low + (high - low) * draws[..., _ATTEMPTS : 2 * _ATTEMPTS])
    # Sides as shares of the image's; its own aspect ratio counts.
    shape = (widths / heights)[..., None]
    vertical, horizontal = tf.sqrt(areas / ratios * shape), tf.sqrt(areas * ratios / shape)
    fits = tf.cast((vertical <= 1) & (horizontal <= 1), tf.float32)
    first = tf.one_hot(tf.argmax(fits, axis=-1), _ATTEMPTS) * fits
    # If none fits, the whole image: for one that is more than twice as wide as high, say.
    none = 1 - tf.reduce_sum(first, axis=-1)
    height = _pixels((tf.reduce_sum(first * vertical, axis=-1) + none) * heights)
    width = _pixels((tf.reduce_sum(first * horizontal, axis=-1) + none) * widths)
    top = tf.floor(draws[..., _TOP] * (heights - height + 1))
    left = tf.floor(draws[..., _LEFT] * (widths - width + 1))
    # The product may round up to the next whole number.
    top, left = tf.minimum(top, heights - height), tf.minimum(left, widths - width)
    return tuple(tf.cast(value, tf.int32) for value in (top, left, height, width))


def _pixels(length: Any) -> Any:
    return tf.maximum(tf.round(length), 1.0)


def _crop_of_jpeg(encoded: Any, draws: Any) -> Any:
    shape = tf.image.extract_jpeg_shape(encoded)
    window = tf.stack(crop_window(draws, shape[0], shape[1]))
    return tf.image.decode_and_crop_jpeg(encoded, window, channels=3, dct_method=JPEG_TRANSFORM)


def _crop_of_other(encoded: Any, draws: Any) -> Any:
    pixels = decode_pixels(encoded)
    shape = tf.shape(pixels)
    top, left, height, width = crop_window(draws, shape[0], shape[1])
    return pixels[top : top + height, left : left + width]


def _finished(cropped: Any, draws: Any, augmentation: str, image_size: int) -> Any:
    """Scales a crop, uint8 [height, width, 3], to the square, mirrors it or not, and changes it further.

    Bilinear without antialiasing, as ``decode_image`` is. Each of these operations was the fastest: a
    crop by crop_and_resize takes four times as long, tf.round three times, and tf.reverse is quick
    for the middle one of three axes alone.
    """
    scaled = tf.raw_ops.ResizeBilinear(
        images=cropped[None], size=[image_size] * 2, align_corners=False, half_pixel_centers=True
    )[0]
    image = tf.cast(scaled + 0.5, tf.uint8)
    image = tf.cond(draws[_MIRRORED] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    return randaugment(image, draws[_CROP_DRAWS:]) if augmentation == RANDAUGMENT else image
