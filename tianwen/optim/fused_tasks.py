"""Which parameters the compiled loops can step, and how their work is laid out and shared between threads.

Post: 9512, 9736
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tianwen.optim import fused_cpu as k
from tianwen.optim.work import Work

_TYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
_RULES = {"plain": k.PLAIN, "lazy": k.LAZY, "stale": k.STALE}
ALONE_BELOW = 1 << 16
"""Weights in all below which waking other threads costs more than it saves."""

_LOOK_AT_BOTH = (0.0,) * 8  # a least RMS of 0: squares are wanted
_LOOK_AT_G = (0.0,) * k.FLOOR + (-1.0, 0.0)

_pool: ThreadPoolExecutor | None = None


def can_step(work: Work) -> bool:
    """Whether the loops can do this: dense float32 or float64 on the CPU, all tensors laid out alike."""
    theta, grad, m = work.theta, work.grad, work.momentum
    return (
        grad is not None
        and work.update != "adam"
        and work.shards is None
        and theta.dtype in _TYPES
        and theta.device.type == "cpu"
        and type(grad) is Tensor
        and grad.dtype == theta.dtype == m.dtype
        and grad.shape == theta.shape == m.shape
        and grad.layout == torch.strided
        and grad.device == theta.device == m.device
        and not grad.is_neg()
        and _same_layout(work)
        and _ages_fit(work)
    )


def _same_layout(work: Work) -> bool:
    theta, grad, m = work.theta, work.grad, work.momentum
    assert grad is not None
    if theta.is_contiguous() and grad.is_contiguous() and m.is_contiguous():
        return True
    return not work.by_rows and theta.stride() == grad.stride() == m.stride() and _dense(theta)


def _ages_fit(work: Work) -> bool:
    """Whether the loops may write into the ages."""
    if work.update == "plain":
        return True
    age = work.state["age"]
    return age.dtype == torch.int32 and age.shape == work.theta.shape[:1] and age.is_contiguous()


def _dense(tensor: Tensor) -> bool:
    """No gaps and no overlaps: some order of the axes makes it contiguous."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def step_together(works: Sequence[Work], blends: Sequence[tuple[float, float]], *, move: bool) -> list[bool]:
    """One micro-step of each; gives whether its gradient was finite. Those where it was not are unchanged."""
    good = [True] * len(works)
    for dtype, numbers in _by_type(works).items():
        before, tables = _Tables(dtype), _Tables(dtype)
        large = [number for number in numbers if works[number].theta.numel() > k.WHOLE]
        for number in large:
            squares = move and _rms_of_all(works[number])
            how = _LOOK_AT_BOTH if squares else _LOOK_AT_G
            before.add(k.MEASURE, works[number], how=how, move=squares, piece=k.PIECE)
        for number, (squares, finite) in zip(large, before.run(), strict=True):
            good[number] = finite
            if finite:
                _add_pieces(tables, works[number], blends[number], move=move, squares=squares)
        pieced = len(tables.where)
        small = [number for number in numbers if works[number].theta.numel() <= k.WHOLE]
        for number in small:
            tables.add(k.MEASURE_AND_STEP, works[number], how=_how(works[number], blends[number]), move=move)
        for number, (_, finite) in zip(small, tables.run()[pieced:], strict=True):
            good[number] = finite
    done = [work for work, finite in zip(works, good, strict=True) if finite]
    if move:
        # The loops write behind torch's back; a graph that still needs the old weights must hear of it.
        torch.autograd.graph.increment_version([work.parameter for work in done])
    for work in done:
        work.state["open"] = 0 if move else 1
    return good


def _by_type(works: Sequence[Work]) -> dict[torch.dtype, list[int]]:
    found: dict[torch.dtype, list[int]] = {}
    for number, work in enumerate(works):
        if work.theta.numel():
            found.setdefault(work.theta.dtype, []).append(number)
    return found


def _rms_of_all(work: Work) -> bool:
    """Whether the rate needs the root mean square of the whole tensor."""
    return work.group["relative"] and work.kind == "matrix"


