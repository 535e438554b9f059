"""Work on several threads with results in order and bounded memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items in work or waiting to be taken, for each thread: enough that a slow item does not hold up the rest.
_WINDOW_PER_THREAD = 4


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[Result, None, None]:
    """Yields ``function(item)`` for every item, in the order of the items, computed on threads.

    At most a few results per thread wait at any time, however many items there are. The first
    exception, in the order of the items, is raised; what was not begun by then is not begun.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="convert")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= threads * _WINDOW_PER_THREAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
