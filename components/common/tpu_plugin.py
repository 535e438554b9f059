"""The environment in which TensorFlow uses a TPU v5e: through a plug-in, the library of libtpu.

https://cloud.google.com/tpu/docs/run-calculation-tensorflow
"""

import os
from importlib.util import find_spec
from pathlib import Path

# Set in the jobs that we start on a TPU v5e.
TPU_PLUGIN_VARIABLE = "NEXT_PLUGGABLE_DEVICE_USE_C_API"
_LIBRARY_VARIABLE = "TF_PLUGGABLE_DEVICE_LIBRARY_PATH"
# Set by Google Kubernetes Engine in its pods, e.g. v5litepod-8.
_TYPE_VARIABLE = "TPU_ACCELERATOR_TYPE"


def use_tpu_plugin() -> None:
    """Names the plug-in on a machine with TPU v5e. Call it before TensorFlow is imported."""
    if os.environ.get(_TYPE_VARIABLE, "").startswith("v5lite"):
        os.environ.setdefault(TPU_PLUGIN_VARIABLE, "true")
    package = find_spec("libtpu") if os.environ.get(TPU_PLUGIN_VARIABLE) == "true" else None
    if package is not None and package.origin is not None:
        os.environ.setdefault(_LIBRARY_VARIABLE, str(Path(package.origin).parent / "libtpu.so"))
