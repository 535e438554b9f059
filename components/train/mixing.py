"""Mixup and CutMix of training images and their targets, inside the training step.

Mixup: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018. CutMix: Yun et al., "CutMix:
Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019. As in both papers, the
ratio is drawn once for a batch, and each image is blended with another image of the batch.
"""

from typing import Any

from imgpipe.components.common.tf_import import tf

# Streams of random numbers.
_CHOICE, _RATIO, _POSITION, _PARTNERS = range(4)


def mix(images: Any, targets: Any, *, mixup: float, cutmix: float, seed: int, step: Any) -> tuple[Any, Any]:
    """Blends a batch with a permutation of itself; the result depends only on seed and step.

    Args:
        images: float32 [batch, height, width, 3].
        targets: float32 [batch, classes].
        mixup: The ratio is drawn from Beta(mixup, mixup); 0 = no mixup.
        cutmix: The fraction of the area that is kept is drawn from Beta(cutmix, cutmix); 0 = no CutMix. If
            both are above 0, each batch gets one of them with equal probability.
        seed: Random seed.
        step: The training step, an int64 scalar.

    Returns:
        Images and targets of the same shapes.
    """
    if not mixup and not cutmix:
        return images, targets

    def seed_of(stream: int) -> Any:
        # Two int64 numbers: no combinations of seed, stream and step are equal.
        return tf.stack([tf.constant(4 * seed + stream, tf.int64), tf.cast(step, tf.int64)])

    partners = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(images)[0]), seed_of(_PARTNERS))

    def apply_mixup() -> tuple[Any, Any]:
        ratio = _beta(mixup, seed_of(_RATIO))
        return _blend(images, partners, ratio), ratio

    def apply_cutmix() -> tuple[Any, Any]:
        mask = _rectangle_mask(images, _beta(cutmix, seed_of(_RATIO)), seed_of(_POSITION))
        # The ratio is measured, because the rectangle may be clipped at the edge.
        return _blend(images, partners, mask), tf.reduce_mean(mask)

    if mixup and cutmix:
        use_mixup = tf.random.stateless_uniform([], seed_of(_CHOICE)) < 0.5
        mixed, ratio = tf.cond(use_mixup, apply_mixup, apply_cutmix)
    else:
        mixed, ratio = apply_mixup() if mixup else apply_cutmix()
    mixed.set_shape(images.shape)
    return mixed, _blend(targets, partners, ratio)


def _blend(values: Any, partners: Any, ratio: Any) -> Any:
    return ratio * values + (1 - ratio) * tf.gather(values, partners)


def _beta(concentration: float, seed: Any) -> Any:
    """Draws from Beta(concentration, concentration), as a / (a + b) of two gamma draws."""
    # In float64: with small concentrations, float32 draws may both be 0.
    alpha = tf.constant([concentration] * 2, tf.float64)
    draws = tf.random.stateless_gamma([2], seed, alpha, dtype=tf.float64)
    return tf.cast(tf.math.divide_no_nan(draws[0], draws[0] + draws[1]), tf.float32)


def _rectangle_mask(images: Any, ratio: Any, seed: Any) -> Any:
    """Returns float32 [1, height, width, 1]: 0 in a rectangle of about 1 - ratio of the area, 1 around it."""
    size = tf.shape(images)[1:3]
    sides = tf.sqrt(1 - ratio) * tf.cast(size, tf.float32)
    # The center is anywhere in the image; the rectangle is clipped at the image's edge.
    center = tf.random.stateless_uniform([2], seed) * tf.cast(size, tf.float32)
    first = tf.cast(tf.maximum(tf.round(center - sides / 2), 0), tf.int32)
    last = tf.minimum(tf.cast(tf.round(center + sides / 2), tf.int32), size)
    rows, columns = tf.range(size[0]), tf.range(size[1])
    inside = ((rows >= first[0]) & (rows < last[0]))[:, None] & ((columns >= first[1]) & (columns < last[1]))
    return tf.cast(~inside, tf.float32)[None, :, :, None]
