"""Labeled images in, the most accurate SavedModel out: the Python API, for scripts and notebooks.

    import imgpipe

    run = imgpipe.run(images="flowers/")
    print(run.metrics["top_1_accuracy"])

    model = imgpipe.load(run.model)
    print(model.predict("photo.jpg"))

``run``, ``tune``, ``convert``, ``validate`` and ``audit`` do the same as the commands and steps of these
names, with the same code: each step is a separate process; only ``load`` and ``Run.predictions`` import
TensorFlow here.

Stability: the names in ``__all__``, their parameters and attributes, and ``imgpipe.errors`` are public. What
breaks them is deprecated, with a warning, for at least one minor version. ``imgpipe.components`` and
``imgpipe.pipelines`` are internal and may change in any release.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgpipe import errors as errors
    from imgpipe._data import Audit, Dataset, Validation, audit, convert, validate
    from imgpipe._model import Model, Prediction, load
    from imgpipe._report import Report
    from imgpipe._run import Run, run, tune

__all__ = [
    "Audit",
    "Dataset",
    "Model",
    "Prediction",
    "Report",
    "Run",
    "Validation",
    "audit",
    "convert",
    "errors",
    "load",
    "run",
    "tune",
    "validate",
]

_MODULES = {
    **dict.fromkeys(("Audit", "Dataset", "Validation", "audit", "convert", "validate"), "imgpipe._data"),
    **dict.fromkeys(("Model", "Prediction", "load"), "imgpipe._model"),
    "Report": "imgpipe._report",
    **dict.fromkeys(("Run", "run", "tune"), "imgpipe._run"),
}

try:
    __version__ = version("image-classification-pipeline")
except PackageNotFoundError:
    # A checkout that is not installed.
    __version__ = "0+unknown"


if not TYPE_CHECKING:
    # Every step imports this package: the API and its dependencies are loaded when they are used.
    def __getattr__(name):
        if name == "errors":
            return import_module("imgpipe.errors")
        if name in _MODULES:
            public = getattr(import_module(_MODULES[name]), name)
            # The name to import it by, as tracebacks and help show it.
            public.__module__ = "imgpipe"
            return public
        raise AttributeError(f"module 'imgpipe' has no attribute {name!r}")

    def __dir__():
        return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__", "__version__"])
