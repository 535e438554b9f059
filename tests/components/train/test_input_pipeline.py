import errno
import os
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from imgpipe.components.common.dataset import TRAIN, read_manifest, shard_paths
from imgpipe.components.common.dataset_reader import read_split
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.images.graph.training_decoder import decode_image
from imgpipe.components.train import example_order, input_pipeline
from imgpipe.components.train.decoded_cache import CacheLocation
from imgpipe.components.train.example_order import ExampleOrder
from imgpipe.components.train.input_pipeline import (
    evaluation_batches,
    feature_batches,
    sample_indices,
    training_batches,
)

SIZE = 4
COUNT = 10
SHARDS = (3, 3, 4)


@pytest.fixture(scope="module")
def dataset(write_dataset, encode, tmp_path_factory):
    """Ten images of a single colour in three shards; image n has brightness 10 n and label n + 1."""
    records = [
        ImageRecord(encode(np.full((SIZE, SIZE, 3), 10 * number)), number + 1) for number in range(COUNT)
    ]
    labels = [str(number) for number in range(COUNT)]
    return write_dataset(tmp_path_factory.mktemp("data"), {TRAIN: records}, labels, shards=3)


@pytest.fixture(scope="module")
def paths(dataset):
    return shard_paths(dataset, read_manifest(dataset).splits[TRAIN])


@pytest.fixture(params=list(CacheLocation), ids=lambda location: location.value)
def cache(request):
    """Where the training pipeline caches decoded images."""
    return request.param


def batches(paths, count, cache, *, batch_size=4, seed=0, shards=SHARDS, **values):
    made = training_batches(
        paths,
        shard_examples=shards,
        image_size=SIZE,
        batch_size=batch_size,
        seed=seed,
        cache=cache,
        **values,
    )
    return [(images.numpy(), classes.numpy()) for images, classes in made.take(count)]


def evaluation(paths, **values):
    return evaluation_batches(paths, shard_examples=SHARDS, image_size=SIZE, batch_size=4, **values)


def classes_of(made):
    return np.concatenate([classes.numpy() for _, classes in made]).tolist()


def order(paths, cache, seed, epochs=3):
    made = batches(paths, epochs * COUNT, cache, batch_size=1, seed=seed)
    return [int(classes[0]) for _, classes in made]


def test_labels_from_1_become_classes_from_0_in_the_order_of_the_shards(paths, dataset):
    records = list(read_split(dataset, read_manifest(dataset).splits[TRAIN]))
    assert [record.label for record in records] == list(range(1, COUNT + 1))
    assert classes_of(evaluation(paths)) == list(range(COUNT))


def test_images_keep_their_labels(paths, cache):
    for images, classes in batches(paths, 5, cache):
        assert images.shape == (4, SIZE, SIZE, 3)
        assert images.dtype == np.uint8
        assert classes.dtype == np.int64
        assert (images == 10 * classes[:, None, None, None]).all()


def test_every_example_is_seen_once_an_epoch(paths, cache):
    # Batches of 4 of 10 examples: five batches are two epochs.
    seen = np.concatenate([classes for _, classes in batches(paths, 5, cache)])
    assert Counter(seen[:COUNT].tolist()) == Counter(range(COUNT))
    assert Counter(seen[COUNT:].tolist()) == Counter(range(COUNT))


def test_the_order_depends_on_the_seed_and_differs_between_epochs(paths, cache):
    first = order(paths, cache, seed=5)
    assert order(paths, cache, seed=5) == first
    assert order(paths, cache, seed=6) != first
    epochs = [tuple(first[start : start + COUNT]) for start in (0, COUNT, 2 * COUNT)]
    assert len(set(epochs)) == 3


def test_a_batch_may_be_the_whole_data_set(paths, cache):
    for _, classes in batches(paths, 2, cache, batch_size=COUNT):
        assert sorted(classes.tolist()) == list(range(COUNT))


def assert_equal(actual, expected):
    for (images, classes), (expected_images, expected_classes) in zip(actual, expected, strict=True):
        assert (classes == expected_classes).all()
        assert (images == expected_images).all()


def concatenate_parts(parts):
    """Returns the whole batches from each worker's parts."""
    return [
        tuple(np.concatenate(arrays) for arrays in zip(*batch_parts, strict=True))
        for batch_parts in zip(*parts, strict=True)
    ]


