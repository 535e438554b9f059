"""How training images are varied, by random numbers that come from outside.

Random crops as in the training of Inception and ResNet (Szegedy et al., "Going Deeper with
Convolutions", 2015; He et al., "Deep Residual Learning", 2016): a part of 8 to 100 percent of the area, of
an aspect ratio between 3/4 and 4/3, scaled to the square, mirrored every other time. The whole image,
stretched to the square, is what validation sees: the limit of these crops.
"""

import math
from typing import Any

from components.common.image_decoding import JPEG_TRANSFORM, decode_image, decode_pixels, is_jpeg
from components.common.quiet_tensorflow import tf

NONE, CROP_FLIP, RANDAUGMENT = "none", "crop-flip", "randaugment"

_AREA = (0.08, 1.0)
_ASPECT_RATIO = (3 / 4, 4 / 3)
# Shapes that are drawn, until one fits into the image.
_ATTEMPTS = 10
# Area and aspect ratio of each attempt, then the place, then whether it is mirrored.
_CROP_DRAWS = 2 * _ATTEMPTS + 3
# Of the size that was asked for: usual for images that crops are taken from (256 pixels for 224).
_KEPT_SCALE = 256 / 224


def draws_needed(augmentation: str) -> int:
    """Returns how many random numbers an image takes."""
    return 0 if augmentation == NONE else _CROP_DRAWS


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
    whole = tf.constant([[0.0, 0.0, 1.0, 1.0]])
    return _resampled(cropped[None], whole, draws[None, -1] < 0.5, image_size)[0]


def vary_kept(images: Any, heights: Any, widths: Any, draws: Any, augmentation: str, image_size: int) -> Any:
    """Varies kept images: the same crops as of the files, from pixels of the kept size.

    Args:
        images: uint8 [batch, kept_size, kept_size, 3].
        heights: int [batch], of the images before they were kept, in pixels.
        widths: int [batch], likewise.
        draws: float32 [batch, draws_needed], uniform in [0, 1).
        augmentation: One of the three.
        image_size: Side of the square, in pixels.

    Returns:
        uint8 [batch, image_size, image_size, 3].
    """
    if augmentation == NONE:
        return images
    top, left, height, width = crop_window(draws, heights, widths)
    corners = ((top, heights), (left, widths), (top + height, heights), (left + width, widths))
    boxes = tf.stack([tf.cast(edge, tf.float32) / tf.cast(size, tf.float32) for edge, size in corners], -1)
    return _resampled(images, boxes, draws[:, -1] < 0.5, image_size)


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
    top = tf.floor(draws[..., 2 * _ATTEMPTS] * (heights - height + 1))
    left = tf.floor(draws[..., 2 * _ATTEMPTS + 1] * (widths - width + 1))
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


def _resampled(images: Any, boxes: Any, mirrored: Any, image_size: int) -> Any:
    """Scales a box of each image to the square, bilinearly without antialiasing, as ``decode_image`` does.

    Args:
        images: uint8 [batch, height, width, 3].
        boxes: float32 [batch, 4]: top, left, bottom, right, as shares of height and width.
        mirrored: bool [batch].
        image_size: Side of the square, in pixels.
    """
    size = tf.cast(tf.shape(images)[1:3], tf.float32)
    start, end = boxes[:, :2] * size, boxes[:, 2:] * size
    # crop_and_resize is told the centres of the first and the last pixel, as shares of the distance
    # between those of the image; what lies outside would be black.
    inset = (end - start) * (0.5 / image_size)
    first = tf.clip_by_value(start + inset - 0.5, 0.0, size - 1) / tf.maximum(size - 1, 1)
    last = tf.clip_by_value(end - inset - 0.5, 0.0, size - 1) / tf.maximum(size - 1, 1)
    # Right before left mirrors, at no cost.
    lefts = tf.where(mirrored, last[:, 1], first[:, 1])
    rights = tf.where(mirrored, first[:, 1], last[:, 1])
    centres = tf.stack([first[:, 0], lefts, last[:, 0], rights], axis=-1)
    scaled = tf.image.crop_and_resize(images, centres, tf.range(tf.shape(images)[0]), [image_size] * 2)
    return tf.saturate_cast(tf.round(scaled), tf.uint8)
