"""Blends pairs of training images and their targets, inside the training step.

Mixup: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018. CutMix: Yun et al., "CutMix:
Regularization Strategy to Train Strong Classifiers with Localizable Features", 2019. As in both, one share
is drawn for a batch, and each image is blended with another of the batch.
"""

from typing import Any

from imgpipe.components.common.tf_import import tf

# What is drawn: each has random numbers of its own.
_CHOICE, _SHARE, _PLACE, _PARTNERS = range(4)


def mix(images: Any, targets: Any, *, mixup: float, cutmix: float, seed: int, step: Any) -> tuple[Any, Any]:
    """Blends a batch with itself in another order; equal seeds and steps blend alike.

    Args:
        images: float32 [batch, height, width, 3].
        targets: float32 [batch, classes].
        mixup: Both shares of the blend are from Beta(mixup, mixup); 0 = no mixup.
        cutmix: The share of the area that stays is from Beta(cutmix, cutmix); 0 = no CutMix. With both
            above 0, each batch gets one of them, either as likely.
        seed: Of the random numbers.
        step: The training step, an int64 scalar.

    Returns:
        Images and targets of the same shapes.
    """
    if not mixup and not cutmix:
        return images, targets

    def seed_of(what: int) -> Any:
        # Two int64 numbers; the steps of two seeds do not meet.
        return tf.stack([tf.constant(4 * seed + what, tf.int64), tf.cast(step, tf.int64)])

    partners = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(images)[0]), seed_of(_PARTNERS))

    def with_mixup() -> tuple[Any, Any]:
        share = _beta(mixup, seed_of(_SHARE))
        return _blended(images, partners, share), share

    def with_cutmix() -> tuple[Any, Any]:
        stays = _outside_rectangle(images, _beta(cutmix, seed_of(_SHARE)), seed_of(_PLACE))
        # The rectangle may have been cut off at the edge: what counts is what is left.
        return _blended(images, partners, stays), tf.reduce_mean(stays)

    if mixup and cutmix:
        chosen = tf.random.stateless_uniform([], seed_of(_CHOICE)) < 0.5
        mixed, share = tf.cond(chosen, with_mixup, with_cutmix)
    else:
        mixed, share = with_mixup() if mixup else with_cutmix()
    mixed.set_shape(images.shape)
    return mixed, _blended(targets, partners, share)


def _blended(values: Any, partners: Any, share: Any) -> Any:
    return share * values + (1 - share) * tf.gather(values, partners)


def _beta(concentration: float, seed: Any) -> Any:
    """Returns a number from Beta(concentration, concentration): the share of one of two gamma draws."""
    # Small concentrations give draws that are 0 in float32.
    alpha = tf.constant([concentration] * 2, tf.float64)
    draws = tf.random.stateless_gamma([2], seed, alpha, dtype=tf.float64)
    return tf.cast(tf.math.divide_no_nan(draws[0], draws[0] + draws[1]), tf.float32)


def _outside_rectangle(images: Any, share: Any, seed: Any) -> Any:
    """Returns float32 [1, height, width, 1]: 0 in a rectangle of about 1 - share of the area, 1 around it."""
    size = tf.shape(images)[1:3]
    sides = tf.sqrt(1 - share) * tf.cast(size, tf.float32)
    # The centre is anywhere in the image; the rectangle ends at the image's edge.
    centre = tf.random.stateless_uniform([2], seed) * tf.cast(size, tf.float32)
    first = tf.cast(tf.maximum(tf.round(centre - sides / 2), 0), tf.int32)
    last = tf.minimum(tf.cast(tf.round(centre + sides / 2), tf.int32), size)
    rows, columns = tf.range(size[0]), tf.range(size[1])
    inside = ((rows >= first[0]) & (rows < last[0]))[:, None] & ((columns >= first[1]) & (columns < last[1]))
    return tf.cast(~inside, tf.float32)[None, :, :, None]
