"""Defers SIGTERM and Ctrl-C until the running work reaches a point where it can stop."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def defer_termination() -> Iterator[Callable[[], bool]]:
    """Yields a function that returns whether the process received SIGTERM or SIGINT since the block began.

    The first signal is only recorded: the block must check for it and return. A second one is passed to
    the handler that was installed before the block. Outside the main thread, where Python handles no
    signals, the function always returns False.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous: dict[int, Any] = {}

    def record(number: int, frame: FrameType | None) -> None:
        if received and callable(previous[number]):
            previous[number](number, frame)
        received.append(number)

    for name in _SIGNALS:
        previous[name] = signal.signal(name, record)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
