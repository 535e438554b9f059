"""One side of ``benchmarks.training_step``, run as a separate process.

``python -m benchmarks.training_step_side STARTED SIDE ...``, where STARTED is the start time of the process
in seconds since 1970, prints a JSON object as its last line.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

INTERPRETER_READY = time.time()
_CLASSES = 5
_SIZE = 224
# The first steps trace the graph and allocate memory.
_UNCOUNTED = 2


def main() -> None:
    """Runs the side given on the command line."""
    started, side, *arguments = sys.argv[1:]
    print(json.dumps(_SIDES[side](float(started), *arguments)))


def _fit(started: float, model_type: str, batch: str, steps: str) -> dict[str, float]:
    """Stock Keras: a network of keras.applications with a new last layer, fit on one batch in memory."""
    import keras
    import numpy as np
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    names = {"resnet-50": "ResNet50", "efficientnet-b0": "EfficientNetB0"}
    network = getattr(keras.applications, names[model_type])(
        include_top=False, weights=None, input_shape=(_SIZE, _SIZE, 3), pooling="avg"
    )
    images = keras.Input((_SIZE, _SIZE, 3))
    model = keras.Model(images, keras.layers.Dense(_CLASSES)(network(images)))
    _compile(model, learning_rate=1e-3)
    pixels, classes = _batch(int(batch))
    data = tf.data.Dataset.from_tensors((np.float32(pixels), classes)).repeat().prefetch(2)
    ends: list[float] = []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: ends.append(time.time()))
    model.fit(data, steps_per_epoch=_UNCOUNTED + int(steps), verbose=0, callbacks=[record])
    return _result(started, int(batch), ends)


def _ours(started: float, model_type: str, batch: str, steps: str, precision: str) -> dict[str, float]:
    """The training step of ``imgpipe.components.train`` on the same network and batch."""
    from imgpipe.components.common.tf_import import tf
    from imgpipe.components.train.models import build_classifier

    classifier = build_classifier(
        model_type, num_classes=_CLASSES, image_size=_SIZE, weights="none", seed=0, precision=precision
    )
    step = build_step(classifier, int(batch))
    pixels, classes = map(tf.constant, _batch(int(batch)))
    ends = []
    for _ in range(_UNCOUNTED + int(steps)):
        step(pixels, classes).numpy()
        ends.append(time.time())
    return _result(started, int(batch), ends)


def _start(started: float, model_type: str, folder: str) -> dict[str, float]:
    """The phases from the start of the process to the end of the first step, as in train()."""
    times = {"interpreter": INTERPRETER_READY - started}
    begin = time.time()
    from imgpipe.components.common.tf_import import keras

    times["TensorFlow import"] = time.time() - begin

    begin = time.time()
    from imgpipe.components.common.dataset import read_manifest
    from imgpipe.components.train.accelerators import Accelerators, find_accelerators
    from imgpipe.components.train.arguments import TrainingArguments
    from imgpipe.components.train.models import build_classifier
    from imgpipe.components.train.training_inputs import LocalData, training_inputs

    times["imports of our own"] = time.time() - begin

    weights = "imagenet" if _has_imagenet_weights() else "none"
    arguments = TrainingArguments(model_type=model_type, weights=weights, max_steps=1000)
    accelerators: Accelerators = find_accelerators()
    loading = _timed(keras.Model, "load_weights")
    begin = time.time()
    classifier = build_classifier(
        model_type, num_classes=_CLASSES, image_size=_SIZE, weights=weights, seed=0, precision="float32"
    )
    times["network"] = time.time() - begin - sum(loading)
    times[f"weights ({weights})"] = sum(loading)

    begin = time.time()
    data = LocalData(read_manifest(Path(folder)), Path(folder))
    inputs = training_inputs(classifier, arguments, data, accelerators)
    images, classes = next(iter(inputs.training_batches(0)))
    times["input"] = time.time() - begin

    begin = time.time()
    step = build_step(classifier, arguments.train_batch_size)
    step(images, classes).numpy()
    times["trace and first step"] = time.time() - begin
    times["first step done"] = time.time() - started
    return times


def _frozen_fit(started: float, folder: str, batch: str) -> dict[str, float]:
    """Stock Keras with a frozen network: two epochs, with validation."""
    import keras
    import tensorflow as tf

    def images(split: str) -> Any:
        data = keras.utils.image_dataset_from_directory(
            f"{folder}/{split}", image_size=(_SIZE, _SIZE), batch_size=int(batch), verbose=False
        )
        return data.prefetch(tf.data.AUTOTUNE)

    network = keras.applications.MobileNetV2(
        include_top=False,
        weights="imagenet" if _has_imagenet_weights() else None,
        input_shape=(_SIZE, _SIZE, 3),
        pooling="avg",
    )
    network.trainable = False
    inputs = keras.Input((_SIZE, _SIZE, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(_CLASSES)(network(scaled, training=False)))
    _compile(model, learning_rate=0.05)
    ends: list[float] = []
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_, **__: ends.append(time.time()))
    model.fit(images("train"), validation_data=images("val"), epochs=2, verbose=0, callbacks=[record])
    return {"first_epoch_done": ends[0] - started, "second_epoch": ends[1] - ends[0]}


def _compile(model: Any, learning_rate: float) -> None:
    import keras

    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def _has_imagenet_weights() -> bool:
    """Whether Keras has cached the ImageNet weights of MobileNetV2."""
    models = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    return any(models.glob("mobilenet_v2*_224_no_top.h5"))


def build_step(classifier: Any, batch: int) -> Callable[..., Any]:
    """Returns the training step of ``imgpipe.components.train``: (images, classes) -> loss."""
    from imgpipe.components.common.tf_import import tf
    from imgpipe.components.train.accelerators import Accelerators
    from imgpipe.components.train.arguments import TrainingArguments
    from imgpipe.components.train.models import decayed_kernels
    from imgpipe.components.train.schedules import build_optimizer
    from imgpipe.components.train.training_step import Trainable, build_training_step

    arguments = TrainingArguments(train_batch_size=batch, initial_learning_rate=1e-3)
    optimizer = build_optimizer(arguments)
    trained = classifier.trained_variables
    # Built beforehand as in the loop, so that the step is traced once.
    optimizer.build(trained)
    trainable = Trainable(
        classifier.logits,
        tf.TensorSpec([None, _SIZE, _SIZE, 3], tf.uint8),
        trained,
        decayed_kernels(classifier),
        classifier.variables,
        classifier.head.output_shape[-1],
    )
    accelerators = Accelerators(tf.distribute.get_strategy(), "CPU")
    return build_training_step(trainable, optimizer, arguments, accelerators)


def _batch(size: int) -> tuple[Any, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (size, _SIZE, _SIZE, 3), dtype=np.uint8)
    return pixels, random.integers(0, _CLASSES, size)


def _result(started: float, batch: int, ends: list[float]) -> dict[str, float]:
    steps = len(ends) - _UNCOUNTED
    rate = batch * steps / (ends[-1] - ends[_UNCOUNTED - 1])
    return {"first_step": ends[0] - started, "images_per_second": rate}


def _timed(owner: Any, name: str) -> list[float]:
    """Patches a method to record the seconds of each call in the returned list."""
    seconds: list[float] = []
    original = getattr(owner, name)

    def timed(*arguments: Any, **options: Any) -> Any:
        begin = time.time()
        try:
            return original(*arguments, **options)
        finally:
            seconds.append(time.time() - begin)

    setattr(owner, name, timed)
    return seconds


_SIDES: dict[str, Callable[..., dict[str, float]]] = {
    "fit": _fit,
    "ours": _ours,
    "start": _start,
    "frozen-fit": _frozen_fit,
}


if __name__ == "__main__":
    main()
