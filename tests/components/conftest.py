"""Fixtures for the tests of all steps; expensive ones have session scope."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from imgpipe.components.common.dataset import TRAIN, VALIDATION, read_manifest, with_paths, write_manifest
from imgpipe.components.common.log import JSON, LOG_FORMAT_VARIABLE
from imgpipe.components.common.records import ImageRecord
from tests.components import records as record_files
from tests.servers.deployments import (
    cluster,
    deployment,
    models,
    on_kserve,
    on_vertex,
    vertex,
)

__all__ = ["cluster", "deployment", "models", "on_kserve", "on_vertex", "vertex"]


@pytest.fixture(autouse=True)
def _json_events(monkeypatch):
    """Tests read events; those of the plain lines remove the variable."""
    monkeypatch.setenv(LOG_FORMAT_VARIABLE, JSON)


def _encode(pixels, image_format="PNG", **options):
    return record_files.encoded(Image.fromarray(np.asarray(pixels, np.uint8)), image_format, **options)


def _upload_dataset(bucket, source, target):
    def upload(shard):
        return bucket.put(f"data/{shard.path}", (source / shard.path).read_bytes())

    target.mkdir()
    write_manifest(target, with_paths(read_manifest(source), upload))
    return target


@pytest.fixture(scope="session")
def upload_dataset():
    """``upload_dataset(bucket, source, target)`` uploads shards and writes a local manifest of their URIs."""
    return _upload_dataset


@pytest.fixture(scope="session")
def encode():
    """``encode(pixels, "PNG")`` encodes an image file."""
    return _encode


@pytest.fixture(scope="session")
def write_dataset():
    """``write_dataset(folder, {split: records}, labels)`` writes shards and a manifest."""
    return record_files.write_dataset


@pytest.fixture(scope="session")
def coloured_dataset(write_dataset, encode):
    """``coloured_dataset(folder, labels)``: 12 and 6 small images, with a different brightness per label."""

    def write(folder, labels=("dark", "bright"), train=12, validation=6, shards=1):
        def records(split, count, seed):
            draw = np.random.default_rng(seed)
            return [
                ImageRecord(
                    encode(draw.integers(0, 40, (8, 8, 3)) + 200 * (number % len(labels)) // len(labels)),
                    number % len(labels) + 1,
                    labels[number % len(labels)],
                    f"{split}/{number}.png",
                )
                for number in range(count)
            ]

        splits = {TRAIN: records(TRAIN, train, 1), VALIDATION: records(VALIDATION, validation, 2)}
        return write_dataset(folder, splits, labels, shards=shards)

    return write


@pytest.fixture(scope="session")
def quadrants():
    """``quadrants(count, seed)``: images with up to four colored quadrants, and the names of their colors.

    Each color has its own probability and a random quadrant; some images have none.
    """
    colors = {"blue": (30, 30, 220), "green": (30, 200, 30), "red": (220, 30, 30), "yellow": (220, 220, 30)}

    def draw_pictures(count, seed):
        draw = np.random.default_rng(seed)
        for _ in range(count):
            pixels = draw.integers(0, 60, (16, 16, 3))
            present = [
                name
                for name, share in zip(colors, (0.5, 0.35, 0.25, 0.2), strict=True)
                if draw.random() < share
            ]
            for quadrant, name in zip(draw.permutation(4), present, strict=False):
                rows, columns = (slice(8 * side, 8 * side + 8) for side in divmod(int(quadrant), 2))
                noisy = np.array(colors[name]) + draw.integers(-30, 30, (8, 8, 3))
                pixels[rows, columns] = np.clip(noisy, 0, 255)
            yield _encode(pixels), tuple(present)

    return draw_pictures


@pytest.fixture(scope="session")
def quadrants_dataset(quadrants, write_dataset, tmp_path_factory):
    """The folder of a multi-label data set of 320 and 80 images of ``quadrants``."""
    names = ("blue", "green", "red", "yellow")

    def records(count, seed):
        return [
            ImageRecord(
                encoded,
                labels=tuple(number for number, name in enumerate(names, start=1) if name in present),
                texts=present,
                filename=f"{seed}/{number}.png",
            )
            for number, (encoded, present) in enumerate(quadrants(count, seed))
        ]

    splits = {TRAIN: records(320, 1), VALIDATION: records(80, 2)}
    return write_dataset(tmp_path_factory.mktemp("quadrants"), splits, names, shards=2, multi_label=True)


@pytest.fixture(scope="session")
def digit_records():
    """scikit-learn's 1,797 digits as records, every fifth for validation."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    records = [
        ImageRecord(_encode(np.round(pixels * 255 / 16)), int(digit) + 1, str(digit), f"digit_{number}.png")
        for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True))
    ]
    train = [record for number, record in enumerate(records) if number % 5]
    return {TRAIN: train, VALIDATION: records[::5]}


@pytest.fixture(scope="session")
def digits_dataset(digit_records, write_dataset, tmp_path_factory):
    """The folder of a data set of the digits."""
    return write_dataset(tmp_path_factory.mktemp("digits"), digit_records, [str(n) for n in range(10)])


@pytest.fixture(scope="session")
def digits_training():
    """Arguments that train the digits in a few seconds, from random weights."""
    from imgpipe.components.train.arguments import TrainingArguments

    return TrainingArguments(
        max_steps=80,
        train_batch_size=64,
        model_type="resnet-18",
        image_size=32,
        weights="none",
        initial_learning_rate=0.05,
        warmup_steps=10,
        train_steps_per_eval=20,
        seed=6,
    )


@pytest.fixture(scope="session")
def trained_digits(digits_dataset, digits_training, tmp_path_factory):
    """A model folder that the train step wrote, and the result of the training. Read-only."""
    from imgpipe.components.train.train import train

    folder = tmp_path_factory.mktemp("trained") / "model"
    return folder, train(digits_training, digits_dataset, folder)


@pytest.fixture(scope="session")
def linear_model():
    """``linear_model(folder, labels)`` writes a real SavedModel of one random layer on 8x8 pixels."""
    from imgpipe.components.common.provenance import write_deployment_config, write_provenance
    from imgpipe.components.common.saved_model import write_saved_model
    from imgpipe.components.common.tf_import import keras, tf

    class Linear:
        def __init__(self, classes, seed):
            draw = np.random.default_rng(seed)
            self.kernel = keras.Variable(
                draw.normal(size=(8 * 8 * 3, classes)).astype(np.float32), name="kernel"
            )
            self.variables = [self.kernel]

        def logits(self, images, *, training):  # noqa: ARG002 - as the classifiers of train
            return tf.reshape(tf.cast(images, tf.float32) / 255, [-1, 8 * 8 * 3]) @ self.kernel

    def write(folder, labels=("dark", "bright"), seed=0, *, multi_label=False):
        write_saved_model(Linear(len(labels), seed), 8, labels, folder, multi_label=multi_label)
        write_deployment_config(folder, global_step=1)
        write_provenance(
            folder,
            {
                "model_type": "linear",
                "multi_label": multi_label,
                "best_step": 1,
                "temperature": 1.0,
                "label_sets": {"coverage": 0.9, "thresholds": [0.5] * (len(labels) if multi_label else 1)},
            },
        )
        return folder

    return write


@pytest.fixture
def component_module(monkeypatch):
    """``component_module(name=function, ...)`` makes a component.py of these functions; returns its name."""

    def make(**functions):
        names = [f"imgpipe.components.sample{end}" for end in ("", ".sample", ".component")]
        for name in names:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        vars(sys.modules[names[-1]]).update(functions)
        return names[-1]

    return make
