"""Trains mobilenet-v2 on a folder of images with one of two common recipes, within a time budget.

``python -m benchmarks.accuracy_side RECIPE FOLDER MINUTES SEED``; a side of ``benchmarks.accuracy_ratio``.
``FOLDER`` has ``train``, ``validation`` and ``test``, each with a folder of images per class. Prints the test
accuracy of the last weights as one JSON line. Nothing in it uses the project's code, so that its faults are
not shared.

* ``keras-guide``: TensorFlow's tutorial "Transfer learning and fine-tuning": mirroring and rotation by up to
  0.2 turns, dropout 0.2 and one dense layer on the average of the features; Adam at 0.0001 with the network
  frozen, then RMSprop at 0.00001 from layer 100 on, batch normalization frozen. It trains 10 epochs of each.
  Here each phase gets half of the time, and at most 100 epochs.
* ``fastai``: ``vision_learner(...).fine_tune(epochs)`` of fastai 2: two dense layers with batch normalization
  and dropout on the average and the maximum of the features; AdamW (weight decay 0.01); one epoch
  with the network frozen, then one cycle over the time that is left, at learning rates from 0.00001 in the
  first half of the network to 0.001 in the head; mirroring, rotation by 10 degrees, zoom by 10 % and lighting
  by 20 % as ``aug_transforms`` (without its warp).
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

SIZE, BATCH = 224, 32
# Reserved for the last predictions.
_TEST_SECONDS = 10.0
# PyTorch's 0.1; Keras' network has 0.999, which a short training hardly moves.
_TORCH_MOMENTUM = 0.9
_FASTAI_DIVISOR, _FASTAI_WARM_UP, _FASTAI_RATE = 5.0, 0.3, 0.002


def main(command_line: list[str]) -> None:
    """Trains and prints the accuracy."""
    recipe, folder, minutes, seed = command_line
    end = time.monotonic() + 60 * float(minutes) - _TEST_SECONDS
    keras.utils.set_random_seed(int(seed))
    training = _images(Path(folder) / "train", shuffle=True, seed=int(seed))
    network = keras.applications.MobileNetV2((SIZE, SIZE, 3), include_top=False, weights="imagenet")
    classes = len(training.class_names)
    train = {"keras-guide": _keras_guide, "fastai": _fastai}[recipe]
    predict, epochs = train(network, classes, training.prefetch(tf.data.AUTOTUNE), end)
    correct = [
        np.argmax(predict(images), axis=1) == labels
        for images, labels in _images(Path(folder) / "test", shuffle=False, seed=0)
    ]
    print(json.dumps({"accuracy": float(np.concatenate(correct).mean()), "epochs": epochs}))


def _images(folder: Path, *, shuffle: bool, seed: int) -> Any:
    return keras.utils.image_dataset_from_directory(
        folder, image_size=(SIZE, SIZE), batch_size=BATCH, shuffle=shuffle, seed=seed, verbose=False
    )


class _StopAt(keras.callbacks.Callback):
    """Ends a phase at a time."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self._end = end

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras' interface
        if time.monotonic() > self._end:
            self.model.stop_training = True


def _keras_guide(network: Any, classes: int, training: Any, end: float) -> tuple[Callable[[Any], Any], float]:
    network.trainable = False
    inputs = keras.Input((SIZE, SIZE, 3))
    augmented = keras.layers.RandomRotation(0.2)(keras.layers.RandomFlip("horizontal")(inputs))
    features = network(keras.layers.Rescaling(1 / 127.5, offset=-1)(augmented), training=False)
    pooled = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(features))
    model = keras.Model(inputs, keras.layers.Dense(classes)(pooled))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    half = time.monotonic() + (end - time.monotonic()) / 2
    epochs = 0
    for optimizer, first_trained, until in (
        (keras.optimizers.Adam(1e-4), None, half),
        (keras.optimizers.RMSprop(1e-5), 100, end),
    ):
        if first_trained is not None:
            network.trainable = True
            for layer in network.layers[:first_trained]:
                layer.trainable = False
        model.compile(optimizer, loss)
        history = model.fit(training, epochs=100, verbose=0, callbacks=[_StopAt(until)])
        epochs += len(history.epoch)
    return lambda images: model(images, training=False), epochs


