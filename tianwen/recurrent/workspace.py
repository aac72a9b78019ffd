"""Large buffers used again: a fresh one costs eight times the arithmetic of a scan, for the kernel must first clear it.

Post: 9554

A buffer is lent as the memory under a tensor. It comes back when the last tensor, view, graph or array that uses it is
gone: torch keeps the numpy array that a tensor was made of, and a weak reference tells when that array dies. Nobody can
hold a buffer that is lent to another. New buffers come from numpy, which asks for huge pages.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import OrderedDict, deque

import numpy as np
import torch
from torch import Tensor

from tianwen.errors import InputError

SMALL = 1 << 20
"""Bytes below which torch's own allocation is as quick."""
ALIGNMENT = 64


class Workspace:
    """Idle buffers by size, the longest idle given up first when there are more than `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.idle_bytes = 0
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, np.ndarray] = OrderedDict()  # by a number that rises with time
        self._number = 0
        self._returned: deque[np.ndarray] = deque()
        self._lent: dict[int, weakref.ref[np.ndarray]] = {}

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor on the CPU with arbitrary content."""
        size = math.prod(shape) * dtype.itemsize
        if size < SMALL:
            return torch.empty(shape, dtype=dtype)
        buffer = self._take(_rounded(size))
        skipped = -buffer.ctypes.data % ALIGNMENT
        lent = buffer[skipped : skipped + size]
        key = id(lent)
        self._lent[key] = weakref.ref(lent, lambda _: self._give_back(key, buffer))
        return torch.from_numpy(lent).view(dtype).view(shape)

    def set_limit(self, limit: int) -> None:
        """Keep at most so many idle bytes from now on."""
        if limit < 0:
            raise InputError(f"A limit is a number of bytes, at least 0; given was {limit}.")
        self.limit = limit
        with self._lock:
            self._sort_in()

    def _take(self, size: int) -> np.ndarray:
        with self._lock:
            self._sort_in()
            for number, buffer in reversed(self._idle.items()):  # the latest, for the cache may still hold it
                if len(buffer) == size + ALIGNMENT:
                    del self._idle[number]
                    self.idle_bytes -= len(buffer)
                    return buffer
        return np.empty(size + ALIGNMENT, np.uint8)

    def _give_back(self, key: int, buffer: np.ndarray) -> None:
        """Called at any moment, even while this thread holds the lock: then the holder, or the next, sorts it in."""
        self._returned.append(buffer)
        self._lent.pop(key, None)
        if self._lock.acquire(blocking=False):
            try:
                self._sort_in()
            finally:
                self._lock.release()

    def _sort_in(self) -> None:
        while self._returned:
            buffer = self._returned.popleft()
            self._idle[self._number] = buffer
            self._number += 1
            self.idle_bytes += len(buffer)
        while self.idle_bytes > self.limit:
            _, oldest = self._idle.popitem(last=False)
            self.idle_bytes -= len(oldest)


def _rounded(size: int) -> int:
    """The next size with four significant bits: sequences of similar lengths can use one another's buffers."""
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step


def _part_of_memory() -> int:
    """A thirty-second of the machine's memory, or 256 MiB where nothing tells how much there is."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 32
    except (AttributeError, ValueError, OSError):
        return 256 << 20


WORKSPACE = Workspace(limit=_part_of_memory())
"""That of all scans on the CPU; `WORKSPACE.set_limit(0)` gives idle memory back."""


def _unlock() -> None:
    """A child process has none of its parent's threads, so nobody would ever let go of a lock that one of them held."""
    WORKSPACE._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)
