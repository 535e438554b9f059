"""Augmentation of training images; the random numbers are passed in.

crop-flip: random crops as in the training of Inception and ResNet (Szegedy et al., "Going Deeper with
Convolutions", 2015; He et al., "Deep Residual Learning", 2016): 8 to 100 percent of the area, with an aspect
ratio between 3/4 and 4/3, scaled to a square and mirrored with probability 1/2. Validation uses the whole
image, stretched to the square, which is the limit of these crops, or the square in its middle. Of
letterboxed images, the crops are taken from the letterboxed image. randaugment: crop-flip, then RandAugment.
mild-crop-flip: crop-flip with at least 35 percent of the area; mild-crop: the same without mirroring.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.tf_import import tf
from imgpipe.components.images.graph.training_decoder import (
    JPEG_TRANSFORM,
    decode_image,
    decode_pixels,
    is_jpeg,
    scale_to_square,
)
from imgpipe.components.images.resize_modes import LETTERBOX, STRETCH
from imgpipe.components.train.randaugment import DRAWS as RANDAUGMENT_DRAWS
from imgpipe.components.train.randaugment import randaugment

NONE, CROP_FLIP, RANDAUGMENT = "none", "crop-flip", "randaugment"
MILD_CROP_FLIP, MILD_CROP = "mild-crop-flip", "mild-crop"

_MIN_AREA = {CROP_FLIP: 0.08, RANDAUGMENT: 0.08, MILD_CROP_FLIP: 0.35, MILD_CROP: 0.35}
_ASPECT_RATIO = (3 / 4, 4 / 3)
# Crop shapes that are drawn; the first one that fits into the image is used.
_ATTEMPTS = 10
# An image's random numbers: area and aspect ratio of each attempt, position, mirroring; then RandAugment's.
_AREAS, _RATIOS = slice(0, _ATTEMPTS), slice(_ATTEMPTS, 2 * _ATTEMPTS)
_LAST_ATTEMPT = 2 * _ATTEMPTS
_POSITION = slice(_LAST_ATTEMPT, _LAST_ATTEMPT + 2)
_MIRRORED, _CROP_DRAWS = _LAST_ATTEMPT + 2, _LAST_ATTEMPT + 3
# Cached images are larger than the crops by the usual ratio (256 pixels for 224).
_CACHED_SCALE = 256 / 224


def draws_needed(augmentation: str) -> int:
    """Returns the number of random numbers per image."""
    if augmentation == NONE:
        return 0
    return _CROP_DRAWS + (RANDAUGMENT_DRAWS if augmentation == RANDAUGMENT else 0)


def crop_parameters(draws: NDArray[np.float32], augmentation: str = CROP_FLIP) -> NDArray[np.float32]:
    """Converts random numbers into augmentation parameters, as far as they do not depend on the image.

    Args:
        draws: float32 [batch, draws_needed], uniform in [0, 1).
        augmentation: One that crops.

    Returns:
        float32 of the same shape: the heights and then the widths of all attempts at a crop, as fractions of
        the side of a square image; the other numbers are unchanged.
    """
    parameters = draws.copy()
    min_area = _MIN_AREA[augmentation]
    areas = min_area + (1 - min_area) * draws[:, _AREAS]
    low, high = np.log(_ASPECT_RATIO)
    ratios = np.exp(low + (high - low) * draws[:, _RATIOS])
    parameters[:, _AREAS], parameters[:, _RATIOS] = np.sqrt(areas / ratios), np.sqrt(areas * ratios)
    return parameters


def cached_size(augmentation: str, image_size: int) -> int:
    """Returns the side, in pixels, of the square that a decoded image is cached as."""
    return image_size if augmentation == NONE else round(image_size * _CACHED_SCALE)


def decode_for_cache(
    encoded: Any, augmentation: str, image_size: int, resize: str = STRETCH
) -> tuple[Any, Any]:
    """Decodes an image, a scalar string, to the square that is cached.

    Returns:
        uint8 [cached_size, cached_size, 3], and the original height and width in pixels of what it shows,
        int32 [2].
    """
    side = cached_size(augmentation, image_size)
    pixels = decode_pixels(encoded)
    if resize == LETTERBOX:
        return scale_to_square(pixels, side, resize), tf.constant([side, side])
    # Crops are taken from the whole image.
    return scale_to_square(pixels, side, resize if augmentation == NONE else STRETCH), tf.shape(pixels)[:2]


def decode_and_augment(
    encoded: Any, parameters: Any, augmentation: str, image_size: int, resize: str = STRETCH
) -> Any:
    """Decodes an image and augments it.

    Only the crop of a JPEG is decoded, and a large crop only at the resolution that the square needs. A file
    that is truncated after the crop is therefore not rejected here, as it is by evaluation, serving and the
    validate step.

    Args:
        encoded: A scalar string tensor, the bytes of the file.
        parameters: float32 [draws_needed], from ``crop_parameters``.
        augmentation: a value of the argument.
        image_size: Side of the square, in pixels.
        resize: See ``scale_to_square``.

    Returns:
        uint8 [image_size, image_size, 3].
    """
    if augmentation == NONE:
        return decode_image(encoded, image_size, resize)
    if resize == LETTERBOX:
        letterboxed, size = decode_for_cache(encoded, augmentation, image_size, resize)
        return augment_cached(letterboxed, size, parameters, augmentation, image_size)
    scaled = tf.cond(
        is_jpeg(encoded),
        lambda: _crop_jpeg(encoded, parameters, image_size),
        lambda: _crop_other_format(encoded, parameters, image_size),
    )
    return _mirror_and_randaugment(scaled, parameters, augmentation)


def augment_cached(image: Any, size: Any, parameters: Any, augmentation: str, image_size: int) -> Any:
    """Augments a cached image with the same crop as from the file, taken from the pixels of the cached size.

    Args:
        image: uint8 [cached_size, cached_size, 3].
        size: int [2], the image's original height and width, in pixels.
        parameters: float32 [draws_needed], from ``crop_parameters``.
        augmentation: a value of the argument.
        image_size: Side of the square, in pixels.

    Returns:
        uint8 [image_size, image_size, 3].
    """
    if augmentation == NONE:
        return image
    window = crop_window(parameters, size)
    begin, length = _scale_window(window, size, image.shape[0])
    (top, left), (rows, columns) = tf.unstack(begin), tf.unstack(length)
    cropped = image[top : top + rows, left : left + columns]
    return _mirror_and_randaugment(_scale(tf.cast(cropped, tf.float32), image_size), parameters, augmentation)


def _scale_window(window: Any, size: Any, side: int) -> tuple[Any, Any]:
    """Returns begin [2] and length [2] of a window after its image is scaled from ``size`` to a square."""
    scale = tf.cast(side, tf.float32) / tf.cast(size, tf.float32)
    begin = tf.cast(tf.round(tf.cast(window[:2], tf.float32) * scale), tf.int32)
    end = tf.cast(tf.round(tf.cast(window[:2] + window[2:], tf.float32) * scale), tf.int32)
    begin = tf.minimum(begin, side - 1)
    return begin, tf.maximum(end - begin, 1)


def crop_window(parameters: Any, size: Any) -> Any:
    """Returns the random crop of an image: its top, left, height and width, int32 [4].

    Height and width are computed together: an operation on two numbers costs as much as on one, and all of
    them take a twentieth of the time of decoding.

    Args:
        parameters: float32 [draws_needed], from ``crop_parameters``.
        size: int [2], height and width of the image, in pixels.
    """
    sides = tf.cast(size, tf.float32)
    # Sides of the attempts as fractions of the image's sides, which depend on its aspect ratio.
    fractions = tf.reshape(parameters[:_LAST_ATTEMPT], [2, _ATTEMPTS]) * tf.sqrt(sides[::-1] / sides)[:, None]
    fits = tf.reduce_max(fractions, axis=0) <= 1
    first = tf.argmax(fits)
    # If none fits, use the whole image, e.g. if it is more than twice as wide as high.
    fraction = tf.where(fits[first], tf.gather(fractions, first, axis=1), 1.0)
    lengths = tf.maximum(tf.round(fraction * sides), 1.0)
    room = sides - lengths
    # The product may round up to the next integer.
    begin = tf.minimum(tf.floor(parameters[_POSITION] * (room + 1)), room)
    return tf.cast(tf.concat([begin, lengths], axis=0), tf.int32)


def _crop_jpeg(encoded: Any, parameters: Any, image_size: int) -> Any:
    window = crop_window(parameters, tf.image.extract_jpeg_shape(encoded)[:2])
    # libjpeg decodes at 1/2, 1/4 and 1/8 of the size many times faster. Use the smallest size at which both
    # sides of the crop still have the pixels that are needed.
    enough = tf.reduce_min(window[2:]) // image_size
    halvings = tf.reduce_sum(tf.cast(enough >= tf.constant([2, 4, 8]), tf.int32))

    def decode(ratio: int) -> Any:
        return tf.image.decode_and_crop_jpeg(
            encoded, window // ratio, channels=3, ratio=ratio, dct_method=JPEG_TRANSFORM
        )

    cropped = tf.switch_case(halvings, [lambda ratio=ratio: decode(ratio) for ratio in (1, 2, 4, 8)])
    # Scaling uint8 takes twice as long as scaling float32.
    return _scale(tf.cast(cropped, tf.float32), image_size)


def _crop_other_format(encoded: Any, parameters: Any, image_size: int) -> Any:
    pixels = decode_pixels(encoded)
    top, left, height, width = tf.unstack(crop_window(parameters, tf.shape(pixels)[:2]))
    # In uint8: the crop may be large, and four times as large in float32.
    return _scale(pixels[top : top + height, left : left + width], image_size)


def _scale(pixels: Any, image_size: int) -> Any:
    """Scales [height, width, 3] to a square, bilinearly without antialiasing, as ``decode_image`` does."""
    # crop_and_resize could mirror as well, but takes four times as long.
    return tf.raw_ops.ResizeBilinear(images=pixels[None], size=[image_size] * 2, half_pixel_centers=True)[0]


def _mirror_and_randaugment(scaled: Any, parameters: Any, augmentation: str) -> Any:
    """Rounds float32 [side, side, 3] to uint8, mirrors it at random and applies RandAugment if chosen."""
    # tf.round takes three times as long. tf.reverse is fast only for the middle one of three axes.
    image = tf.cast(scaled + 0.5, tf.uint8)
    if augmentation != MILD_CROP:
        image = tf.cond(parameters[_MIRRORED] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    return randaugment(image, parameters[_CROP_DRAWS:]) if augmentation == RANDAUGMENT else image
