from collections import Counter
from itertools import islice

import numpy as np
import pytest

from components.common.dataset import TRAIN, read_manifest, shard_paths
from components.common.image_decoding import decode_image
from components.common.records import ImageRecord
from components.common.split_records import split_records
from components.train import input_pipeline
from components.train.input_pipeline import (
    evaluation_batches,
    feature_batches,
    read_examples,
    training_batches,
)

SIZE = 4
COUNT = 10


@pytest.fixture(scope="module")
def dataset(write_dataset, encode, tmp_path_factory):
    """Ten pictures of one colour each, number n of brightness 10 n and label n + 1, in three shards."""
    records = [
        ImageRecord(encode(np.full((SIZE, SIZE, 3), 10 * number)), number + 1) for number in range(COUNT)
    ]
    labels = [str(number) for number in range(COUNT)]
    return write_dataset(tmp_path_factory.mktemp("data"), {TRAIN: records}, labels, shards=3)


@pytest.fixture(scope="module")
def paths(dataset):
    return shard_paths(dataset, read_manifest(dataset).splits[TRAIN])


@pytest.fixture(params=["kept decoded", "decoded anew"])
def branch(request, monkeypatch):
    """Both ways of the training pipeline: the decoded images fit into memory, or they do not."""
    if request.param == "decoded anew":
        monkeypatch.setattr(input_pipeline, "_CACHE_BYTES", 0)


def batches(paths, count, *, batch_size=4, seed=0):
    made = training_batches(paths, examples=COUNT, image_size=SIZE, batch_size=batch_size, seed=seed)
    return [(images.numpy(), classes.numpy()) for images, classes in made.take(count)]


def order(paths, seed, epochs=3):
    return [int(classes[0]) for _, classes in batches(paths, epochs * COUNT, batch_size=1, seed=seed)]


def test_labels_from_1_on_become_classes_from_0_on_in_the_order_of_the_shards(paths, dataset):
    pairs = [(encoded.numpy(), int(label)) for encoded, label in read_examples(paths)]
    records = list(split_records(dataset, read_manifest(dataset).splits[TRAIN]))
    assert [record.label for record in records] == list(range(1, COUNT + 1))
    assert pairs == [(record.encoded, record.label - 1) for record in records]


def test_images_keep_their_labels(paths, branch):
    for images, classes in batches(paths, 5):
        assert images.shape == (4, SIZE, SIZE, 3)
        assert images.dtype == np.uint8
        assert classes.dtype == np.int64
        assert (images == 10 * classes[:, None, None, None]).all()


def test_every_example_is_seen_once_an_epoch(paths, branch):
    # Batches of 4 of 10 examples: five batches are two epochs.
    seen = np.concatenate([classes for _, classes in batches(paths, 5)])
    assert Counter(seen[:COUNT].tolist()) == Counter(range(COUNT))
    assert Counter(seen[COUNT:].tolist()) == Counter(range(COUNT))


def test_the_seed_alone_decides_the_order_and_every_epoch_has_another(paths, branch):
    first = order(paths, seed=5)
    assert order(paths, seed=5) == first
    assert order(paths, seed=6) != first
    epochs = [tuple(first[start : start + COUNT]) for start in (0, COUNT, 2 * COUNT)]
    assert len(set(epochs)) == 3


def test_a_batch_may_be_the_whole_data_set(paths, branch):
    for _, classes in batches(paths, 2, batch_size=COUNT):
        assert sorted(classes.tolist()) == list(range(COUNT))


def test_an_evaluation_sees_everything_once_in_order_with_a_smaller_last_batch(paths):
    made = evaluation_batches(paths, image_size=SIZE, batch_size=4)
    for _ in range(2):
        classes = [batch.numpy().tolist() for _, batch in made]
        assert classes == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(("images", "seen"), [(0, 10), (1, 1), (5, 5), (10, 10)])
def test_an_evaluation_of_fewer_images_uses_the_first_ones(paths, images, seen):
    made = evaluation_batches(paths, image_size=SIZE, batch_size=4, images=images)
    assert np.concatenate([batch.numpy() for _, batch in made]).tolist() == list(range(seen))


def test_training_and_evaluation_decode_to_the_same_pixels(digits_dataset, branch):
    split = read_manifest(digits_dataset).splits[TRAIN]
    images, _ = next(
        iter(
            training_batches(
                shard_paths(digits_dataset, split),
                examples=split.examples,
                image_size=12,
                batch_size=split.examples,
                seed=0,
            )
        )
    )
    decoded = [
        decode_image(record.encoded, 12).numpy().tobytes()
        for record in islice(split_records(digits_dataset, split), 50)
    ]
    assert set(decoded) <= {image.tobytes() for image in images.numpy()}


def test_features_keep_their_classes_and_are_seen_once_an_epoch():
    classes = np.arange(10)
    features = np.stack([classes, -classes], axis=1).astype(np.float32)
    orders = []
    for seed in (1, 1, 2):
        made = feature_batches(features, classes, batch_size=5, seed=seed)
        seen = []
        for chosen, labels in made.take(4):
            assert (chosen.numpy()[:, 0] == labels.numpy()).all()
            assert (chosen.numpy()[:, 1] == -labels.numpy()).all()
            seen += labels.numpy().tolist()
        assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
        orders.append(seen)
    assert orders[0] == orders[1] != orders[2]
