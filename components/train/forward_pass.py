"""Runs a Keras network in plain TensorFlow operations: quicker to trace, and quicker to run.

Keras builds the network, and holds and names its variables. What Keras 3 does when a layer is called costs
time twice: bookkeeping around every call while a step is traced, and batch normalization put together from
single operations, each of which reads and writes the whole feature map. Here each layer is one function of
few operations, and batch normalization is TensorFlow's fused one.

The arithmetic's precision is chosen for each run, not for the network: the same variables serve training in
bfloat16 and evaluation in float32.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.accelerators import devices_in_step


@dataclass(frozen=True)
class Mode:
    """How a network is run.

    Attributes:
        training: Whether batch normalization takes the batch's statistics (and moves its averages towards
            them), and dropout drops.
        dtype: Of the arithmetic between the layers: ``float32``, ``bfloat16`` or ``float16``. Batch
            normalization's statistics are float32 in any case.
        frozen_layers: Names of layers that run in inference mode even in training. No gradient goes
            through them: they are the first ones of the network.
    """

    training: bool
    dtype: str = "float32"
    frozen_layers: Collection[str] = ()


# AutoGraph would translate every function here, for a second of each trace, and find nothing to do.
@tf.autograph.experimental.do_not_convert
def run_network(network: keras.Model, inputs: Any, mode: Mode) -> Any:
    """Returns what a functional Keras model of layers that are called once each gives for ``inputs``.

    Args:
        network: With one input and one output. A model inside it takes what the operation before it gave.
        inputs: A tensor.
        mode: How to run it.
    """
    values = {id(network.inputs[0]): inputs}
    result = inputs
    # From the input to the output.
    for operation in network.operations:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        if isinstance(operation, keras.Model):
            result = run_network(operation, result, mode)
            continue
        given = operation.input
        taken = [values[id(tensor)] for tensor in given] if isinstance(given, list) else values[id(given)]
        frozen = mode.training and operation.name in mode.frozen_layers
        function = _FUNCTIONS.get(type(operation).__name__)
        if function is None:
            # Scaling: cheap, and before the network.
            result = operation(taken)
        else:
            result = function(operation, taken, Mode(False, mode.dtype) if frozen else mode)
        result = tf.stop_gradient(result) if frozen else result
        values[id(operation.output)] = result
    return result


def _convolution(layer: Any, x: Any, mode: Mode) -> Any:
    kernel = tf.cast(layer.kernel.value, mode.dtype)
    y = tf.nn.conv2d(tf.cast(x, mode.dtype), kernel, layer.strides, layer.padding.upper())
    return _with_bias_and_activation(layer, y)


def _depthwise_convolution(layer: Any, x: Any, mode: Mode) -> Any:
    kernel = tf.cast(layer.kernel.value, mode.dtype)
    strides = (1, *layer.strides, 1)
    y = tf.nn.depthwise_conv2d(tf.cast(x, mode.dtype), kernel, strides, layer.padding.upper())
    return _with_bias_and_activation(layer, y)


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
    if devices_in_step() > 1:
        return _batch_normalization_over_devices(layer, x)
    unused = tf.zeros([0], tf.float32)
    fused = tf.raw_ops.FusedBatchNormV3(x=x, mean=unused, variance=unused, is_training=True, **weights)
    # The fused operation gives the variance of the population that the batch is a sample of; Keras
    # averages the batch's own.
    count = tf.cast(tf.size(x), tf.float32) / x.shape[-1]
    batch_variance = fused.batch_variance * (1 - 1 / count)
    for average, value in ((mean.value, fused.batch_mean), (variance.value, batch_variance)):
        average.assign_sub((average - value) * (1 - layer.momentum), read_value=False)
    return fused.y


def _batch_normalization_over_devices(layer: Any, x: Any) -> Any:
    """Normalizes by the statistics of the whole batch, of which each device has a part.

    So that a step is the same on any number of devices; it costs one exchange of small numbers a layer.
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


def _activation(layer: Any, x: Any, _mode: Mode) -> Any:
    return _ACTIVATIONS[layer.activation.__name__](x)


def _relu(layer: Any, x: Any, _mode: Mode) -> Any:
    return tf.nn.relu6(x) if layer.max_value == 6 else tf.nn.relu(x)


def _add(_layer: Any, inputs: Any, _mode: Mode) -> Any:
    return inputs[0] + inputs[1]


def _multiply(_layer: Any, inputs: Any, _mode: Mode) -> Any:
    return inputs[0] * inputs[1]


def _dropout(layer: Any, x: Any, mode: Mode) -> Any:
    return tf.cast(layer(x, training=True), x.dtype) if mode.training else x


def _zero_padding(layer: Any, x: Any, _mode: Mode) -> Any:
    return tf.pad(x, ((0, 0), *layer.padding, (0, 0)))


def _max_pooling(layer: Any, x: Any, _mode: Mode) -> Any:
    return tf.nn.max_pool2d(x, layer.pool_size, layer.strides, layer.padding.upper())


def _global_average_pooling(layer: Any, x: Any, _mode: Mode) -> Any:
    # Summed in float32: a sum of many numbers in bfloat16 stops growing.
    return tf.reduce_mean(tf.cast(x, tf.float32), (1, 2), keepdims=layer.keepdims)


def _reshape(layer: Any, x: Any, _mode: Mode) -> Any:
    return tf.reshape(x, (-1, *layer.target_shape))


def _dense(layer: Any, x: Any, _mode: Mode) -> Any:
    # The last layer, in float32: its logits differ by little, and it costs nothing.
    return tf.matmul(x, layer.kernel.value) + layer.bias.value


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda x: x,
    "relu": tf.nn.relu,
    "sigmoid": tf.nn.sigmoid,
    "silu": tf.nn.silu,
}

# What a layer computes, by the name of its class: function(layer, inputs, mode) -> output.
_FUNCTIONS: dict[str, Callable[[Any, Any, Mode], Any]] = {
    "Activation": _activation,
    "Add": _add,
    "BatchNormalization": _batch_normalization,
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _depthwise_convolution,
    "Dropout": _dropout,
    "GlobalAveragePooling2D": _global_average_pooling,
    "MaxPooling2D": _max_pooling,
    "Multiply": _multiply,
    "ReLU": _relu,
    "Reshape": _reshape,
    "ZeroPadding2D": _zero_padding,
}
