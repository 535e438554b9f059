"""The features of two layers of a frozen network, of every image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.dataset import Manifest, in_usual_order, shard_paths
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.log import Progress
from imgpipe.components.common.plural import plural
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.feature_store import shared_features
from imgpipe.components.train.forward_pass import Mode, run_network
from imgpipe.components.train.input_pipeline import evaluation_batches
from imgpipe.components.train.located_batches import LocatedBatches
from imgpipe.components.train.model_types import MODEL_TYPES
from imgpipe.components.train.models import Classifier, build_classifier

_BATCH_SIZE = 32
# Of the view that shows the middle of an image, as a part of each side.
_MIDDLE = 0.78


def image_features(
    manifest: Manifest, folder: Path, model_type: str, store: Path
) -> Sequence[NDArray[np.float32]]:
    """Returns the features of all images of two layers, each [images, features], in the order of the splits.

    First the mean over the map of a layer in the middle, which is closer to the picture than to ImageNet's
    classes; then the network's output. Two find far more wrong labels than one. Both are the mean over three
    views: the image, the image mirrored, and its middle.

    Args:
        manifest: The data set's manifest.
        folder: The folder of the manifest.
        model_type: A network with ImageNet weights.
        store: The folder in which the features are kept for the next audit.

    Raises:
        UnavailableError: if the weights are not on this machine and cannot be downloaded.
        InvalidDataError: if an image cannot be decoded, or the number of images differs from the manifest.
    """
    size = MODEL_TYPES[model_type].image_size
    classifier = build_classifier(model_type, num_classes=2, image_size=size, weights="imagenet", seed=0)
    border = round(size * (1 - _MIDDLE) / 2)

    def compute_all() -> Sequence[NDArray[Any]]:
        network = with_middle_layer(classifier)

        @tf.function(input_signature=(tf.TensorSpec([None, size, size, 3], tf.uint8),))
        def compute(images: Any) -> Any:
            middle = images[:, border : size - border, border : size - border]
            views = (images, tf.reverse(images, [2]), tf.image.resize(middle, [size, size]))
            outputs = [run_network(network, tf.cast(view, tf.float32), Mode(False)) for view in views]
            return tf.add_n(outputs) / len(views)

        width, last = network.output_shape[-1], classifier.backbone.output_shape[-1]
        features = _compute(compute, manifest, folder, image_size=size, width=width)
        return np.split(features, [width - last], axis=1)

    key = {
        "data": manifest.digest(),
        "model_type": model_type,
        "image_size": size,
        "views": _MIDDLE,
        "layers": 2,
    }
    return shared_features(store, key, classifier.backbone.variables, compute_all)


def with_middle_layer(classifier: Classifier) -> keras.Model:
    """Returns the backbone with two outputs in one vector: the mean of a layer in the middle, and its own.

    It is the last layer that reduces the image's side to a 16th: after it, each network has one more stage.
    """
    network = classifier.network
    side = -(-network.input_shape[1] // 16)
    maps = [layer.output for layer in network.layers if tuple(layer.output.shape[1:-1]) == (side, side)]
    middle = keras.layers.GlobalAveragePooling2D()(maps[-1])
    both = keras.Model(network.input, keras.layers.Concatenate()([middle, network.output]))
    # What scales the pixels comes before the network.
    return keras.Model(classifier.backbone.input, both(classifier.backbone.layers[-2].output))


def _compute(
    compute: Any, manifest: Manifest, folder: Path, *, image_size: int, width: int
) -> NDArray[np.float32]:
    images = sum(split.examples for split in manifest.splits.values())
    features: NDArray[np.float32] = np.empty((images, width), np.float32)
    progress, filled = Progress("audit", images, "images through the network"), 0
    for split in in_usual_order(manifest.splits).values():
        batches = evaluation_batches(
            shard_paths(folder, split),
            shard_examples=[shard.examples for shard in split.shards],
            record_sizes=[shard.record_sizes for shard in split.shards],
            image_size=image_size,
            batch_size=_BATCH_SIZE,
            multi_label_classes=manifest.num_classes if manifest.multi_label else 0,
        )
        for batch, _ in LocatedBatches(batches, folder, split, multi_label=manifest.multi_label):
            end = filled + len(batch)
            features[filled:end] = compute(batch).numpy()
            filled = end
            progress.update(filled)
    if filled != images:
        raise InvalidDataError(
            f"the shards have {plural(filled, 'image')}, but the manifest says {images:,}",
            remedy="run the convert step again, because a file has changed since",
        )
    return features