@pytest.fixture(scope="module")
def photos(write_dataset, encode, tmp_path_factory):
    """Shards of 7 JPEG and 6 PNG files of different sizes."""
    draw = np.random.default_rng(0)
    records = []
    for number in range(13):
        pixels = draw.integers(0, 256, (int(draw.integers(8, 40)), int(draw.integers(8, 40)), 3))
        records.append(ImageRecord(encode(pixels, "JPEG" if number % 2 else "PNG"), number + 1))
    labels = [str(number) for number in range(13)]
    folder = write_dataset(tmp_path_factory.mktemp("photos"), {TRAIN: records}, labels, shards=2)
    return shard_paths(folder, read_manifest(folder).splits[TRAIN])


PHOTOS = {"batch_size": 4, "shards": (6, 7)}


@pytest.mark.parametrize("augmentation", ["none", "crop-flip", "randaugment"])
def test_batches_from_any_step_equal_those_of_an_uninterrupted_iteration(photos, cache, augmentation):
    values = {**PHOTOS, "augmentation": augmentation, "seed": 3}
    whole = batches(photos, 12, cache, **values)
    # Within the first epoch, across its end, and in a later one.
    for first_step in (0, 3, 7):
        resumed = batches(photos, 5, cache, first_step=first_step, **values)
        assert_equal(resumed, whole[first_step:][:5])


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_the_parts_of_all_workers_are_the_batches_of_one(photos, cache, augmentation):
    values = {**PHOTOS, "augmentation": augmentation, "seed": 3, "first_step": 1}
    whole = batches(photos, 8, cache, **values)
    parts = [batches(photos, 8, cache, part=(worker, 2), **values) for worker in range(2)]
    assert_equal(concatenate_parts(parts), whole)


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_the_number_of_threads_has_no_influence(photos, cache, augmentation, monkeypatch):
    results = []
    for threads in (1, 5):
        monkeypatch.setattr(input_pipeline, "usable_threads", lambda count=threads: count)
        results.append(batches(photos, 10, cache, augmentation=augmentation, **PHOTOS))
    assert_equal(*results)


def test_augmentation_differs_between_epochs_and_seeds(photos, cache):
    def images_of_one_class(seed):
        values = {**PHOTOS, "batch_size": 1, "seed": seed, "augmentation": "crop-flip"}
        return [
            images.tobytes() for images, classes in batches(photos, 30, cache, **values) if classes[0] == 3
        ]

    first = images_of_one_class(0)
    assert len(set(first)) >= 2
    assert not set(first) & set(images_of_one_class(1))


def test_caches_in_memory_and_on_disk_are_equivalent(photos):
    values = {**PHOTOS, "augmentation": "crop-flip"}
    assert_equal(
        batches(photos, 10, CacheLocation.MEMORY, **values), batches(photos, 10, CacheLocation.DISK, **values)
    )


@pytest.mark.parametrize("location", [CacheLocation.MEMORY, CacheLocation.DISK])
@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_cached_images_are_read_once(paths, tmp_path, location, augmentation):
    copies = [Path(shutil.copy(path, tmp_path)) for path in paths]
    made = training_batches(
        copies,
        shard_examples=SHARDS,
        image_size=SIZE,
        batch_size=5,
        seed=0,
        augmentation=augmentation,
        cache=location,
    )
    list(made.take(2))
    for path in copies:
        path.write_bytes(b"")
    # Only the pixels are cached: a second iteration repeats the augmentation.
    assert sorted(np.concatenate([classes for _, classes in made.take(2)]).tolist()) == list(range(COUNT))


