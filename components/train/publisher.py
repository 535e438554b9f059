"""Publishes better models during the training."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imgpipe.components.train.evaluation import Evaluation

# The fraction of the training's time that publishing may take.
_MAX_TIME_FRACTION = 0.1
# The estimated cost of publishing for the first time: TensorFlow traces the model and writes it.
_FIRST_SECONDS = 10.0


class Publisher:
    """Publishes the best model so far, as often as the time allows.

    Args:
        write: ``write(folder, evaluations, best)`` writes the model with its current weights.
        publish: Called with the folder.

    Attributes:
        published_step: The step of the last published model; None if there is none.
    """

    published_step: int | None = None

    def __init__(
        self,
        write: Callable[[Path, Sequence[Evaluation], Evaluation], None],
        publish: Callable[[Path], object],
    ) -> None:
        self._write, self._publish = write, publish
        self._started = time.monotonic()
        self._spent, self._last = 0.0, _FIRST_SECONDS

    def is_due(self) -> bool:
        """Whether publishing again would stay within the fraction of the training's time."""
        elapsed = time.monotonic() - self._started
        return self._spent + self._last <= _MAX_TIME_FRACTION * elapsed

    def publish(self, evaluations: Sequence[Evaluation], best: Evaluation) -> None:
        """Writes the model with its current weights and publishes it."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="imgpipe-") as temporary:
            folder = Path(temporary) / "model"
            self._write(folder, evaluations, best)
            self._publish(folder)
        self._last = time.monotonic() - started
        self._spent += self._last
        self.published_step = best.step