def _normalization() -> Any:
    return keras.layers.BatchNormalization(momentum=_TORCH_MOMENTUM, epsilon=1e-5)


def _fastai(network: Any, classes: int, training: Any, end: float) -> tuple[Callable[[Any], Any], float]:
    head = keras.Sequential(
        [
            _normalization(),
            keras.layers.Dropout(0.25),
            keras.layers.Dense(512, activation="relu", use_bias=False, kernel_initializer="he_normal"),
            _normalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(classes, kernel_initializer="he_normal"),
        ]
    )
    head.build((None, 2 * network.output_shape[-1]))
    augment = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(10 / 360),
            keras.layers.RandomZoom((-0.1, 0.0)),
            keras.layers.RandomBrightness(0.1),
            keras.layers.RandomContrast(0.2),
        ]
    )
    # vision_learner's groups: the first layers, the others, the head. Batch normalization is always trained.
    layers = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in layers:
        layer.momentum = _TORCH_MOMENTUM
    normalizations = [weight for layer in layers for weight in layer.trainable_variables]
    middle = len(network.trainable_variables) // 2
    groups = [
        network.trainable_variables[:middle],
        network.trainable_variables[middle:],
        head.trainable_variables,
    ]

    def logits(images: Any, training: bool) -> Any:
        features = network(images / 127.5 - 1, training=training)
        both = [tf.reduce_max(features, [1, 2]), tf.reduce_mean(features, [1, 2])]
        return head(tf.concat(both, 1), training=training)

    def make_step(groups: list[list[Any]]) -> Callable[[Any, Any, list[float]], Any]:
        optimizers = [
            keras.optimizers.AdamW(1e-3, weight_decay=0.01, beta_2=0.99, epsilon=1e-5) for _ in groups
        ]
        for optimizer, group in zip(optimizers, groups, strict=True):
            optimizer.build(group)

        @tf.function(reduce_retracing=True)
        def step(images: Any, labels: Any) -> None:
            with tf.GradientTape() as tape:
                outputs = logits(augment(images, training=True), True)
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs))
            gradients = tape.gradient(loss, groups)
            for optimizer, group, of_group in zip(optimizers, groups, gradients, strict=True):
                optimizer.apply(of_group, group)

        def step_at(images: Any, labels: Any, rates: list[float]) -> None:
            for optimizer, rate in zip(optimizers, rates, strict=True):
                optimizer.learning_rate.assign(rate)
            step(images, labels)

        return step_at

    # One epoch with the network frozen; the cycle's warm-up takes 99 % of it.
    frozen = make_step([normalizations, head.trainable_variables])
    steps = len(training)
    for number, (images, labels) in enumerate(training):
        rate = _one_cycle(number / steps, _FASTAI_RATE, 25.0, 0.99)
        frozen(images, labels, [rate, rate])
    unfrozen = make_step(groups)
    # The cycle is over the time: how many epochs fit into it need not be known.
    begin, number = time.monotonic(), 0
    for images, labels in training.repeat():
        done = (time.monotonic() - begin) / (end - begin)
        if done >= 1:
            break
        rate = _one_cycle(done, _FASTAI_RATE / 2, _FASTAI_DIVISOR, _FASTAI_WARM_UP)
        unfrozen(images, labels, [0.01 * rate, 0.1 * rate, rate])
        number += 1
    return lambda images: logits(images, False), 1 + number / steps


def _one_cycle(done: float, highest: float, divisor: float, warm_up: float) -> float:
    """Returns fastai's learning rate when a part 0..1 of the steps is done: two half cosines."""
    if done < warm_up:
        begin, end, part = highest / divisor, highest, done / warm_up
    else:
        begin, end, part = highest, highest / 1e5, (done - warm_up) / (1 - warm_up)
    return begin + (end - begin) * (1 - math.cos(math.pi * part)) / 2


if __name__ == "__main__":
    main(sys.argv[1:])
