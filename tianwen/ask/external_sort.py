"""Sorting more records than memory holds: sorted runs on disk, merged as a stream.

Post: 8802 (whose facts are sorted by their keys once, when the tree is built)

A record is a number, its head, and some bytes, its body. Records are sorted by head; equal heads by body, byte by byte,
where `by_body` says so (no body may then be the beginning of another); what is equal stays in the order of its coming.

    1. records fill a buffer; when it is full they are sorted there and appended to three files, as one more run:
       heads (8 bytes), sizes of bodies (4 bytes) and bodies
    2. the runs are merged by a heap of their first records. The files are mapped; of each run a window ahead is asked
       for and what was read is let go, so that no more than the windows need be in memory

Everything is written once and read once, from one end of a run to the other, whatever the order of the records was.

Notation
    n  records of a block      t  bytes of their bodies      r  runs
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer, UInt8, UInt64

from tianwen.ask.ragged import kernel, pointers, sort_ties
from tianwen.ask.scratch import Scratch, Spool

BLOCK_BYTES = 4 * 2**20
"""Bytes of bodies that are handed over together."""

LEAST = 2**20
"""No buffer is smaller than this many bytes."""

_A_RECORD = 8 + 8 + 8 + 8 + 8 + 8  # head, start of the body, their order, and what sorting and gathering need besides
_WINDOW = 2**20
_LEAST_WINDOW = 2**16
_KEEPS = getattr(mmap, "MADV_WILLNEED", None), getattr(mmap, "MADV_DONTNEED", None)


class Block(NamedTuple):
    """Records one after the other: record i is head[i] with body[ptr[i] : ptr[i + 1]]."""

    head: UInt64[np.ndarray, " n"]
    ptr: Int64[np.ndarray, " n+1"]
    body: UInt8[np.ndarray, " t"]

    def part(self, start: int, stop: int) -> Block:
        """The records start .. stop - 1."""
        first, last = self.ptr[start], self.ptr[stop]
        return Block(self.head[start:stop], self.ptr[start : stop + 1] - first, self.body[first:last])

    def then(self, other: Block) -> Block:
        """These records and then others, copied."""
        return Block(
            np.concatenate([self.head, other.head]),
            np.concatenate([self.ptr, other.ptr[1:] + self.ptr[-1]]),
            np.concatenate([self.body, other.body]),
        )


NOTHING = Block(np.empty(0, np.uint64), np.zeros(1, np.int64), np.empty(0, np.uint8))


class Sorter:
    """Takes records in any order and gives them sorted; `memory` is what it may hold of them, in bytes."""

    def __init__(self, scratch: Scratch, name: str, *, memory: int, by_body: bool = False) -> None:
        self.by_body = by_body
        self.memory = max(memory, LEAST)
        self._files = [scratch.spool(f"{name}-{part}", kind) for part, kind in _FILES]
        # Room that is not used costs nothing: the system gives memory by the page, at its first use.
        self._head = np.empty(self.memory // _A_RECORD + 1, np.uint64)
        self._ptr = np.zeros(len(self._head) + 1, np.int64)
        self._body = np.empty(self.memory, np.uint8)
        self._waiting = 0
        self._ends: list[tuple[int, int]] = [(0, 0)]  # records and bytes of bodies written at the end of each run

    @property
    def runs(self) -> int:
        """How many runs have been written."""
        return len(self._ends) - 1

    def add(self, block: Block) -> None:
        """Some more records."""
        start = 0
        while start < len(block.head):
            stop = self._fitting(block, start)
            if stop == start:
                if self._waiting:
                    self._write_run()
                    continue
                stop = start + 1  # one record that is larger than all the memory
                self._body = np.empty(int(block.ptr[stop] - block.ptr[start]), np.uint8)
            self._take(block.part(start, stop))
            start = stop

    def _fitting(self, block: Block, start: int) -> int:
        """Up to which record there is room, from `start` on."""
        used = int(self._ptr[self._waiting]) + self._waiting * _A_RECORD
        room = self.memory - used
        costs = block.ptr[start:] - block.ptr[start]
        many = int(np.searchsorted(costs + np.arange(len(costs)) * _A_RECORD, room, side="right")) - 1
        return start + max(0, min(many, len(self._head) - self._waiting))

    def _take(self, block: Block) -> None:
        at, count, used = self._waiting, len(block.head), int(self._ptr[self._waiting])
        self._head[at : at + count] = block.head
        self._ptr[at + 1 : at + count + 1] = block.ptr[1:] + used
        self._body[used : used + len(block.body)] = block.body
        self._waiting += count

    def _write_run(self) -> None:
        """Sort what waits and append it to the files."""
        head, ptr, body = self._head[: self._waiting], self._ptr[: self._waiting + 1], self._body
        order = np.argsort(head, kind="stable")
        if self.by_body:
            sort_ties(order, head[order], ptr, body, 0)
        heads, sizes, bodies = self._files
        step = max(1, BLOCK_BYTES // max(1, int(ptr[-1]) // len(head) + 12))
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            size = ptr[rows + 1] - ptr[rows]
            gathered = np.empty(int(size.sum()), np.uint8)
            _gather(rows, ptr, body, gathered)
            heads.append(head[rows])
            sizes.append(size)
            bodies.append(gathered)
        self._ends.append((len(heads), len(bodies)))
        self._waiting = 0

    def sorted(self) -> Iterator[Block]:
        """All records in order, in blocks that are overwritten when the next one is asked for. To be called once."""
        if self._waiting:
            self._write_run()
        self._head, self._ptr, self._body = NOTHING.head, NOTHING.ptr, NOTHING.body
        if self.runs:
            yield from _Merge(self._files, self._ends, self.by_body, self.memory).blocks()
        for file in self._files:
            file.remove()


_FILES = (("heads", np.uint64), ("sizes", np.uint32), ("bodies", np.uint8))


class _Merge:
    """The runs of three files, `ends` of which tell where each run ends."""

    def __init__(self, files: list[Spool], ends: list[tuple[int, int]], by_body: bool, memory: int) -> None:
        mapped = [file.map() for file in files]
        self._arrays = tuple(array for array, _ in mapped)
        self._maps = [content for _, content in mapped]
        bounds = np.array(ends, np.int64)  # [r + 1, 2]
        self._at, self._end = bounds[:-1, 0].copy(), bounds[1:, 0].copy()
        self._body_at, self._body_end = bounds[:-1, 1].copy(), bounds[1:, 1].copy()
        self._by_body = by_body
        self._window = int(np.clip(memory // (4 * len(self._at)), _LEAST_WINDOW, _WINDOW))
        self._let_go = [self._at.copy(), self._at.copy(), self._body_at.copy()]

    def blocks(self) -> Iterator[Block]:
        heads, sizes, bodies = self._arrays
        records = max(1, BLOCK_BYTES // 32)
        head, ptr, body = np.empty(records, np.uint64), np.zeros(records + 1, np.int64), np.empty(BLOCK_BYTES, np.uint8)
        heap = np.arange(len(self._at))
        cursor = (self._at, self._end, self._body_at)
        left = make_heap(heap, cursor, (heads, sizes, bodies), self._by_body)
        while left:
            self._read_ahead()
            count, left = merge(heap, left, cursor, (heads, sizes, bodies), self._by_body, (head, ptr, body))
            if count:
                yield Block(head[:count], ptr[: count + 1], body[: ptr[count]])
            else:  # one body is larger than the block
                body = np.empty(int(sizes[self._at[heap[0]]]), np.uint8)

    def _read_ahead(self) -> None:
        """Ask for a window of each run, and let go of what has been read of it."""
        will_need, do_not_need = _KEEPS
        if will_need is None or do_not_need is None:  # Windows
            return
        places = ((self._at, self._end, 8), (self._at, self._end, 4), (self._body_at, self._body_end, 1))
        for content, gone, (at, end, size) in zip(self._maps, self._let_go, places, strict=True):
            if content is None:
                continue
            window = self._window * size // 8 if size > 1 else self._window
            for run in range(len(at)):
                start, stop = int(at[run]) * size, min(int(at[run]) * size + window, int(end[run]) * size)
                before = int(gone[run]) * size // mmap.PAGESIZE * mmap.PAGESIZE
                start -= start % mmap.PAGESIZE
                if start > before:
                    content.madvise(do_not_need, before, start - before)
                    gone[run] = at[run]
                if stop > start:
                    content.madvise(will_need, start, stop - start)


@kernel
def _gather(rows, ptr, body, out):
    at = 0
    for row in rows:
        for i in range(ptr[row], ptr[row + 1]):
            out[at] = body[i]
            at += 1


@kernel
def _first_of(a, b, cursor, files, by_body):
    """Whether run a's next record comes before run b's."""
    at, _, body_at = cursor
    heads, sizes, bodies = files
    i, j = at[a], at[b]
    if heads[i] != heads[j]:
        return heads[i] < heads[j]
    if by_body:
        p, q = body_at[a], body_at[b]
        for k in range(min(sizes[i], sizes[j])):
            if bodies[p + k] != bodies[q + k]:
                return bodies[p + k] < bodies[q + k]
    return a < b


@kernel
def _sink(heap, left, place, cursor, files, by_body):
    """Let a run whose record has changed sink to its place in the heap."""
    run = heap[place]
    while True:
        child = 2 * place + 1
        if child >= left:
            break
        if child + 1 < left and _first_of(heap[child + 1], heap[child], cursor, files, by_body):
            child += 1
        if not _first_of(heap[child], run, cursor, files, by_body):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = run


@kernel
def make_heap(heap, cursor, files, by_body):
    """Order the runs by their first records; how many of them there are."""
    for place in range(len(heap) // 2 - 1, -1, -1):
        _sink(heap, len(heap), place, cursor, files, by_body)
    return len(heap)


@kernel
def merge(heap, left, cursor, files, by_body, out):
    """Fill a block with the records that come next; how many, and how many runs are left."""
    at, end, body_at = cursor
    heads, sizes, bodies = files
    out_head, out_ptr, out_body = out
    count, used = 0, 0
    while left > 0 and count < len(out_head):
        run = heap[0]
        size = np.int64(sizes[at[run]])
        if used + size > len(out_body):
            break
        out_head[count] = heads[at[run]]
        source = body_at[run]
        for k in range(size):
            out_body[used + k] = bodies[source + k]
        used += size
        count += 1
        out_ptr[count] = used
        at[run] += 1
        body_at[run] += size
        if at[run] == end[run]:
            left -= 1
            heap[0] = heap[left]
        if left > 0:
            _sink(heap, left, 0, cursor, files, by_body)
    return count, left


def of_arrays(head: Integer[np.ndarray, " n"], fields: list[np.ndarray]) -> Block:
    """Records whose bodies are one number each of some arrays, as their bytes stand in memory."""
    body = np.concatenate(
        [np.ascontiguousarray(field).view(np.uint8).reshape(len(head), -1) for field in fields], axis=1
    )
    return Block(head.astype(np.uint64), pointers(np.full(len(head), body.shape[1])), body.reshape(-1))  # [n * bytes]
