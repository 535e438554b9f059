"""Compares the training input with Keras' and with decoding alone, and measures it within training steps.

``python -m benchmarks.training_input`` takes about eight minutes on two cores and 6 GB of disk.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks.corpus import LABELS, write_corpus
from benchmarks.measure import print_result, print_table, run
from benchmarks.needs import check_needs
from benchmarks.training_step_side import build_step
from imgpipe.components.common.records import ImageRecord, encode_example
from imgpipe.components.common.resources import usable_threads
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.common.tfrecord import frame_record
from imgpipe.components.images.graph.training_decoder import JPEG_TRANSFORM
from imgpipe.components.train.augmentation import CROP_FLIP, crop_parameters, crop_window, draws_needed
from imgpipe.components.train.decoded_cache import CacheLocation
from imgpipe.components.train.example_order import random_draws
from imgpipe.components.train.input_pipeline import training_batches
from imgpipe.components.train.models import build_classifier

_SIZE, _BATCH = 224, 32
_IMAGES, _SHARDS = 3_000, 8
# Images counted per turn, and number of turns: on a shared machine, the ratio of a single turn is between 4/5
# and 5/4 of the median.
_TURN_IMAGES = 1_920
_TURNS = 9
_MODELS = ("efficientnet-b0", "resnet-50")
_STEP_BATCH = 8
# Turns, steps per turn, and steps at its beginning that are not counted because their batches were
# prefetched.
_STEP_TURNS, _STEPS, _UNCOUNTED = 5, 9, 4
_GIGABYTE = 10**9
_NOISE_SIDE, _NOISE_IMAGES = 256, 16


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--read", type=Path, help="only read the shards in this folder once")
    folder = parser.parse_args().read
    if folder:
        _read_once(folder)
    else:
        check_needs(minutes=8, disk_gb=6)
        print_result(**measure())


def measure() -> dict[str, float]:
    """Prints the tables and returns the ratios by name."""
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
        folder = Path(name)
        paths, counts = _write_photos(folder)
        rates = _rates(folder, paths, counts)
        result = {
            "input_vs_keras": _ratio(rates, "ours", "keras"),
            "input_vs_decode_limit": _ratio(rates, "ours", "decode-and-crop alone"),
            "input_cached_vs_keras": _ratio(rates, "ours, cached in memory", "keras"),
            "input_cached_on_disk_vs_keras": _ratio(rates, "ours, cached on disk", "keras"),
        }
        result |= _efficiencies(paths, counts)
    return result | {"rss_growth": _memory_growth()}


def _write_photos(folder: Path) -> tuple[list[Path], list[int]]:
    """Writes photos twice: as files in one folder per label, and as shards."""
    images = folder / "images"
    names = write_corpus(images, _IMAGES)
    for name in LABELS:
        (images / name).mkdir()
    paths = [folder / f"train-{number:05d}-of-{_SHARDS:05d}" for number in range(_SHARDS)]
    counts = [0] * _SHARDS
    files = [path.open("wb") for path in paths]
    for number, photo in enumerate(names):
        label = number % len(LABELS)
        encoded = (images / photo).read_bytes()
        files[number % _SHARDS].write(frame_record(encode_example(ImageRecord(encoded, label + 1))))
        counts[number % _SHARDS] += 1
        (images / photo).rename(images / LABELS[label] / photo)
    for file in files:
        file.close()
    return paths, counts


def _ours(paths: list[Path], counts: list[int], cache: CacheLocation, batch_size: int = _BATCH) -> Any:
    return training_batches(
        paths,
        shard_examples=counts,
        image_size=_SIZE,
        batch_size=batch_size,
        seed=0,
        augmentation=CROP_FLIP,
        cache=cache,
    )


def _keras(folder: Path) -> Any:
    """Returns batches as in Keras' guides: from folders of files, with layers that crop and flip."""
    batches = keras.utils.image_dataset_from_directory(
        folder / "images", image_size=(256, 256), batch_size=_BATCH, seed=0, verbose=False
    )
    layers = keras.Sequential([keras.layers.RandomCrop(_SIZE, _SIZE), keras.layers.RandomFlip("horizontal")])

    def augment(images: Any, labels: Any) -> tuple[Any, Any]:
        return layers(images, training=True), labels

    return batches.repeat().map(augment, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _decoding_alone(folder: Path) -> Any:
    """Returns batches of crop sizes: our pipeline's crops, decoded from memory and discarded."""
    encoded = [path.read_bytes() for path in sorted((folder / "images").glob("*/*.jpg"))]
    parameters = crop_parameters(random_draws(0, 0, len(encoded), draws_needed(CROP_FLIP)))

    def size(photo: Any, photo_parameters: Any) -> Any:
        window = crop_window(photo_parameters, tf.image.extract_jpeg_shape(photo)[:2])
        return tf.size(tf.image.decode_and_crop_jpeg(photo, window, channels=3, dct_method=JPEG_TRANSFORM))

    options = tf.data.Options()
    options.autotune.enabled = False
    photos = tf.data.Dataset.from_tensor_slices((encoded, parameters)).repeat().with_options(options)
    return photos.map(size, num_parallel_calls=usable_threads()).batch(_BATCH).prefetch(2)


def _rates(folder: Path, paths: list[Path], counts: list[int]) -> dict[str, list[float]]:
    sides = {
        "keras": _keras(folder),
        "decode-and-crop alone": _decoding_alone(folder),
        "ours": _ours(paths, counts, CacheLocation.NONE),
        "ours, cached in memory": _ours(paths, counts, CacheLocation.MEMORY),
        "ours, cached on disk": _ours(paths, counts, CacheLocation.DISK),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    # The first turn, which fills the caches, is not counted.
    for turn in range(_TURNS + 1):
        for name, batches in sides.items():
            # A new iterator in each turn: prefetching in the background would slow the other sides down.
            rate = _images_per_second(iter(batches))
            rates[name] += [rate] if turn else []
    rows = [
        (name, f"{statistics.median(values):,.0f}", f"{_ratio(rates, name, 'keras'):.2f}")
        for name, values in rates.items()
    ]
    print_table(("input alone", "images/s", "times keras"), rows)
    return rates


def _images_per_second(iterator: Iterator[Any]) -> float:
    # One epoch to warm up, in which Keras also tunes the number of its threads.
    for _ in range(_IMAGES // _BATCH):
        next(iterator)
    started = time.monotonic()
    for _ in range(_TURN_IMAGES // _BATCH):
        next(iterator)
    return _TURN_IMAGES / (time.monotonic() - started)


def _ratio(rates: dict[str, list[float]], name: str, reference: str) -> float:
    return statistics.median(a / b for a, b in zip(rates[name], rates[reference], strict=True))


def _efficiencies(paths: list[Path], counts: list[int]) -> dict[str, float]:
    rows, result = [], {}
    for model in _MODELS:
        batches = iter(_ours(paths, counts, CacheLocation.NONE, _STEP_BATCH))
        sides = {"TFRecords": batches, "one batch in memory": repeat(next(batches))}
        step = build_step(
            build_classifier(model, num_classes=len(LABELS), image_size=_SIZE, weights="none", seed=0),
            _STEP_BATCH,
        )
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(_STEP_TURNS):
            for name, side in sides.items():
                step_seconds = _seconds_of_steps(step, side)
                # The first turn is the warm-up.
                seconds[name] += step_seconds if turn else []
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        result[f"input_efficiency_{model}"] = medians["one batch in memory"] / medians["TFRecords"]
        rows += [(model, name, f"{_STEP_BATCH / median:.2f}") for name, median in medians.items()]
    print_table(("training", "on", "images/s"), rows)
    return result


def _seconds_of_steps(step: Any, batches: Iterable[Any]) -> list[float]:
    seconds = []
    iterator = iter(batches)
    for _ in range(_STEPS):
        started = time.monotonic()
        step(*next(iterator)).numpy()
        seconds.append(time.monotonic() - started)
    return seconds[_UNCOUNTED:]


def _memory_growth() -> float:
    """Returns the peak memory while reading 4 GB of shards, relative to 1 GB."""
    peaks = {}
    for gigabytes in (1, 4):
        # Only one of the two is on disk at a time.
        with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
            _write_noise(Path(name), gigabytes)
            peaks[gigabytes] = run(["-m", "benchmarks.training_input", f"--read={name}"]).peak_mb
    print_table(
        ("shards", "peak MB"), [(f"{gigabytes} GB", f"{peak:.0f}") for gigabytes, peak in peaks.items()]
    )
    return peaks[4] / peaks[1]


def _write_noise(folder: Path, gigabytes: int) -> None:
    """Writes shards of 100 MB that repeat a few images of noise, which have many bytes but few pixels."""
    noise = tf.random.stateless_uniform(
        [_NOISE_IMAGES, _NOISE_SIDE, _NOISE_SIDE, 3], (0, 0), 0, 256, tf.int32
    )
    records = b"".join(
        frame_record(
            encode_example(ImageRecord(tf.io.encode_jpeg(tf.cast(image, tf.uint8), quality=95).numpy(), 1))
        )
        for image in noise
    )
    shards = 10 * gigabytes
    for number in range(shards):
        with (folder / f"train-{number:05d}-of-{shards:05d}").open("wb") as file:
            for _ in range(_GIGABYTE // 10 // len(records)):
                file.write(records)


def _read_once(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    record = tf.data.TFRecordDataset([str(path) for path in paths[:1]])
    counts = [int(record.reduce(0, lambda count, _: count + 1))] * len(paths)
    for _ in _ours(paths, counts, CacheLocation.NONE).take(sum(counts) // _BATCH):
        pass


if __name__ == "__main__":
    main()
