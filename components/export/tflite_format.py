"""The model as a TensorFlow Lite (LiteRT) file, and the interpreter that runs it."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.resources import usable_threads
from imgpipe.components.common.saved_model import DEFAULT_SIGNATURE, IMAGES, PROBABILITIES
from imgpipe.components.common.tf_import import buffer_native_stderr, tf


def convert_to_tflite(
    network: Any, image_size: int, calibration: Iterable[NDArray[np.uint8]] | None = None
) -> bytes:
    """Returns the network as a TensorFlow Lite file.

    Its signature ``serving_default`` takes ``images`` (uint8 [1, size, size, 3], red, green, blue of 0..255)
    and returns ``probabilities`` (float32 [1, N]), quantized or not.

    Args:
        network: uint8 [n, size, size, 3] -> float32 [n, N], as ``ServedModel.network``.
        image_size: Side of the images in pixels.
        calibration: Images, uint8 [size, size, 3]: weights and activations become int8, in the ranges that
            these give. None = everything stays float32.
    """

    # One image at a time, as devices ask: an unknown batch would keep the interpreter's fast kernels out.
    @tf.function(input_signature=[tf.TensorSpec([1, image_size, image_size, 3], tf.uint8, name=IMAGES)])
    def one(images: Any) -> dict[str, Any]:
        return {PROBABILITIES: network(images)}

    function = one.get_concrete_function()
    module = tf.Module()
    # Without the variables it could not be saved on the way, and the converter would drop the signature.
    module.function, module.network_variables = one, list(function.variables)
    with buffer_native_stderr():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
        if calibration is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([image[None]] for image in calibration)
            # Without this an operation that cannot be quantized would stay float32 in silence.
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        return bytes(converter.convert())


class TFLiteModel:
    """A TensorFlow Lite file, loaded."""

    def __init__(self, content: bytes) -> None:
        with warnings.catch_warnings(), buffer_native_stderr():
            # It says that the interpreter has a package of its own, ai-edge-litert: this one is that of the
            # converter's version, and there already.
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
            interpreter = tf.lite.Interpreter(model_content=content, num_threads=usable_threads())
            interpreter.allocate_tensors()
            self._run = interpreter.get_signature_runner(DEFAULT_SIGNATURE)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns float32 [n, N] for uint8 [n, size, size, 3], asking for one image after the other."""
        return np.concatenate([self._run(**{IMAGES: image[None]})[PROBABILITIES] for image in images])
