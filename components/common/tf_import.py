"""Imports TensorFlow without its log output, and Keras with its defaults.

No other module imports them directly.

Use as ``from imgpipe.components.common.tf_import import keras, tf``.
"""

import faulthandler
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from imgpipe.components.common.tpu_plugin import use_tpu_plugin
from imgpipe.components.common.user_settings import (
    KERAS_SETTINGS,
    invalid_keras_settings,
    remove_keras_variables,
)


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


@contextmanager
def _keras_defaults() -> Iterator[None]:
    """Gives Keras the settings that the steps depend on, whatever its environment variables and file say.

    A program that has imported Keras before keeps its own settings.

    Raises:
        InvalidArgumentError: if Keras cannot be imported with its ``keras.json``.
    """
    if "keras" in sys.modules:
        yield
        return
    removed = remove_keras_variables()
    try:
        yield
    except (ValueError, AttributeError, TypeError) as error:
        raise invalid_keras_settings(error) from error
    finally:
        del os.environ["KERAS_BACKEND"]
        os.environ.update(removed)
    keras.config.set_floatx(KERAS_SETTINGS["floatx"])
    keras.config.set_epsilon(KERAS_SETTINGS["epsilon"])
    keras.config.set_image_data_format(KERAS_SETTINGS["image_data_format"])


# Read by TensorFlow's C++ code when it is loaded: 2 = errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
logging.getLogger("tensorflow").setLevel(logging.ERROR)
logging.getLogger("absl").setLevel(logging.ERROR)
use_tpu_plugin()
with buffer_native_stderr(), _hide_scikit_learn(), _keras_defaults():
    import keras
    import tensorflow as tf

__all__ = ["buffer_native_stderr", "keras", "tf"]
