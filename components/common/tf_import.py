"""Imports TensorFlow without its chatter; the only place that imports it.

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
    """Keeps what C++ code writes to stderr off the terminal, and shows it after all if the block fails.

    TensorFlow logs its notes on oneDNN and CPU features before its log level is in force, so that
    only the file descriptor itself can hold them back.
    """
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        original = os.dup(2)
        # If the native code ends the process, the place at least is told.
        faulthandler.enable(original)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(original, held.read())
            raise
        finally:
            os.dup2(original, 2)
            faulthandler.enable(2)
            os.close(original)


@contextmanager
def _scikit_learn_hidden() -> Iterator[None]:
    """Makes ``import sklearn`` fail inside the block, if nobody has imported it yet.

    keras.wrappers imports scikit-learn when it is there, which costs 2.6 s of every start for a
    wrapper that nothing here uses. A None entry fails in the way that Keras expects.
    """
    hidden = "sklearn" not in sys.modules
    if hidden:
        sys.modules["sklearn"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            sys.modules.pop("sklearn", None)


# Read by TensorFlow's C++ side when it loads: 2 leaves errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
logging.getLogger("tensorflow").setLevel(logging.ERROR)
logging.getLogger("absl").setLevel(logging.ERROR)
with buffer_native_stderr(), _scikit_learn_hidden():
    import keras
    import tensorflow as tf

__all__ = ["buffer_native_stderr", "keras", "tf"]
