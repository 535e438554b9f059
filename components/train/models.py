"""Builds the classifiers: scaling, backbone and last layer, from pixels of 0..255 to logits.

A classifier has two parts. The backbone turns an image into a feature vector, the head turns the vector into
logits. A frozen backbone can thus be run once over the data, and the head trained on its features.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.forward_pass import Mode, run_network
from imgpipe.components.train.imagenet_weights import build_keras_network
from imgpipe.components.train.model_types import MODEL_TYPES, ModelType
from imgpipe.components.train.network_stages import TOP, frozen_parts, parts_of_layers
from imgpipe.components.train.pretrained_weights import load_pretrained_weights
from imgpipe.components.train.resnet import build_resnet

# Mean and standard deviation of red, green and blue over ImageNet, in units of 0..1, as published
# with torchvision's ResNets.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
# Mean of blue, green and red over ImageNet, in units of 0..255, as Keras' ResNets were trained with.
_CAFFE_MEAN = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class Classifier:
    """An image classifier: backbone and head.

    Attributes:
        backbone: float32 [batch, size, size, 3] of 0..255 -> float32 [batch, features].
        head: float32 [batch, features] -> float32 [batch, num_classes], logits.
        model_type: A name of ``MODEL_TYPES``.
        freeze: What is not trained: ``none``, ``backbone``, or everything up to and including a stage.
        precision: Precision of the training: ``float32``, ``bfloat16`` or ``float16``. Inference is in
            float32, as in serving, and variables are always float32.
    """

    backbone: keras.Model
    head: keras.Model
    model_type: str
    freeze: str = "none"
    precision: str = "float32"

    def logits(self, images: Any, *, training: bool) -> Any:
        """Returns float32 logits [batch, num_classes] of images [batch, size, size, 3] of 0..255.

        Frozen parts always run in inference mode: their statistics do not change.
        """
        return self.logits_of_features(self.features(images, training=training), training=training)

    def logits_of_features(self, features: Any, *, training: bool) -> Any:
        """Returns the head's float32 logits [batch, num_classes] of features [batch, features]."""
        mode = Mode(training, self.precision if training else "float32")
        return run_network(self.head, features, mode)

    def features(self, images: Any, *, training: bool) -> Any:
        """Returns the backbone's features of images: float32 [batch, features]."""
        mode = Mode(training, self.precision if training else "float32", self.frozen_layers)
        return run_network(self.backbone, tf.cast(images, tf.float32), mode)

    @property
    def network(self) -> keras.Model:
        """The network itself: the backbone's last layer, after the scaling of pixels."""
        return self.backbone.layers[-1]

    @property
    def frozen_layers(self) -> frozenset[str]:
        """Names of the network's layers that are not trained."""
        kind = MODEL_TYPES[self.model_type]
        frozen = frozen_parts(self.freeze, kind.stage_names)
        names = [layer.name for layer in self.network.layers]
        parts = parts_of_layers(kind.family, names)
        return frozenset(name for name, part in zip(names, parts, strict=True) if part in frozen)

    @property
    def variables(self) -> list[Any]:
        """All variables of both parts, backbone first."""
        return [*self.backbone.variables, *self.head.variables]

    @property
    def trained_variables(self) -> list[Any]:
        """The trainable variables of the parts that are not frozen, backbone first."""
        frozen = self.frozen_layers
        layers = [layer for layer in self.network.layers if layer.name not in frozen]
        trained = {id(variable) for layer in layers for variable in layer.trainable_variables}
        # In the order of the backbone's variables, which is not the order of the layers.
        backbone = [variable for variable in self.backbone.trainable_variables if id(variable) in trained]
        return [*backbone, *self.head.trainable_variables]


