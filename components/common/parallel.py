"""Runs a function on several threads, with results in order and bounded memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Running and finished items per thread: enough that one slow item does not stall the others.
_WINDOW_PER_THREAD = 4


def group_items(
    items: Iterable[Item], size_of: Callable[[Item], int], *, max_items: int = 16, max_bytes: int = 500_000
) -> Iterator[list[Item]]:
    """Groups small items, so that the overhead of a thread pool is small compared with the work.

    Args:
        items: Any number of items.
        size_of: Returns an item's size in bytes.
        max_items: The largest number of items in a group.
        max_bytes: A group ends when it has reached this size.
    """
    group: list[Item] = []
    size = 0
    for item in items:
        group.append(item)
        size += size_of(item)
        if len(group) >= max_items or size >= max_bytes:
            yield group
            group, size = [], 0
    if group:
        yield group


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    *,
    size_of: Callable[[Item], int] = lambda _: 0,
    max_pending_bytes: int = 0,
) -> Generator[Result, None, None]:
    """Yields ``function(item)`` for every item, in the order of the items, computed on threads.

    Unlike ``Executor.map``, it keeps only a few pending results per thread, however many items there are.
    The first exception, in the order of the items, is raised; items not started by then are skipped.

    Args:
        function: Called on the threads.
        items: Any number of items.
        threads: The number of threads.
        size_of: Returns an item's size in bytes.
        max_pending_bytes: While pending items exceed this size, there is only one item per thread; 0 = no
            limit.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="imgpipe")
    pending: deque[tuple[Future[Result], int]] = deque()
    pending_bytes = 0
    try:
        for item in items:
            pending.append((pool.submit(function, item), size_of(item)))
            pending_bytes += pending[-1][1]
            del item
            while len(pending) >= threads * _WINDOW_PER_THREAD or (
                max_pending_bytes and pending_bytes > max_pending_bytes and len(pending) >= threads
            ):
                future, size = pending.popleft()
                pending_bytes -= size
                yield future.result()
        while pending:
            yield pending.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)


def run_in_parallel(function: Callable[[Item], object], items: Iterable[Item], threads: int) -> None:
    """Calls the function for every item, on threads; raises like ``map_in_order``."""
    for _ in map_in_order(function, items, threads):
        pass
