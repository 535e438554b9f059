import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from components.common.dataset import TRAIN, read_manifest, shard_paths
from components.common.image_decoding import decode_image
from components.common.records import ImageRecord
from components.common.split_records import split_records
from components.train.decoded_cache import CachePlace
from components.train.input_pipeline import (
    FeatureBatches,
    evaluation_batches,
    sample_indices,
    training_batches,
)

SIZE = 4
COUNT = 10
SHARDS = (3, 3, 4)


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


@pytest.fixture(params=list(CachePlace), ids=lambda place: place.value)
def keep_decoded(request):
    """The ways of the training pipeline: where images are kept once they are decoded."""
    return request.param


def batches(paths, count, keep_decoded, *, batch_size=4, seed=0, shards=SHARDS, **values):
    made = training_batches(
        paths,
        shard_examples=shards,
        image_size=SIZE,
        batch_size=batch_size,
        seed=seed,
        keep_decoded=keep_decoded,
        **values,
    )
    return [(images.numpy(), classes.numpy()) for images, classes in made.take(count)]


def evaluation(paths, **values):
    return evaluation_batches(paths, shard_examples=SHARDS, image_size=SIZE, batch_size=4, **values)


def classes_of(made):
    return np.concatenate([classes.numpy() for _, classes in made]).tolist()


def order(paths, keep_decoded, seed, epochs=3):
    made = batches(paths, epochs * COUNT, keep_decoded, batch_size=1, seed=seed)
    return [int(classes[0]) for _, classes in made]


def test_labels_from_1_on_become_classes_from_0_on_in_the_order_of_the_shards(paths, dataset):
    records = list(split_records(dataset, read_manifest(dataset).splits[TRAIN]))
    assert [record.label for record in records] == list(range(1, COUNT + 1))
    assert classes_of(evaluation(paths)) == list(range(COUNT))


def test_images_keep_their_labels(paths, keep_decoded):
    for images, classes in batches(paths, 5, keep_decoded):
        assert images.shape == (4, SIZE, SIZE, 3)
        assert images.dtype == np.uint8
        assert classes.dtype == np.int64
        assert (images == 10 * classes[:, None, None, None]).all()


def test_every_example_is_seen_once_an_epoch(paths, keep_decoded):
    # Batches of 4 of 10 examples: five batches are two epochs.
    seen = np.concatenate([classes for _, classes in batches(paths, 5, keep_decoded)])
    assert Counter(seen[:COUNT].tolist()) == Counter(range(COUNT))
    assert Counter(seen[COUNT:].tolist()) == Counter(range(COUNT))


def test_the_seed_alone_decides_the_order_and_every_epoch_has_another(paths, keep_decoded):
    first = order(paths, keep_decoded, seed=5)
    assert order(paths, keep_decoded, seed=5) == first
    assert order(paths, keep_decoded, seed=6) != first
    epochs = [tuple(first[start : start + COUNT]) for start in (0, COUNT, 2 * COUNT)]
    assert len(set(epochs)) == 3


def test_a_batch_may_be_the_whole_data_set(paths, keep_decoded):
    for _, classes in batches(paths, 2, keep_decoded, batch_size=COUNT):
        assert sorted(classes.tolist()) == list(range(COUNT))


def test_an_evaluation_sees_everything_once_in_order_with_a_smaller_last_batch(paths):
    made = evaluation(paths)
    for _ in range(2):
        classes = [batch.numpy().tolist() for _, batch in made]
        assert classes == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.fixture(scope="module")
def sorted_paths(write_dataset, encode, tmp_path_factory):
    """Twenty shards of 20 images, each shard of one label of its own."""
    records = [ImageRecord(encode(np.zeros((SIZE, SIZE, 3))), number // 20 + 1) for number in range(20 * 20)]
    labels = [str(number) for number in range(20)]
    folder = write_dataset(tmp_path_factory.mktemp("sorted"), {TRAIN: records}, labels, shards=20)
    return shard_paths(folder, read_manifest(folder).splits[TRAIN])


def test_shards_of_one_label_each_are_mixed(sorted_paths, keep_decoded):
    for _, classes in batches(sorted_paths, 10, keep_decoded, batch_size=16, shards=[20] * 20):
        assert len(set(classes.tolist())) >= 6


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("images", [1, 3, 5, 10])
def test_an_evaluation_of_fewer_images_uses_a_sample_of_the_whole_split(paths, images, keep):
    made = evaluation(paths, images=images, seed=3, keep_decoded=keep)
    seen = classes_of(made)
    # One of each of so many equal parts: sorted by label, every label has its share.
    ends = [number * COUNT // images for number in range(images + 1)]
    assert all(start <= index < end for start, index, end in zip(ends[:-1], seen, ends[1:], strict=True))
    assert classes_of(made) == seen == sample_indices(COUNT, images, 3).tolist()
    for pixels, classes in made:
        assert (pixels.numpy() == 10 * classes.numpy()[:, None, None, None]).all()


def test_the_seed_decides_the_sample():
    first = sample_indices(1000, 10, 1)
    assert (sample_indices(1000, 10, 1) == first).all()
    assert (sample_indices(1000, 10, 2) != first).any()


def test_a_sample_of_labels_that_alternate_has_both():
    assert 30 < (sample_indices(200, 100, 0) % 2).sum() < 70


def test_a_sample_of_all_is_all():
    assert sample_indices(7, 7, 5).tolist() == list(range(7))


@pytest.mark.parametrize("images", [0, 5])
def test_validation_images_that_are_kept_are_decoded_once(paths, tmp_path, images):
    copies = [shutil.copy(path, tmp_path) for path in paths]
    made = evaluation(copies, images=images, keep_decoded=True)
    first = classes_of(made)
    for path in copies:
        Path(path).unlink()
    assert classes_of(made) == first


def test_training_and_evaluation_decode_to_the_same_pixels(digits_dataset, keep_decoded):
    split = read_manifest(digits_dataset).splits[TRAIN]
    images, _ = next(
        iter(
            training_batches(
                shard_paths(digits_dataset, split),
                shard_examples=[split.examples],
                image_size=12,
                batch_size=split.examples,
                seed=0,
                keep_decoded=keep_decoded,
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
        seen = []
        for chosen, labels in islice(FeatureBatches(features, classes, batch_size=5, seed=seed), 4):
            assert (chosen[:, 0] == labels).all()
            assert (chosen[:, 1] == -labels).all()
            seen += labels.tolist()
        assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
        orders.append(seen)
    assert orders[0] == orders[1] != orders[2]


def test_features_are_not_copied():
    features = np.zeros((10, 2), np.float32)
    made = FeatureBatches(features, np.arange(10), batch_size=5, seed=0)
    features[:] = 7
    assert (next(iter(made))[0] == 7).all()
