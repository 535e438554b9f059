"""Being told to stop (SIGTERM, Ctrl-C) while work goes on that wants to end at a place of its own."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_STOPPED_BY = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def defer_termination() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether the process was told to stop since the block began.

    The first signal is only noted: the block looks at it and leaves by itself. A second one has the
    effect that it had before the block. Outside the main thread, where Python handles no signals,
    the answer is always no.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if noted and callable(previous[number]):
            previous[number](number, frame)
        noted.append(number)

    for stopping in _STOPPED_BY:
        previous[stopping] = signal.signal(stopping, note)
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
