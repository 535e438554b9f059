"""Conversion to TensorFlow Lite (LiteRT), and inference with its interpreter."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.engines import IMAGES, PROBABILITIES
from imgpipe.components.common.resources import usable_threads
from imgpipe.components.common.saved_model import DEFAULT_SIGNATURE
from imgpipe.components.common.tf_import import buffer_native_stderr, tf


def convert_to_tflite(
    network: Any, image_size: int, calibration: Iterable[NDArray[np.uint8]] | None = None
) -> bytes:
    """Returns the network as a TensorFlow Lite file.

    The signature ``serving_default`` takes ``images`` (uint8 [1, size, size, 3], RGB in 0..255) and returns
    ``probabilities`` (float32 [1, N]), whether quantized or not.

    Args:
        network: uint8 [n, size, size, 3] -> float32 [n, N], see ``ServedModel.network``.
        image_size: Width and height of the images in pixels.
        calibration: Images, uint8 [size, size, 3], that determine the ranges for int8 quantization of weights
            and activations. None = float32 without quantization.
    """

    # One image per request, as usual on devices: a dynamic batch size disables the fast kernels.
    @tf.function(input_signature=[tf.TensorSpec([1, image_size, image_size, 3], tf.uint8, name=IMAGES)])
    def predict(images: Any) -> dict[str, Any]:
        return {PROBABILITIES: network(images)}

    function = predict.get_concrete_function()
    module = tf.Module()
    # Without the variables, the module could not be saved, and the converter would drop the signature.
    module.function, module.network_variables = predict, list(function.variables)
    with buffer_native_stderr():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        if calibration is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image[None]] for image in calibration)
            # Without this, operations that cannot be quantized would silently stay float32.
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        return bytes(converter.convert())


class TFLiteModel:
    """A loaded TensorFlow Lite file."""

    def __init__(self, content: bytes) -> None:
        with warnings.catch_warnings(), buffer_native_stderr():
            # The warning recommends the package ai-edge-litert, but this interpreter is already installed and
            # has the converter's version.
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
            interpreter = tf.lite.Interpreter(model_content=content, num_threads=usable_threads())
            interpreter.allocate_tensors()
            self._run = interpreter.get_signature_runner(DEFAULT_SIGNATURE)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns float32 [n, N] for uint8 [n, size, size, 3], one image at a time."""
        return np.concatenate([self._run(**{IMAGES: image[None]})[PROBABILITIES] for image in images])
