"""Making the next batches in a thread while the model works on this one.

Batches are a pure function of their index, so making them early changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tianwen.training.data_order import BatchSource

Take = Callable[[int], Any]
"""From the index of a global batch to this process's part of it."""


@contextmanager
def made_ahead(source: BatchSource, *, rank: int, world: int, depth: int) -> Iterator[Take]:
    """A function index -> batch that has up to `depth` following batches in the making; 0 makes each when asked."""
    if depth == 0:
        yield lambda index: source.batch(index, rank, world)
        return
    waiting: dict[int, Future[Any]] = {}
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def take(index: int) -> Any:
        for wanted in range(index, index + depth + 1):
            if wanted not in waiting:
                waiting[wanted] = pool.submit(source.batch, wanted, rank, world)
        for old in [key for key in waiting if key < index or key > index + depth]:
            waiting.pop(old).cancel()  # after a jump back
        return waiting.pop(index).result()

    try:
        yield take
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
