"""Work on several threads with results in order and bounded memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items in work or waiting to be taken, for each thread: enough that a slow item does not hold up the rest.
_WINDOW_PER_THREAD = 4


def batches(
    items: Iterable[Item], size_of: Callable[[Item], int], *, most: int = 16, bytes_at_most: int = 500_000
) -> Iterator[list[Item]]:
    """Gathers small items, so that handing them to a thread costs little beside the work on them.

    Args:
        items: Any number of them.
        size_of: An item's size in bytes.
        most: A batch has no more items.
        bytes_at_most: A batch ends when it has so many bytes.
    """
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if len(batch) >= most or size >= bytes_at_most:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Generator[Result, None, None]:
    """Yields ``function(item)`` for every item, in the order of the items, computed on threads.

    At most a few results per thread wait at any time, however many items there are. The first
    exception, in the order of the items, is raised; what was not begun by then is not begun.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="imgpipe")
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
