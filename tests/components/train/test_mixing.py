import numpy as np
import pytest

from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.mixing import mix

BATCH, SIDE, CLASSES = 16, 12, 16


def batch():
    """All pixels of image n have the value n, and its class is n."""
    images = (
        np.ones((BATCH, SIDE, SIDE, 3), np.float32) * np.arange(BATCH, dtype=np.float32)[:, None, None, None]
    )
    return tf.constant(images), tf.eye(BATCH, CLASSES)


def mixed(step, *, mixup=0.0, cutmix=0.0, seed=1):
    images, targets = mix(*batch(), mixup=mixup, cutmix=cutmix, seed=seed, step=tf.constant(step, tf.int64))
    return images.numpy(), targets.numpy()


def blended(targets):
    """Returns the images that are blended with another image."""
    return [number for number in range(BATCH) if (targets[number] > 0).sum() == 2]


def partner(targets, number):
    return next(other for other in np.flatnonzero(targets[number]) if other != number)


def test_a_batch_is_unchanged_without_mixup_and_cutmix():
    images, targets = mixed(3)
    assert (images == batch()[0].numpy()).all()
    assert (targets == batch()[1].numpy()).all()


@pytest.mark.parametrize("step", range(5))
def test_mixup_blends_images_and_targets_with_the_same_ratio(step):
    images, targets = mixed(step, mixup=0.4)
    assert targets.sum(axis=1) == pytest.approx(1, abs=1e-6)
    for number in blended(targets):
        other = partner(targets, number)
        expected = targets[number, number] * number + targets[number, other] * other
        assert images[number] == pytest.approx(expected, abs=1e-4)
    # One ratio for the whole batch.
    ratios = np.diag(targets)[blended(targets)]
    assert ratios == pytest.approx(ratios[0])


@pytest.mark.parametrize("step", range(8))
def test_cutmix_pastes_a_rectangle_and_blends_targets_by_its_area(step):
    images, targets = mixed(step, cutmix=1.0)
    assert targets.sum(axis=1) == pytest.approx(1, abs=1e-6)
    for number in blended(targets):
        other = partner(targets, number)
        pasted = (images[number] == other).all(axis=-1)
        assert ((images[number] == number).all(axis=-1) | pasted).all()
        assert pasted.mean() == pytest.approx(targets[number, other], abs=1e-6)
        rows, columns = np.flatnonzero(pasted.any(axis=1)), np.flatnonzero(pasted.any(axis=0))
        assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


@pytest.mark.parametrize("concentration", [0.2, 1.0, 4.0])
def test_the_ratios_have_a_beta_distribution(concentration):
    ratios = []
    for step in range(400):
        own = np.diag(mixed(step, mixup=concentration)[1])
        ratios.append(next((ratio for ratio in own if ratio < 1), 1.0))
    # Mean 1/2, variance 1 / (4 (2 a + 1)).
    assert np.mean(ratios) == pytest.approx(0.5, abs=0.08)
    assert np.var(ratios) == pytest.approx(1 / (4 * (2 * concentration + 1)), rel=0.25)


def test_mixup_and_cutmix_together_are_used_with_equal_probability():
    mixup_batches = 0
    for step in range(200):
        images, targets = mixed(step, mixup=0.4, cutmix=1.0)
        for number in blended(targets)[:1]:
            values = set(np.unique(images[number]).tolist())
            mixup_batches += not values <= {float(number), float(partner(targets, number))}
    assert 70 < mixup_batches < 130


def test_the_result_depends_on_seed_and_step():
    for values in ({"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}):
        first = mixed(7, **values)
        for array, expected in zip(mixed(7, **values), first, strict=True):
            np.testing.assert_array_equal(array, expected)
        assert (mixed(8, **values)[1] != first[1]).any()
        assert (mixed(7, seed=2, **values)[1] != first[1]).any()


def test_it_works_in_a_graph_with_unknown_batch_size():
    @tf.function(
        input_signature=(
            tf.TensorSpec([None, SIDE, SIDE, 3], tf.float32),
            tf.TensorSpec([None, CLASSES], tf.float32),
            tf.TensorSpec([], tf.int64),
        )
    )
    def step_of(images, targets, step):
        images, targets = mix(images, targets, mixup=0.4, cutmix=1.0, seed=1, step=step)
        assert images.shape.as_list() == [None, SIDE, SIDE, 3]
        return images, targets

    for step in range(10):
        in_graph = step_of(*batch(), tf.constant(step, tf.int64))
        for tensor, expected in zip(in_graph, mixed(step, mixup=0.4, cutmix=1.0), strict=True):
            assert tensor.numpy() == pytest.approx(expected, abs=1e-4)
    # A batch of one image has no partner to blend with.
    images, targets = step_of(*(values[:1] for values in batch()), tf.constant(0, tf.int64))
    assert (targets.numpy() == np.eye(1, CLASSES)).all()
    assert (images.numpy() == 0).all()