def _add_pieces(tables: _Tables, work: Work, blends: tuple[float, float], *, move: bool, squares: float) -> None:
    """All of a tensor that was found finite, to be stepped piece by piece."""
    width = _width(work)
    how = list(_how(work, blends))
    how[k.RATE] = work.rate_of(squares)
    piece = max(1, k.PIECE // width) * width if width else k.PIECE
    tables.add(k.STEP, work, how=tuple(how), move=move, piece=piece)


class _Tables:
    """Tasks of one type of number, see `fused_cpu`; a tensor is a line until they are run, then cut into pieces."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.like = np.empty(0, _TYPES[dtype])
        self.where: list[tuple[int, ...]] = []
        self.how: list[tuple[float, ...]] = []
        self.pieces: list[int] = []

    def add(self, op: int, work: Work, *, how: tuple[float, ...], move: bool = False, piece: int | None = None) -> None:
        """A tensor, in pieces of so many numbers (whole rows where rows count), or whole."""
        assert work.grad is not None
        size, width = work.theta.numel(), _width(work)
        where = (
            op,
            work.theta.data_ptr(),
            work.momentum.data_ptr(),
            work.grad.data_ptr(),
            size,
            move,
            size // width if width else 0,
            width,
            work.state["age"].data_ptr() if work.update != "plain" else 0,
            _RULES[work.update],
            work.kind == "embedding" and work.group["relative"],
        )
        self.where.append(where)
        self.how.append(how)
        self.pieces.append(piece or size)

    def run(self) -> list[tuple[float, bool]]:
        """Do all tasks, on as many threads as torch uses. Gives (sum of squares, finite) of each line added."""
        if not self.where:
            return []
        where, starts, counts = self._cut()
        how = np.repeat(np.array(self.how, dtype=np.float64), counts, axis=0)
        found = np.zeros((len(where), 2))
        threads = torch.get_num_threads() if where[:, k.SIZE].sum() > ALONE_BELOW else 1
        batches = deque(_batches(where[:, k.SIZE], 1 if threads == 1 else 8 * threads))

        def work_off() -> None:
            while batches:
                try:
                    first, last = batches.popleft()
                except IndexError:  # another thread was faster
                    return
                k._run(where, how, found, first, last, self.like)

        helpers = [_threads().submit(work_off) for _ in range(min(threads, len(batches)) - 1)]
        try:
            work_off()
        finally:  # also after Ctrl-C: nobody may free what the helpers still write into
            wait(helpers)
        for helper in helpers:
            helper.result()
        squares, bad = np.add.reduceat(found, starts, axis=0).T.tolist()
        return [(s, b == 0) for s, b in zip(squares, bad, strict=True)]

    def _cut(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The lines cut into pieces [pieces, columns], the first piece of each line [lines], their number [lines]."""
        lines, piece = np.array(self.where, dtype=np.int64), np.array(self.pieces, dtype=np.int64)
        counts = -(-lines[:, k.SIZE] // piece)
        starts = np.cumsum(counts) - counts
        where = np.repeat(lines, counts, axis=0)
        begin = (np.arange(len(where)) - np.repeat(starts, counts)) * np.repeat(piece, counts)
        for column in (k.THETA, k.M, k.G):
            where[:, column] += begin * self.like.itemsize
        width = np.maximum(where[:, k.WIDTH], 1)
        where[:, k.AGE] += 4 * (begin // width)  # int32
        where[:, k.SIZE] = np.minimum(where[:, k.SIZE] - begin, np.repeat(piece, counts))
        where[:, k.ROWS] = where[:, k.SIZE] // width
        return where, starts, counts


def _how(work: Work, blends: tuple[float, float]) -> tuple[float, ...]:
    group = work.group
    look, beta = blends
    first = work.update != "plain" or not work.state["open"]  # embedding rules decide row by row
    keep, take = beta if first else 1.0, (1 - beta) * work.share
    same = look == beta
    floor = group["rms_floor"] if group["relative"] and work.kind in ("matrix", "embedding") else -1.0
    return (
        keep,
        take,
        keep if same else look,
        take if same else (1 - look) * work.share,
        work.rate,
        work.weight_decay,
        floor,
        math.log(beta) if beta else -math.inf,
    )


def _width(work: Work) -> int:
    """Numbers in a row where rows count, else 0."""
    return work.theta.numel() // work.theta.shape[0] if work.by_rows else 0


def _batches(sizes: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Ranges of tasks of about equal size in all."""
    ends = np.cumsum(sizes)
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count) + 1
    bounds = [0, *sorted({int(cut) for cut in cuts} - {len(sizes)}), len(sizes)]
    return [(a, b) for a, b in pairwise(bounds) if a < b]


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="optimiser")
    return _pool


def _forget_threads() -> None:
    """A forked process has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
