"""Runs a Keras network with plain TensorFlow operations, which is faster to trace and faster to run.

Keras builds the network and holds and names its variables. Calling its layers costs time twice in Keras 3:
bookkeeping around every call during tracing, and batch normalization composed of single operations, each of
which reads and writes the whole feature map. Here each layer is a function of few operations, and batch
normalization is TensorFlow's fused operation.

The precision is chosen for each call, not for the network: the same variables are used for training in
bfloat16 and evaluation in float32.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.tf_import import keras, tf


@dataclass(frozen=True)
class Mode:
    """How a network is run.

    Attributes:
        training: Whether batch normalization uses the batch's statistics (and updates its moving averages),
            and dropout is active.
        dtype: Data type of the activations: ``float32``, ``bfloat16`` or ``float16``. Batch normalization's
            statistics are always float32.
        frozen_layers: Names of layers that always run in inference mode. They are the first layers of the
            network, and no gradient flows through them.
    """

    training: bool
    dtype: str = "float32"
    frozen_layers: Collection[str] = ()


# AutoGraph would convert every function here, at a cost of one second per trace, without any change.
@tf.autograph.experimental.do_not_convert
def run_network(network: keras.Model, inputs: Any, mode: Mode) -> Any:
    """Returns the output of a functional Keras model in which each layer is called once.

    Args:
        network: A model with one input and one output.
        inputs: A tensor.
        mode: How to run it.
    """
    values = {id(network.inputs[0]): inputs}
    for node in _calls(network):
        operation = node.operation
        positional, named = node.arguments.fill_in(values)
        frozen = mode.training and operation.name in mode.frozen_layers
        run = _function(operation)
        if run is None:
            # The scaling of pixels and sums with a constant, which are cheap.
            result = operation(*positional, **named)
        else:
            result = run(operation, positional[0], Mode(False, mode.dtype) if frozen else mode)
        values[id(node.outputs[0])] = tf.stop_gradient(result) if frozen else result
    return values[id(network.outputs[0])]


def _calls(network: keras.Model) -> list[Any]:
    """Returns the calls of operations that a model consists of, each after those that it depends on.

    A call has the ``operation``, its ``arguments`` and its ``outputs``. The tensors of an operation itself,
    ``operation.input``, would be those inside it if it is a nested model.
    """
    graph = network._functional if isinstance(network, keras.Sequential) else network
    by_depth = graph._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in nodes if not node.is_input]


def _function(operation: Any) -> Callable[[Any, Any, Mode], Any] | None:
    if isinstance(operation, keras.Model):
        run: Callable[[Any, Any, Mode], Any] = run_network
        return run
    # Operations of keras.ops have names of layers too, but other arguments: Add takes x and y, not a list.
    if not isinstance(operation, keras.layers.Layer):
        return None
    return _FUNCTIONS.get(type(operation).__name__)


def _convolution(layer: Any, x: Any, mode: Mode) -> Any:
    kernel, x = tf.cast(layer.kernel.value, mode.dtype), tf.cast(x, mode.dtype)
    if layer.groups == 1:
        y = tf.nn.conv2d(x, kernel, layer.strides, layer.padding.upper())
    else:
        # ConvNeXt's have a group for each channel. On CPUs, TensorFlow has no gradient of grouped
        # convolutions.
        kernel = tf.transpose(kernel, (0, 1, 3, 2))
        y = tf.nn.depthwise_conv2d(x, kernel, (1, *layer.strides, 1), layer.padding.upper())
    return _with_bias_and_activation(layer, y)


def _depthwise_convolution(layer: Any, x: Any, mode: Mode) -> Any:
    kernel = tf.cast(layer.kernel.value, mode.dtype)
    strides = (1, *layer.strides, 1)
    y = tf.nn.depthwise_conv2d(tf.cast(x, mode.dtype), kernel, strides, layer.padding.upper())
    return _with_bias_and_activation(layer, y)


def _dense(layer: Any, x: Any, mode: Mode) -> Any:
    if len(x.shape) == 2:
        # The last layer runs in float32: logits differ by little, and the cost is negligible.
        return tf.matmul(x, layer.kernel.value) + layer.bias.value
    # For each pixel: a convolution of 1x1.
    kernel = tf.cast(layer.kernel.value, mode.dtype)[None, None]
    return _with_bias_and_activation(layer, tf.nn.conv2d(tf.cast(x, mode.dtype), kernel, 1, "VALID"))


def _layer_normalization(layer: Any, x: Any, _mode: Mode) -> Any:
    wide = tf.cast(x, tf.float32)
    mean, variance = tf.nn.moments(wide, -1, keepdims=True)
    weights = layer.beta.value, layer.gamma.value
    return tf.cast(tf.nn.batch_normalization(wide, mean, variance, *weights, layer.epsilon), x.dtype)


def _with_bias_and_activation(layer: Any, y: Any) -> Any:
    if layer.use_bias:
        y = tf.nn.bias_add(y, tf.cast(layer.bias.value, y.dtype))
    return _ACTIVATIONS[layer.activation.__name__](y)


def _batch_normalization(layer: Any, x: Any, mode: Mode) -> Any:
    weights = {"scale": layer.gamma.value, "offset": layer.beta.value, "epsilon": layer.epsilon}
    mean, variance = layer.moving_mean, layer.moving_variance
    if not mode.training:
        return tf.raw_ops.FusedBatchNormV3(
            x=x, mean=mean.value, variance=variance.value, is_training=False, **weights
        ).y
    if tf.distribute.has_strategy():
        return _batch_normalization_over_devices(layer, x)
    unused = tf.zeros([0], tf.float32)
    fused = tf.raw_ops.FusedBatchNormV3(x=x, mean=unused, variance=unused, is_training=True, **weights)
    # The fused operation returns the unbiased variance, but Keras averages the biased one.
    count = tf.cast(tf.size(x), tf.float32) / x.shape[-1]
    batch_variance = fused.batch_variance * (1 - 1 / count)
    for average, value in ((mean.value, fused.batch_mean), (variance.value, batch_variance)):
        average.assign_sub((average - value) * (1 - layer.momentum), read_value=False)
    return fused.y


def _batch_normalization_over_devices(layer: Any, x: Any) -> Any:
    """Normalizes by the statistics of the whole batch, of which each device has a part.

    A step is thus the same on any number of devices, at the cost of one small all-reduce per layer.
    """
    wide = tf.cast(x, tf.float32)
    parts = tf.stack([tf.reduce_mean(wide, (0, 1, 2)), tf.reduce_mean(tf.square(wide), (0, 1, 2))])
    context = tf.distribute.get_replica_context()
    mean, mean_of_squares = tf.unstack(context.all_reduce(tf.distribute.ReduceOp.MEAN, parts))
    variance = tf.maximum(mean_of_squares - tf.square(mean), 0.0)
    for average, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        average.assign(average.value * layer.momentum + value * (1 - layer.momentum))
    scale = layer.gamma.value * tf.math.rsqrt(variance + layer.epsilon)
    return tf.cast(wide * scale + (layer.beta.value - mean * scale), x.dtype)


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    # tf.nn.gelu has the operation Erfc, which ONNX does not have.
    "gelu": lambda x: 0.5 * x * (1 + tf.math.erf(x * 2**-0.5)),
    "hard_silu": lambda x: x * tf.nn.relu6(x + 3) * (1 / 6),
    "linear": lambda x: x,
    "relu": tf.nn.relu,
    "sigmoid": tf.nn.sigmoid,
    "silu": tf.nn.silu,
}

# function(layer, inputs, mode) -> output, by the name of the layer's class.
_FUNCTIONS: dict[str, Callable[[Any, Any, Mode], Any]] = {
    "Activation": lambda layer, x, _: _ACTIVATIONS[layer.activation.__name__](x),
    "Add": lambda _layer, inputs, _: inputs[0] + inputs[1],
    "BatchNormalization": _batch_normalization,
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _depthwise_convolution,
    "Dropout": lambda layer, x, mode: tf.cast(layer(x, training=True), x.dtype) if mode.training else x,
    # In float32: a sum of many numbers in bfloat16 stops growing.
    "GlobalAveragePooling2D": lambda layer, x, _: tf.reduce_mean(
        tf.cast(x, tf.float32), (1, 2), keepdims=layer.keepdims
    ),
    "LayerNormalization": _layer_normalization,
    # ConvNeXt's: a factor per channel.
    "LayerScale": lambda layer, x, _: x * tf.cast(layer.gamma.value, x.dtype),
    "MaxPooling2D": lambda layer, x, _: tf.nn.max_pool2d(
        x, layer.pool_size, layer.strides, layer.padding.upper()
    ),
    "Multiply": lambda _layer, inputs, _: inputs[0] * inputs[1],
    "ReLU": lambda layer, x, _: tf.nn.relu6(x) if layer.max_value == 6 else tf.nn.relu(x),
    "Reshape": lambda layer, x, _: tf.reshape(x, (-1, *layer.target_shape)),
    "ZeroPadding2D": lambda layer, x, _: tf.pad(x, ((0, 0), *layer.padding, (0, 0))),
}
