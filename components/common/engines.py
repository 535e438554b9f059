"""Engines: what computes the network of a served model, from decoded pixels to probabilities."""

import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgpipe.components.common.errors import CheckFailedError, InvalidArgumentError
from imgpipe.components.common.provenance import FORMATS_FOLDER, read_serving_engine
from imgpipe.components.common.resources import usable_threads

AUTO, TENSORFLOW, ONNX_RUNTIME, OPENVINO = "auto", "tensorflow", "onnxruntime", "openvino"
ENGINES = (TENSORFLOW, ONNX_RUNTIME, OPENVINO)
# The names of the network's input and outputs in formats other than the SavedModel.
IMAGES, PROBABILITIES, EMBEDDINGS = "images", "probabilities", "embeddings"
FLOAT32, BFLOAT16 = "float32", "bfloat16"
# Both engines read it.
ONNX_FILE = f"{FORMATS_FOLDER}/model.onnx"
_EXTRAS = {ONNX_RUNTIME: "onnx", OPENVINO: "openvino"}

# uint8 [n, size, size, 3] -> float32 [n, N]
Network = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Outputs = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Engine:
    """What computes the network.

    Attributes:
        name: ``tensorflow``, ``onnxruntime`` or ``openvino``.
        precision: ``float32``, or ``bfloat16``: the arithmetic of OpenVINO on processors that have it.
        largest_difference: The largest difference of a probability from TensorFlow's that the export step
            measured; 0 if it did not.
    """

    name: str = TENSORFLOW
    precision: str = FLOAT32
    largest_difference: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        return self.name if self.precision == FLOAT32 else f"{self.name} in {self.precision}"


DEFAULT_ENGINE = Engine()


class OnnxNetwork:
    """The network of an ONNX file in an engine; as a function it returns the probabilities.

    Args:
        outputs: Returns all outputs by name.
    """

    def __init__(self, outputs: Callable[[NDArray[np.uint8]], Outputs]) -> None:
        self.outputs = outputs

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.outputs(images)[PROBABILITIES]


def is_installed(name: str) -> bool:
    """Whether the package of an engine is installed."""
    return name == TENSORFLOW or importlib.util.find_spec(name) is not None


def usable_engines() -> list[Engine]:
    """Returns the engines of ONNX files on this machine: what is installed, in what the processor has."""
    engines = [Engine(name) for name in (ONNX_RUNTIME, OPENVINO) if is_installed(name)]
    if is_installed(OPENVINO) and _has_bfloat16():
        engines.append(Engine(OPENVINO, BFLOAT16))
    return engines


def select_engine(name: str, model_folder: Path) -> Engine:
    """Returns the engine for a model.

    Args:
        name: ``auto`` for what the export step found to be the fastest, if it can be used on this machine,
            otherwise TensorFlow; or an engine's name, in the precision that the export step chose for it, if
            it did, otherwise in float32.
        model_folder: The folder of the model.
    """
    measured = read_serving_engine(model_folder)
    engine = DEFAULT_ENGINE if measured is None else Engine(*measured)
    if name == AUTO:
        return engine if engine == DEFAULT_ENGINE or engine in usable_engines() else DEFAULT_ENGINE
    return engine if engine.name == name else Engine(name)


def check_engine(name: str) -> None:
    """Checks that the package of an engine is installed.

    Raises:
        InvalidArgumentError: if it is not.
    """
    if name != AUTO and not is_installed(name):
        raise InvalidArgumentError(
            f"engine={name} needs the package {name}, which is not installed in this environment",
            remedy=f"install image-classification-pipeline[{_EXTRAS[name]}], or use engine=tensorflow",
        )


def load_network(engine: Engine, model_folder: Path) -> OnnxNetwork:
    """Loads the network of a model folder into an engine other than TensorFlow; several threads may call it.

    Raises:
        InvalidArgumentError: if the engine's package is not installed, the processor lacks its precision, or
            the folder has no ONNX file.
        CheckFailedError: if the engine cannot load the file.
    """
    check_engine(engine.name)
    path = model_folder / ONNX_FILE
    if not path.is_file():
        raise InvalidArgumentError(
            f"engine={engine.name} needs {ONNX_FILE}, which the model in {str(model_folder)!r} does not have",
            remedy="export the model with export_formats=onnx or auto, or use engine=tensorflow",
        )
    if engine.precision == BFLOAT16 and not _has_bfloat16():
        raise InvalidArgumentError(
            "this machine's processor has no bfloat16 arithmetic",
            remedy="use engine=tensorflow, or export the model on this machine",
        )
    try:
        return _onnx_runtime(path.read_bytes()) if engine.name == ONNX_RUNTIME else _openvino(engine, path)
    except Exception as error:
        # Engines have no common exception class.
        raise CheckFailedError(
            f"{engine} cannot load {ONNX_FILE}: {type(error).__name__}: {error}",
            where=str(model_folder),
            remedy="use engine=tensorflow, and report this bug in imgpipe",
        ) from error


def _onnx_runtime(content: bytes) -> OnnxNetwork:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return OnnxNetwork(lambda images: dict(zip(names, session.run(names, {IMAGES: images}), strict=True)))


@cache
def _openvino_core() -> Any:
    """Returns OpenVINO's core, which lives as long as this process.

    The thread that first compiles a model gets another stack for signal handlers, which exists as long as the
    core. If the core ended in another thread, the next signal, e.g. SIGTERM, would kill the process whatever
    its handler (src/plugins/intel_cpu/src/plugin.cpp in openvinotoolkit/openvino, SigAltStackSetup).
    """
    import openvino

    return openvino.Core()


def _openvino(engine: Engine, path: Path) -> OnnxNetwork:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": usable_threads(),
        # By default OpenVINO rounds to bfloat16 where the processor has it.
        "INFERENCE_PRECISION_HINT": "bf16" if engine.precision == BFLOAT16 else "f32",
    }
    compiled = _openvino_core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()
    names = [output.any_name for output in compiled.outputs]
    lock = threading.Lock()

    def outputs(images: NDArray[np.uint8]) -> Outputs:
        # Copies: the request's memory is overwritten by the next call.
        with lock:
            results = request.infer({IMAGES: images})
            return {name: np.array(results[name], np.float32) for name in names}

    return OnnxNetwork(outputs)


def _has_bfloat16() -> bool:
    capabilities: Any = _openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities
