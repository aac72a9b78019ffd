"""Work shared among as many threads as torch has, by kernels that let go of the GIL.

numba's own parallel loops are not used: their compile time is ten times as long, one of their runtimes aborts when two
threads of Python enter it, and another when a process has forked.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

SMALL = 1 << 20
"""Numbers that one thread takes at least: waking another costs a tenth of a millisecond."""

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_workers = 0


def thread_count(numbers: int) -> int:
    """Threads worth using for a pass over so many numbers."""
    return max(1, min(torch.get_num_threads(), numbers // SMALL))


def share(work: Callable[[int, int], object], threads: int) -> None:
    """Call work(i, threads) for every i below `threads`, this thread taking the first; the first error is raised."""
    if threads <= 1:
        work(0, 1)
        return
    others: list[Future[object]] = []
    try:
        pool = _helpers(threads - 1)
        others = [pool.submit(work, i, threads) for i in range(1, threads)]
        work(0, threads)
    finally:
        for other in others:
            other.exception()  # wait for every one: they write into memory that the caller may free
    for other in others:
        other.result()


def _helpers(count: int) -> ThreadPoolExecutor:
    """A pool of at least `count` threads; a smaller one before it ends when its work does."""
    global _pool, _workers
    with _lock:
        if _pool is None or _workers < count:
            _pool, _workers = ThreadPoolExecutor(count, thread_name_prefix="tianwen-scan"), count
        return _pool


def _forget() -> None:
    """A child process has none of its parent's threads."""
    global _pool, _workers, _lock
    _pool, _workers, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
