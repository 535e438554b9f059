"""Publishes better models while the training goes on."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imgpipe.components.train.evaluation import Evaluation

# Of the training's time, what publishing on the way may take.
_SHARE_OF_TIME = 0.1
# What the first time is taken to cost: TensorFlow traces the model and writes it.
_FIRST_SECONDS = 10.0


class Publisher:
    """Publishes the best model so far, as often as the time allows.

    Args:
        write: ``write(folder, evaluations, best)`` writes the model as its variables are.
        publish: Gets the folder.
    """

    def __init__(
        self,
        write: Callable[[Path, Sequence[Evaluation], Evaluation], None],
        publish: Callable[[Path], object],
    ) -> None:
        self._write, self._publish = write, publish
        self._begun = time.monotonic()
        self._spent, self._last = 0.0, _FIRST_SECONDS

    def is_due(self) -> bool:
        """Whether one more time would stay within the share of the training's time."""
        elapsed = time.monotonic() - self._begun
        return self._spent + self._last <= _SHARE_OF_TIME * elapsed

    def publish(self, evaluations: Sequence[Evaluation], best: Evaluation) -> None:
        """Writes the model as its variables are now, and publishes it."""
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="imgpipe-") as temporary:
            folder = Path(temporary) / "model"
            self._write(folder, evaluations, best)
            self._publish(folder)
        self._last = time.monotonic() - begun
        self._spent += self._last
