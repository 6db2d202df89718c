"""Work in threads, in order, ahead of its use but in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from blurcli.base.threads import own_cores

Item = TypeVar("Item")
Made = TypeVar("Made")

_WAITING_BYTES = 1 << 28


def ahead(
    make: Callable[[Item], Made],
    items: Iterable[Item],
    bytes_of: Callable[[Item], int] = lambda item: 0,
    workers: int | None = None,
    waiting_per_worker: int = 8,
) -> Generator[Made, None, None]:
    """`map(make, items)`, in order, computed by threads ahead of use.

    Args:
        make: called in the threads; threads are useful if it releases Python's lock, as Pillow and NumPy do.
        items: iterated in the caller's thread.
        bytes_of: memory of an item and its result until the result is used; in total at most 256 MiB, or one item.
        workers: number of threads; None for one per core of this process.
        waiting_per_worker: finished results per thread that may wait, so that one slow item does not block the others.
    """
    workers = workers or own_cores()
    waiting: deque[tuple[int, Future[Made]]] = deque()
    held = 0
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                size = bytes_of(item)
                while waiting and (len(waiting) >= workers * waiting_per_worker or held + size > _WAITING_BYTES):
                    yield waiting[0][1].result()
                    held -= waiting.popleft()[0]
                waiting.append((size, pool.submit(make, item)))
                held += size
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            # After an error, or when the caller stops, the remaining results are not needed.
            pool.shutdown(cancel_futures=True)
