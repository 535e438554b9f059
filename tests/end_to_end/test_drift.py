"""Drift in real photos, with a network trained on ImageNet; takes minutes and runs in `make proof`."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from imgpipe.components.common.drift import FALSE_ALARM_RATE, WINDOW, make_sketch
from tests.end_to_end.runs import FLOWERS

NEW_CLASS = "tulips"


@pytest.fixture(scope="module")
def embed(keras_home):
    """``embed(paths, change)`` returns the embeddings of photos, each changed by ``change``."""
    from imgpipe.components.common.tf_import import tf
    from imgpipe.components.train.models import build_classifier

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KERAS_HOME", keras_home)
        # Keras reads the environment variable when it is imported.
        patched.setattr("keras.src.backend.config._KERAS_DIR", keras_home)
        classifier = build_classifier(
            "mobilenet-v2", num_classes=5, image_size=224, weights="imagenet", seed=0
        )

    @tf.function(input_signature=[tf.TensorSpec([None, 224, 224, 3], tf.uint8)])
    def features(images):
        return classifier.features(images, training=False)

    def pixels(path, change):
        with Image.open(io.BytesIO(path.read_bytes())) as photo:
            return np.asarray(change(photo.convert("RGB")).resize((224, 224)))

    def embed_photos(paths, change=lambda photo: photo):
        batches = [paths[begin : begin + 32] for begin in range(0, len(paths), 32)]
        return np.concatenate(
            [features(np.stack([pixels(path, change) for path in batch])).numpy() for batch in batches]
        )

    return embed_photos


def photos(count):
    """Returns random photos of both folders: alone, the two have different fractions of daisies."""
    paths = sorted(FLOWERS.rglob("*.jpg"))
    return [paths[number] for number in np.random.default_rng(0).permutation(len(paths))[:count]]


def alarm_rate(sketch, features, windows):
    """Returns the fraction of windows of random photos with an alarm."""
    draw = np.random.default_rng(0)
    choices = (draw.integers(len(features), size=WINDOW) for _ in range(windows))
    return np.mean([sketch.test(features[choice])[1] <= FALSE_ALARM_RATE for choice in choices])


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_clean_windows_alarm_as_rarely_as_stated_and_changes_are_found_in_200_photos(embed):
    paths = photos(1750)
    evaluated, served = paths[:550], paths[550:]
    evaluation = embed(evaluated)
    sketch = make_sketch(evaluation)
    clean = sketch.features(embed(served))
    rate = alarm_rate(sketch, clean, 10_000)
    print(f"false alarms in 10,000 windows: {rate:.4f}, stated {FALSE_ALARM_RATE}")
    assert rate <= FALSE_ALARM_RATE
    changes = {
        "brightness 1.5": lambda photo: ImageEnhance.Brightness(photo).enhance(1.5),
        "blur of 2 pixels": lambda photo: photo.filter(ImageFilter.GaussianBlur(2)),
    }
    for name, change in changes.items():
        distance, p_value = sketch.test(sketch.features(embed(served[:WINDOW], change)))
        print(f"{name}: distance {distance:.2f}, p-value {p_value:.4f}")
        assert p_value <= FALSE_ALARM_RATE
    # An evaluation without tulips; the directions are fitted again.
    is_new = np.array([path.parent.name == NEW_CLASS for path in evaluated])
    without = make_sketch(evaluation[~is_new])
    tulips = [path for path in served if path.parent.name == NEW_CLASS][:WINDOW]
    known = [path for path in served if path.parent.name != NEW_CLASS][: WINDOW // 2]
    for name, window in (("a new class", tulips), ("half a new class", [*known, *tulips[: WINDOW // 2]])):
        distance, p_value = without.test(without.features(embed(window)))
        print(f"{name}: distance {distance:.2f}, p-value {p_value:.4f}")
        assert p_value <= FALSE_ALARM_RATE
