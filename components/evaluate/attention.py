"""Where a network finds what it predicts: Grad-CAM of the features that it pools."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.served_model import ServedModel
from imgpipe.components.common.tf_import import tf

_MIN_PROBABILITY = 1e-9


def attention_maps(
    model: ServedModel, images: Sequence[bytes], classes: Sequence[int]
) -> NDArray[np.float32] | None:
    """Returns how much each place of an image supports a class, float32 [images, height, width], 0..1.

    Grad-CAM (Selvaraju et al., 2017) of the last features with a height and a width, which a global pooling
    averages: their sum, weighted by the mean gradient of the class's log probability. A map of zeros means
    that no place supports it.

    Args:
        model: The loaded model.
        images: Image files, as they are in records; one batch.
        classes: For each image: the class, 0..N-1.

    Returns:
        The maps; None if the network has no such features.
    """
    # Its graph has the layers, that of ``network`` only a call of it.
    network = model.network_outputs.concrete_functions[0]
    pooled = [
        operation.inputs[0].name
        for operation in network.graph.get_operations()
        if operation.type == "Mean" and operation.inputs[0].shape.rank == 4
    ]
    if not pooled:
        return None
    graph = network.graph.as_graph_def()

    @tf.function(autograph=False)
    def compute(pixels: Any, classes: Any) -> Any:
        inputs = {network.inputs[0].name: pixels}
        for variable, placeholder in network.graph.captures:
            inputs[placeholder.name] = tf.compat.v1.get_default_graph().capture(variable)
        # A copy of the network in this graph, in which the gradient can be computed. Outputs are sorted by
        # name: the probabilities are the last.
        features, probabilities = tf.graph_util.import_graph_def(
            graph, input_map=inputs, return_elements=[pooled[-1], network.outputs[-1].name], name=""
        )
        score = tf.math.log(tf.gather(probabilities, classes, axis=1, batch_dims=1) + _MIN_PROBABILITY)
        (gradient,) = tf.gradients(score, features)
        weights = tf.reduce_mean(gradient, (1, 2), keepdims=True)
        return tf.nn.relu(tf.reduce_sum(tf.cast(weights * features, tf.float32), -1))

    maps = compute(tf.constant(model.decode(images)), tf.constant(classes)).numpy()
    return np.asarray(maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12), np.float32)
