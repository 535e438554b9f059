"""How training images are varied, by random numbers that come from outside.

crop-flip: random crops as in the training of Inception and ResNet (Szegedy et al., "Going Deeper with
Convolutions", 2015; He et al., "Deep Residual Learning", 2016): a part of 8 to 100 percent of the area, of
an aspect ratio between 3/4 and 4/3, scaled to the square, mirrored every other time. The whole image,
stretched to the square, is what validation sees: the limit of these crops. randaugment: crop-flip, then
what ``randaugment`` does.
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
from imgpipe.components.train.randaugment import DRAWS as RANDAUGMENT_DRAWS
from imgpipe.components.train.randaugment import randaugment

NONE, CROP_FLIP, RANDAUGMENT = "none", "crop-flip", "randaugment"

_AREA = (0.08, 1.0)
_ASPECT_RATIO = (3 / 4, 4 / 3)
# Shapes that are drawn, until one fits into the image.
_ATTEMPTS = 10
# What the random numbers decide: area and aspect ratio of each attempt, the place, whether it is mirrored;
# what follows is RandAugment's.
_AREAS, _RATIOS = slice(0, _ATTEMPTS), slice(_ATTEMPTS, 2 * _ATTEMPTS)
_LAST_ATTEMPT = 2 * _ATTEMPTS
_PLACE = slice(_LAST_ATTEMPT, _LAST_ATTEMPT + 2)
_MIRRORED, _CROP_DRAWS = _LAST_ATTEMPT + 2, _LAST_ATTEMPT + 3
# Of the size that was asked for: usual for images that crops are taken from (256 pixels for 224).
_KEPT_SCALE = 256 / 224


def draws_needed(augmentation: str) -> int:
    """Returns how many random numbers an image takes."""
    return {NONE: 0, CROP_FLIP: _CROP_DRAWS, RANDAUGMENT: _CROP_DRAWS + RANDAUGMENT_DRAWS}[augmentation]


def choices_of(draws: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turns random numbers into what the functions below are given; what the image says is left to them.

    Args:
        draws: float32 [batch, draws_needed], uniform in [0, 1).

    Returns:
        float32 of the same shape: for each attempt at a crop its height and then its width, as shares of
        the side of a square image; the rest as it was.
    """
    choices = draws.copy()
    areas = _AREA[0] + (_AREA[1] - _AREA[0]) * draws[:, _AREAS]
    low, high = np.log(_ASPECT_RATIO)
    ratios = np.exp(low + (high - low) * draws[:, _RATIOS])
    choices[:, _AREAS], choices[:, _RATIOS] = np.sqrt(areas / ratios), np.sqrt(areas * ratios)
    return choices


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
    return scale_to_square(pixels, kept_size(augmentation, image_size)), shape[0], shape[1]


def decode_and_vary(encoded: Any, choices: Any, augmentation: str, image_size: int) -> Any:
    """Decodes an image and varies it.

    Of a JPEG only the crop is decoded, and of a large crop only as many pixels as the square needs. That
    does not notice when the file is cut off behind it, as evaluation and serving do: the validate step
    finds such files.

    Args:
        encoded: A scalar string tensor, the bytes of the file.
        choices: float32 [draws_needed], of ``choices_of``.
        augmentation: One of the three.
        image_size: Side of the square, in pixels.

    Returns:
        uint8 [image_size, image_size, 3].
    """
    if augmentation == NONE:
        return decode_image(encoded, image_size)
    scaled = tf.cond(
        is_jpeg(encoded),
        lambda: _crop_of_jpeg(encoded, choices, image_size),
        lambda: _crop_of_other(encoded, choices, image_size),
    )
    return _finished(scaled, choices, augmentation)


def vary_kept(image: Any, height: Any, width: Any, choices: Any, augmentation: str, image_size: int) -> Any:
    """Varies a kept image: the same crop as of the file, from pixels of the kept size.

    Args:
        image: uint8 [kept_size, kept_size, 3].
        height: An int scalar, of the image before it was kept, in pixels.
        width: Likewise.
        choices: float32 [draws_needed], of ``choices_of``.
        augmentation: One of the three.
        image_size: Side of the square, in pixels.

    Returns:
        uint8 [image_size, image_size, 3].
    """
    if augmentation == NONE:
        return image
    size = tf.stack([height, width])
    window = crop_window(choices, size)
    begin, length = _scaled_spans(window[:2], window[2:], image.shape[0], size)
    (top, left), (rows, columns) = tf.unstack(begin), tf.unstack(length)
    cropped = image[top : top + rows, left : left + columns]
    return _finished(_scaled(tf.cast(cropped, tf.float32), image_size), choices, augmentation)


