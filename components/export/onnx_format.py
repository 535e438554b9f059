"""Conversion to ONNX with tf2onnx."""

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any

from imgpipe.components.common.engines import IMAGES, PROBABILITIES
from imgpipe.components.common.errors import InvalidArgumentError
from imgpipe.components.common.tf_import import buffer_native_stderr, tf

# From ONNX 1.12 (2022): all current runtimes support it, and the networks need nothing newer.
_OPSET = 17


def check_onnx_is_installed() -> None:
    """Checks that the converter and the runtime are installed.

    Raises:
        InvalidArgumentError: if one is not.
    """
    missing = missing_packages()
    if missing:
        raise InvalidArgumentError(
            f"export_formats=onnx needs {' and '.join(missing)}, which this environment lacks",
            remedy="install image-classification-pipeline[onnx], or remove onnx from export_formats",
        )


def missing_packages() -> list[str]:
    """Returns what is not installed of the converter and the runtime that checks its output."""
    return [name for name in ("tf2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]


def convert_to_onnx(network: Any, image_size: int) -> bytes:
    """Returns the network as an ONNX file with the input ``images`` and the network's outputs.

    ``images`` is uint8 [n, size, size, 3], RGB in 0..255, and ``probabilities`` float32 [n, N], for any n.

    Args:
        network: uint8 [n, size, size, 3] -> outputs by name, see ``ServedModel.network_outputs``, or the
            probabilities alone.
        image_size: Width and height of the images in pixels.
    """
    import tf2onnx
    import tf2onnx.tf_loader

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)

    @tf.function(input_signature=[tf.TensorSpec([None, image_size, image_size, 3], tf.uint8, name=IMAGES)])
    def predict(images: Any) -> Any:
        found = network(images)
        return dict(found) if isinstance(found, Mapping) else {PROBABILITIES: found}

    function = predict.get_concrete_function()
    # TensorFlow sorts the outputs by name; users of the file expect the probabilities first.
    names = sorted(function.structured_outputs)
    tensors = dict(zip(names, (tensor.name for tensor in function.outputs), strict=True))
    names.sort(key=lambda name: name != PROBABILITIES)
    inputs, outputs = [f"{IMAGES}:0"], [tensors[name] for name in names]
    with buffer_native_stderr():
        # tf2onnx.convert.from_function would treat the function's captured constants as inputs.
        graph = tf2onnx.tf_loader.from_function(function, inputs, outputs)
        model, _ = tf2onnx.convert.from_graph_def(
            graph,
            input_names=inputs,
            output_names=outputs,
            opset=_OPSET,
            tensors_to_rename={inputs[0]: IMAGES, **dict(zip(outputs, names, strict=True))},
        )
    return bytes(model.SerializeToString(deterministic=True))