def build_classifier(
    model_type: str,
    *,
    num_classes: int,
    image_size: int,
    weights: str,
    seed: int,
    freeze: str = "none",
    precision: str = "float32",
    pretrained_checkpoint_path: str = "",
) -> Classifier:
    """Builds a classifier. Its variables are those of the strategy in scope.

    Args:
        model_type: A name of ``MODEL_TYPES``.
        num_classes: Outputs of the head.
        image_size: Side of the square images, in pixels.
        weights: ``imagenet`` or ``none``; ignored with ``pretrained_checkpoint_path``.
        seed: Seed of the random weights.
        freeze: What is not trained: ``none``, ``backbone``, or the last frozen one of the model type's
            ``stage_names``.
        precision: Precision of the training, from ``resolve_precision``.
        pretrained_checkpoint_path: Location for ``load_pretrained_weights``; empty to use ``weights``.

    Raises:
        UnavailableError: if the ImageNet weights are not on this machine and cannot be downloaded.
        MissingInputError: if ``pretrained_checkpoint_path`` does not exist.
        InvalidDataError: if its content is damaged.
        InvalidArgumentError: if its weights belong to another network.
    """
    keras.utils.set_random_seed(seed)
    kind = MODEL_TYPES[model_type]
    images = keras.Input((image_size, image_size, 3), name="images")
    scaled = _scale(images, kind)
    with _own_random_numbers(seed):
        network = _build_network(model_type, image_size, "none" if pretrained_checkpoint_path else weights)
        backbone = keras.Model(images, network(scaled), name="backbone")
        features = keras.Input(backbone.output_shape[1:], name="features")
        dropped = keras.layers.Dropout(kind.dropout)(features) if kind.dropout else features
    # With a seed of its own: loaded weights of the network draw no numbers.
    initializer = keras.initializers.GlorotUniform(seed)
    logits = keras.layers.Dense(num_classes, kernel_initializer=initializer, dtype="float32", name="logits")
    head = keras.Model(features, logits(dropped), name="head")
    if pretrained_checkpoint_path:
        load_pretrained_weights(pretrained_checkpoint_path, model_type, network, head)
    return Classifier(backbone, head, model_type, freeze, precision)


def set_batch_normalization_momentum(classifier: Classifier, max_steps: int) -> None:
    """Adapts the momentum of batch normalization's moving averages to the length of the run.

    Keras' momentum of 0.99 averages over about the last 100 steps. In a run of a few hundred steps, the
    averages would still contain statistics of nearly untrained weights, and the model would validate at
    chance although it trains well. This averages over a twentieth of the run, at least over 10 steps and at
    most as Keras does.
    """
    momentum = min(0.99, max(0.9, 1 - 20 / max_steps))
    for layer in classifier.network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum


def decayed_kernels(classifier: Classifier) -> list[Any]:
    """Returns the trained variables that weight decay applies to: kernels, but not biases or statistics."""
    return [variable for variable in classifier.trained_variables if variable.name.endswith("kernel")]


@contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """Lets Keras draw the seeds of layers from a generator of its own.

    Keras draws them from Python's global generator (``keras.random.SeedGenerator``). A thread of a library
    that uses it in the meantime would change the weights, although the seed is the same.
    """
    module = keras.src.random.seed_generator
    shared, module.python_random = module.python_random, random.Random(seed)  # noqa: S311 - no secret
    try:
        yield
    finally:
        module.python_random = shared


def rate_factors(classifier: Classifier, layer_decay: float) -> list[tuple[Any, float]]:
    """Returns the network's trained variables with the factors of their learning rates; empty if all are 1.

    The head has the full rate, the network's last part ``layer_decay`` times that, the part before it
    ``layer_decay`` times its rate, and so on.
    """
    if layer_decay == 1:
        return []
    kind = MODEL_TYPES[classifier.model_type]
    layers = classifier.network.layers
    parts = parts_of_layers(kind.family, [layer.name for layer in layers])
    order = [TOP, *reversed(kind.stage_names)]
    frozen = classifier.frozen_layers
    return [
        (variable, layer_decay ** (1 + order.index(part)))
        for layer, part in zip(layers, parts, strict=True)
        if layer.name not in frozen
        for variable in layer.trainable_variables
    ]


def _scale(images: Any, kind: ModelType) -> Any:
    if kind.scaling == "minus_one_to_one":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scaling")(images)
    if kind.scaling == "imagenet_statistics":
        mean, deviation = np.array(_IMAGENET_MEAN), np.array(_IMAGENET_DEVIATION)
        scale, offset = 1 / (255 * deviation), -mean / deviation
        return keras.layers.Rescaling(scale.tolist(), offset=offset.tolist(), name="scaling")(images)
    if kind.scaling == "caffe":
        offset = [-mean for mean in _CAFFE_MEAN]
        return keras.layers.Rescaling(1.0, offset=offset, name="scaling")(keras.ops.flip(images, axis=-1))
    return images


def _build_network(model_type: str, image_size: int, weights: str) -> keras.Model:
    kind = MODEL_TYPES[model_type]
    if not kind.keras_name:
        bottleneck = kind.family == "bottleneck-resnet"
        name = model_type.replace("-", "")
        return build_resnet(kind.blocks, image_size, bottleneck=bottleneck, name=name)
    return build_keras_network(model_type, image_size, imagenet=weights == "imagenet")
