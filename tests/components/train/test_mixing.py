import numpy as np
import pytest

from imgpipe.components.common.tf_import import tf
from imgpipe.components.train.mixing import mix

BATCH, SIDE, CLASSES = 16, 12, 16


def batch():
    """Image n is full of n, and its target is class n."""
    images = (
        np.ones((BATCH, SIDE, SIDE, 3), np.float32) * np.arange(BATCH, dtype=np.float32)[:, None, None, None]
    )
    return tf.constant(images), tf.eye(BATCH, CLASSES)


def mixed(step, *, mixup=0.0, cutmix=0.0, seed=1):
    images, targets = mix(*batch(), mixup=mixup, cutmix=cutmix, seed=seed, step=tf.constant(step, tf.int64))
    return images.numpy(), targets.numpy()


def shares(targets):
    """Returns each image's own share."""
    return np.diag(targets)


def moved(targets):
    """Returns the images whose partner is another one."""
    return [number for number in range(BATCH) if (targets[number] > 0).sum() == 2]


def partner(targets, number):
    return next(other for other in np.flatnonzero(targets[number]) if other != number)


def test_without_either_nothing_changes():
    images, targets = mixed(3)
    assert (images == batch()[0].numpy()).all()
    assert (targets == batch()[1].numpy()).all()


@pytest.mark.parametrize("step", range(5))
def test_mixup_blends_images_and_targets_by_the_same_share(step):
    images, targets = mixed(step, mixup=0.4)
    assert targets.sum(axis=1) == pytest.approx(1, abs=1e-6)
    for number in moved(targets):
        other = partner(targets, number)
        expected = targets[number, number] * number + targets[number, other] * other
        assert images[number] == pytest.approx(expected, abs=1e-4)
    # One share for the whole batch.
    own = shares(targets)[moved(targets)]
    assert own == pytest.approx(own[0])


@pytest.mark.parametrize("step", range(8))
def test_cutmix_pastes_a_rectangle_and_blends_targets_by_its_area(step):
    images, targets = mixed(step, cutmix=1.0)
    assert targets.sum(axis=1) == pytest.approx(1, abs=1e-6)
    for number in moved(targets):
        other = partner(targets, number)
        pasted = (images[number] == other).all(axis=-1)
        assert ((images[number] == number).all(axis=-1) | pasted).all()
        assert pasted.mean() == pytest.approx(targets[number, other], abs=1e-6)
        rows, columns = np.flatnonzero(pasted.any(axis=1)), np.flatnonzero(pasted.any(axis=0))
        assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


@pytest.mark.parametrize("concentration", [0.2, 1.0, 4.0])
def test_the_shares_are_of_the_beta_distribution(concentration):
    drawn = []
    for step in range(400):
        targets = mixed(step, mixup=concentration)[1]
        others = [
            number
            for number in range(BATCH)
            if targets[number].argmax() != number or targets[number, number] < 1
        ]
        drawn.append(shares(targets)[others[0]] if others else 1.0)
    # Mean 1/2, variance 1 / (4 (2 a + 1)).
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.08)
    assert np.var(drawn) == pytest.approx(1 / (4 * (2 * concentration + 1)), rel=0.25)


def test_with_both_each_batch_gets_one_of_them_either_as_likely():
    with_mixup = 0
    for step in range(200):
        images, targets = mixed(step, mixup=0.4, cutmix=1.0)
        number = moved(targets)[0] if moved(targets) else None
        if number is not None:
            values = set(np.unique(images[number]).tolist())
            with_mixup += not values <= {float(number), float(partner(targets, number))}
    assert 70 < with_mixup < 130


def test_equal_seeds_and_steps_mix_alike_and_others_differ():
    for values in ({"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}):
        first = mixed(7, **values)
        assert all((one == other).all() for one, other in zip(first, mixed(7, **values), strict=True))
        assert (mixed(8, **values)[1] != first[1]).any()
        assert (mixed(7, seed=2, **values)[1] != first[1]).any()


def test_it_works_inside_a_graph_with_an_open_batch_dimension():
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
        for one, other in zip(in_graph, mixed(step, mixup=0.4, cutmix=1.0), strict=True):
            assert one.numpy() == pytest.approx(other, abs=1e-4)
    # A batch of one has no other to blend with.
    images, targets = step_of(*(values[:1] for values in batch()), tf.constant(0, tf.int64))
    assert (targets.numpy() == np.eye(1, CLASSES)).all()
    assert (images.numpy() == 0).all()
