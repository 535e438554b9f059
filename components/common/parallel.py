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
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    *,
    size_of: Callable[[Item], int] = lambda _: 0,
    bytes_at_most: int = 0,
) -> Generator[Result, None, None]:
    """Yields ``function(item)`` for every item, in the order of the items, computed on threads.

    At most a few results per thread wait at any time, however many items there are. The first
    exception, in the order of the items, is raised; what was not begun by then is not begun.

    Args:
        function: Called on the threads.
        items: Any number of them.
        threads: How many.
        size_of: An item's size in bytes.
        bytes_at_most: While the items that wait have more bytes, only one a thread is taken; 0 = no bound.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="imgpipe")
    pending: deque[tuple[Future[Result], int]] = deque()
    waiting = 0
    try:
        for item in items:
            pending.append((pool.submit(function, item), size_of(item)))
            waiting += pending[-1][1]
            del item
            while len(pending) >= threads * _WINDOW_PER_THREAD or (
                bytes_at_most and waiting > bytes_at_most and len(pending) >= threads
            ):
                future, size = pending.popleft()
                waiting -= size
                yield future.result()
        while pending:
            yield pending.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)
