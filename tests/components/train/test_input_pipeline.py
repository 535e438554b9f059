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
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.records import ImageRecord
from imgpipe.components.images.graph.training_decoder import decode_image
from imgpipe.components.train import example_order, input_pipeline
from imgpipe.components.train.decoded_cache import CachePlace
from imgpipe.components.train.example_order import ExampleOrder
from imgpipe.components.train.input_pipeline import (
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
    records = list(read_split(dataset, read_manifest(dataset).splits[TRAIN]))
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


def same(made, expected):
    assert len(made) == len(expected)
    for (images, classes), (other_images, other_classes) in zip(made, expected, strict=True):
        assert (classes == other_classes).all()
        assert (images == other_images).all()


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
def test_from_any_step_on_comes_what_an_uninterrupted_iteration_yields(photos, keep_decoded, augmentation):
    values = {**PHOTOS, "augmentation": augmentation, "seed": 3}
    whole = batches(photos, 12, keep_decoded, **values)
    # Within the first epoch, across its end, in a later one.
    for first_step in (0, 3, 7):
        same(batches(photos, 5, keep_decoded, first_step=first_step, **values), whole[first_step:][:5])


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_workers_together_see_the_batches_of_one(photos, keep_decoded, augmentation):
    values = {**PHOTOS, "augmentation": augmentation, "seed": 3, "first_step": 1}
    whole = batches(photos, 8, keep_decoded, **values)
    parts = [batches(photos, 8, keep_decoded, part=(worker, 2), **values) for worker in range(2)]
    together = [
        tuple(np.concatenate(values) for values in zip(*made, strict=True))
        for made in zip(*parts, strict=True)
    ]
    same(together, whole)


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_the_number_of_threads_has_no_effect(photos, keep_decoded, augmentation, monkeypatch):
    made = []
    for threads in (1, 5):
        monkeypatch.setattr(input_pipeline, "usable_threads", lambda count=threads: count)
        made.append(batches(photos, 10, keep_decoded, augmentation=augmentation, **PHOTOS))
    same(*made)


@pytest.mark.parametrize("augmentation", ["crop-flip"])
def test_an_image_varies_from_epoch_to_epoch_and_with_the_seed(photos, keep_decoded, augmentation):
    def of_one_class(seed):
        made = batches(
            photos, 30, keep_decoded, batch_size=1, shards=(6, 7), seed=seed, augmentation=augmentation
        )
        return [images.tobytes() for images, classes in made if classes[0] == 3]

    first = of_one_class(0)
    assert len(set(first)) >= 2
    assert not set(first) & set(of_one_class(1))


def test_memory_and_disk_keep_the_same(photos):
    values = {**PHOTOS, "augmentation": "crop-flip"}
    same(batches(photos, 10, CachePlace.MEMORY, **values), batches(photos, 10, CachePlace.DISK, **values))


@pytest.mark.parametrize("place", [CachePlace.MEMORY, CachePlace.DISK])
@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_images_that_are_kept_are_read_once(paths, tmp_path, place, augmentation):
    copies = [Path(shutil.copy(path, tmp_path)) for path in paths]
    made = training_batches(
        copies,
        shard_examples=SHARDS,
        image_size=SIZE,
        batch_size=5,
        seed=0,
        augmentation=augmentation,
        keep_decoded=place,
    )
    list(made.take(2))
    for path in copies:
        path.write_bytes(b"")
    # Only the pixels are kept: another iteration varies them anew, in the same way.
    assert sorted(np.concatenate([classes for _, classes in made.take(2)]).tolist()) == list(range(COUNT))


def test_a_disk_that_fills_up_changes_nothing_but_the_speed(photos, monkeypatch):
    values = {**PHOTOS, "augmentation": "crop-flip"}
    expected = batches(photos, 10, CachePlace.DISK, **values)
    write, left = os.pwrite, [5]

    def nearly_full(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", nearly_full)
    same(batches(photos, 10, CachePlace.DISK, **values), expected)


def test_a_batch_that_cannot_be_divided_among_the_workers_is_refused(paths):
    with pytest.raises(InvalidArgumentError, match="train_batch_size=4 cannot be divided among 3 workers"):
        batches(paths, 1, CachePlace.NOWHERE, part=(0, 3))


def test_what_lies_before_the_first_step_is_not_read(sorted_paths, keep_decoded, tmp_path, monkeypatch):
    """Only the shards of what is still to come have to be there."""
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
        keep_decoded=keep_decoded,
        first_step=50,
    )
    assert [int(classes[0]) for _, classes in made.take(10)] == [in_order[10]] * 5 + [in_order[11]] * 5


@pytest.mark.parametrize("images", [0, 7])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_workers_evaluate_each_image_once_in_contiguous_shares(paths, images, workers):
    whole = classes_of(evaluation(paths, images=images))
    parts = [evaluation(paths, images=images, part=(worker, workers)) for worker in range(workers)]
    shares = [[label for _, classes in part for label in classes.numpy().tolist()] for part in parts]
    assert [label for share in shares for label in share] == whole
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


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
        for record in islice(read_split(digits_dataset, split), 50)
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


def feature_batches(count, **values):
    features = np.arange(10, dtype=np.float32)[:, None]
    made = FeatureBatches(features, np.arange(10), batch_size=4, seed=2, **values)
    return list(islice(made, count))


def test_features_go_on_from_any_step_and_divide_among_workers():
    whole = feature_batches(9)
    same(feature_batches(4, first_step=4), whole[4:8])
    parts = [feature_batches(9, part=(worker, 2)) for worker in range(2)]
    together = [
        tuple(np.concatenate(values) for values in zip(*made, strict=True))
        for made in zip(*parts, strict=True)
    ]
    same(together, whole)


def test_features_are_not_copied():
    features = np.zeros((10, 2), np.float32)
    made = FeatureBatches(features, np.arange(10), batch_size=5, seed=0)
    features[:] = 7
    assert (next(iter(made))[0] == 7).all()