def _scaled_spans(firsts: Any, lengths: Any, side: int, sizes: Any) -> tuple[Any, Any]:
    """Returns where spans of an image of ``sizes`` pixels begin, and their lengths, once it has ``side``."""
    scale = tf.cast(side, tf.float32) / tf.cast(sizes, tf.float32)
    starts = tf.cast(tf.round(tf.cast(firsts, tf.float32) * scale), tf.int32)
    ends = tf.cast(tf.round(tf.cast(firsts + lengths, tf.float32) * scale), tf.int32)
    starts = tf.minimum(starts, side - 1)
    return starts, tf.maximum(ends - starts, 1)


def crop_window(choices: Any, size: Any) -> Any:
    """Returns the random part of an image: its top, left, height and width, int32 [4].

    Both sides are computed together: an operation on two numbers costs what one on a single number does, and
    all of them together a twentieth of what decoding takes.

    Args:
        choices: float32 [draws_needed], of ``choices_of``.
        size: int [2], height and width of the image, in pixels.
    """
    sides = tf.cast(size, tf.float32)
    # Sides of the attempts as shares of the image's; its own aspect ratio counts.
    shares = tf.reshape(choices[:_LAST_ATTEMPT], [2, _ATTEMPTS]) * tf.sqrt(sides[::-1] / sides)[:, None]
    fits = tf.reduce_max(shares, axis=0) <= 1
    first = tf.argmax(fits)
    # If none fits, the whole image: for one that is more than twice as wide as high, say.
    share = tf.where(fits[first], tf.gather(shares, first, axis=1), 1.0)
    lengths = tf.maximum(tf.round(share * sides), 1.0)
    room = sides - lengths
    # The product may round up to the next whole number.
    begin = tf.minimum(tf.floor(choices[_PLACE] * (room + 1)), room)
    return tf.cast(tf.concat([begin, lengths], axis=0), tf.int32)


def _crop_of_jpeg(encoded: Any, choices: Any, image_size: int) -> Any:
    window = crop_window(choices, tf.image.extract_jpeg_shape(encoded)[:2])
    # JPEG's blocks can be decoded at a half, a quarter and an eighth of their size, many times faster:
    # as long as both sides of the crop have at least the pixels that are needed.
    enough = tf.reduce_min(window[2:]) // image_size
    halvings = tf.reduce_sum(tf.cast(enough >= tf.constant([2, 4, 8]), tf.int32))

    def decode(ratio: int) -> Any:
        return tf.image.decode_and_crop_jpeg(
            encoded, window // ratio, channels=3, ratio=ratio, dct_method=JPEG_TRANSFORM
        )

    cropped = tf.switch_case(halvings, [lambda ratio=ratio: decode(ratio) for ratio in (1, 2, 4, 8)])
    # Not of uint8: that takes twice as long.
    return _scaled(tf.cast(cropped, tf.float32), image_size)


def _crop_of_other(encoded: Any, choices: Any, image_size: int) -> Any:
    pixels = decode_pixels(encoded)
    top, left, height, width = tf.unstack(crop_window(choices, tf.shape(pixels)[:2]))
    # Of uint8: the crop may be large, and four times as large in float32.
    return _scaled(pixels[top : top + height, left : left + width], image_size)


def _scaled(pixels: Any, image_size: int) -> Any:
    """Scales [height, width, 3] to a square, bilinearly without antialiasing, as ``decode_image`` does."""
    # crop_and_resize, which could mirror as well, takes four times as long.
    return tf.raw_ops.ResizeBilinear(images=pixels[None], size=[image_size] * 2, half_pixel_centers=True)[0]


def _finished(scaled: Any, choices: Any, augmentation: str) -> Any:
    """Makes whole numbers of float32 [side, side, 3], mirrors them or not, and changes them further."""
    # tf.round takes three times as long; tf.reverse is quick for the middle one of three axes alone.
    image = tf.cast(scaled + 0.5, tf.uint8)
    image = tf.cond(choices[_MIRRORED] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    return randaugment(image, choices[_CROP_DRAWS:]) if augmentation == RANDAUGMENT else image