def test_a_full_disk_does_not_change_the_batches(photos, monkeypatch):
    values = {**PHOTOS, "augmentation": "crop-flip"}
    expected = batches(photos, 10, CacheLocation.DISK, **values)
    write, remaining_writes = os.pwrite, [5]

    def fail_when_full(*arguments):
        remaining_writes[0] -= 1
        if remaining_writes[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", fail_when_full)
    assert_equal(batches(photos, 10, CacheLocation.DISK, **values), expected)


def test_shards_that_precede_the_first_step_are_not_read(sorted_paths, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(example_order, "_SHARDS_AT_ONCE", 1)
    monkeypatch.setattr(example_order, "_WINDOW", 20)
    shards = [20] * 20
    in_order = (ExampleOrder(shards, 0).examples(0, 400)[::20] // 20).tolist()
    for shard in in_order[10:]:
        shutil.copy(sorted_paths[shard], tmp_path)
    made = training_batches(
        [tmp_path / path.name for path in sorted_paths],
        shard_examples=shards,
        image_size=SIZE,
        batch_size=4,
        seed=0,
        cache=cache,
        first_step=50,
    )
    assert [int(classes[0]) for _, classes in made.take(10)] == [in_order[10]] * 5 + [in_order[11]] * 5


@pytest.mark.parametrize("images", [0, 7])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_workers_evaluate_each_image_once_in_contiguous_parts(paths, images, workers):
    whole = classes_of(evaluation(paths, images=images))
    batches_of_workers = [
        evaluation(paths, images=images, part=(worker, workers)) for worker in range(workers)
    ]
    parts = [
        [label for _, classes in worker_batches for label in classes.numpy().tolist()]
        for worker_batches in batches_of_workers
    ]
    assert [label for part in parts for label in part] == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_evaluation_uses_all_images_in_order_with_a_smaller_last_batch(paths):
    made = evaluation(paths)
    for _ in range(2):
        classes = [batch.numpy().tolist() for _, batch in made]
        assert classes == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.fixture(scope="module")
def sorted_paths(write_dataset, encode, tmp_path_factory):
    """Twenty shards of 20 images; each shard has its own label."""
    records = [ImageRecord(encode(np.zeros((SIZE, SIZE, 3))), number // 20 + 1) for number in range(20 * 20)]
    labels = [str(number) for number in range(20)]
    folder = write_dataset(tmp_path_factory.mktemp("sorted"), {TRAIN: records}, labels, shards=20)
    return shard_paths(folder, read_manifest(folder).splits[TRAIN])


def test_shards_with_a_single_label_are_mixed(sorted_paths, cache):
    for _, classes in batches(sorted_paths, 10, cache, batch_size=16, shards=[20] * 20):
        assert len(set(classes.tolist())) >= 6


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("images", [1, 3, 5, 10])
def test_an_evaluation_of_fewer_images_uses_a_stratified_sample(paths, images, in_memory):
    made = evaluation(paths, images=images, seed=3, cache=in_memory)
    seen = classes_of(made)
    # One of each of ``images`` equal parts.
    ends = [number * COUNT // images for number in range(images + 1)]
    assert all(start <= index < end for start, index, end in zip(ends[:-1], seen, ends[1:], strict=True))
    assert classes_of(made) == seen == sample_indices(COUNT, images, 3).tolist()
    for pixels, classes in made:
        assert (pixels.numpy() == 10 * classes.numpy()[:, None, None, None]).all()


def test_the_sample_depends_on_the_seed():
    first = sample_indices(1000, 10, 1)
    assert (sample_indices(1000, 10, 1) == first).all()
    assert (sample_indices(1000, 10, 2) != first).any()


def test_a_sample_of_alternating_labels_has_both():
    assert 30 < (sample_indices(200, 100, 0) % 2).sum() < 70


@pytest.mark.parametrize("images", [0, 5])
def test_cached_validation_images_are_decoded_once(paths, tmp_path, images):
    copies = [Path(shutil.copy(path, tmp_path)) for path in paths]
    made = evaluation(copies, images=images, cache=True)
    first = classes_of(made)
    for path in copies:
        path.unlink()
    assert classes_of(made) == first


def test_training_and_evaluation_decode_to_the_same_pixels(digits_dataset, cache):
    split = read_manifest(digits_dataset).splits[TRAIN]
    images, _ = next(
        iter(
            training_batches(
                shard_paths(digits_dataset, split),
                shard_examples=[split.examples],
                image_size=12,
                batch_size=split.examples,
                seed=0,
                cache=cache,
            )
        )
    )
    decoded = [
        decode_image(record.encoded, 12).numpy().tobytes()
        for record in islice(read_split(digits_dataset, split), 50)
    ]
    assert set(decoded) <= {image.tobytes() for image in images.numpy()}


def test_features_keep_their_classes_and_are_used_once_per_epoch():
    classes = np.arange(10)
    features = np.stack([classes, -classes], axis=1).astype(np.float32)
    orders = []
    for seed in (1, 1, 2):
        seen = []
        for batch, labels in islice(feature_batches(features, classes, batch_size=5, seed=seed), 4):
            assert (batch[:, 0] == labels).all()
            assert (batch[:, 1] == -labels).all()
            seen += labels.tolist()
        assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
        orders.append(seen)
    assert orders[0] == orders[1] != orders[2]


def batches_of_features(count, **values):
    features = np.arange(10, dtype=np.float32)[:, None]
    made = feature_batches(features, np.arange(10), batch_size=4, seed=2, **values)
    return list(islice(made, count))


def test_features_resume_from_any_step_and_are_split_across_workers():
    whole = batches_of_features(9)
    assert_equal(batches_of_features(4, first_step=4), whole[4:8])
    parts = [batches_of_features(9, part=(worker, 2)) for worker in range(2)]
    assert_equal(concatenate_parts(parts), whole)


def test_features_are_not_copied():
    features = np.zeros((10, 2), np.float32)
    batches = feature_batches(features, np.arange(10), batch_size=5, seed=0)
    features[:] = 7
    assert (next(batches)[0] == 7).all()
