"""Imports TensorFlow without its log output. No other module imports it directly.

Use as ``from imgpipe.components.common.tf_import import keras, tf``.
"""

import faulthandler
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def buffer_native_stderr() -> Iterator[None]:
    """Hides the stderr output of C++ code, and writes it only if the block fails.

    TensorFlow logs notes on oneDNN and CPU features before its log level takes effect, so that only
    redirecting the file descriptor hides them.
    """
    with tempfile.TemporaryFile() as buffer:
        sys.stderr.flush()
        original = os.dup(2)
        # If native code crashes, at least the Python traceback is visible.
        faulthandler.enable(original)
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        except BaseException:
            buffer.seek(0)
            os.write(original, buffer.read())
            raise
        finally:
            os.dup2(original, 2)
            faulthandler.enable(2)
            os.close(original)


@contextmanager
def _hide_scikit_learn() -> Iterator[None]:
    """Makes ``import sklearn`` fail inside the block, unless it has already been imported.

    keras.wrappers imports scikit-learn if it is installed, which adds 2.6 s to every start for an unused
    wrapper. A None entry in sys.modules raises the ImportError that Keras expects.
    """
    hidden = "sklearn" not in sys.modules
    if hidden:
        sys.modules["sklearn"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            sys.modules.pop("sklearn", None)


# Read by TensorFlow's C++ code when it is loaded: 2 = errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
logging.getLogger("tensorflow").setLevel(logging.ERROR)
logging.getLogger("absl").setLevel(logging.ERROR)
with buffer_native_stderr(), _hide_scikit_learn():
    import keras
    import tensorflow as tf

__all__ = ["buffer_native_stderr", "keras", "tf"]
