"""Facts that come sorted by key, each once: what is equal has equal keys, so it stands together.

Post: 8802

A record is a fact: its head is its key, or begins it; its body begins with `Layout.key` bytes of the key's rest, and
what stands from `Layout.skip` on - the numbers of its names, its object - tells whether two facts are equal. Keys with
so many facts that a block does not hold them are sorted once more, by the hash of that.

Notation
    n  records of a block      t  bytes of their bodies
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from tianwen.ask.external_sort import NOTHING, Block, Sorter
from tianwen.ask.ragged import kernel, pointers
from tianwen.ask.scratch import Scratch

LARGE = 2**24
"""Bytes of the facts of one key from which on they are sorted on disk."""

_ROWS = 10_000
_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # of the hash FNV-1a


class Layout(NamedTuple):
    """Where the parts of a body begin."""

    key: int
    skip: int


Marked = tuple[Block, Bool[np.ndarray, " n"]]
"""Facts, and which of them did not come before."""


def first_comings(blocks: Iterator[Block], layout: Layout, scratch: Scratch, memory: int) -> Iterator[Marked]:
    """Mark the facts that did not come before; all facts of a key come together, but for keys that are LARGE."""
    waiting = NOTHING
    for given in blocks:
        block = waiting.then(given) if len(waiting.head) else given
        stop = last_key(block.head, block.ptr, block.body, layout.key)
        if stop == 0 and len(block.body) > LARGE:
            many = _ManyFacts(block, layout, scratch, memory)
            waiting = many.take_all(blocks)
            yield from many.marked()
            continue
        if stop:
            yield marked(block.part(0, stop), layout)
        rest = block.part(stop, len(block.head))
        waiting = Block(rest.head.copy(), rest.ptr, rest.body.copy())
    if len(waiting.head):
        yield marked(waiting, layout)


def marked(block: Block, layout: Layout) -> Marked:
    """A block with all facts of its keys."""
    new = np.ones(len(block.head), np.bool_)
    table = np.full(1 << (2 * len(new)).bit_length(), -1, np.int32)
    mark_repeated(block.head, block.ptr, block.body, layout, table, np.empty(len(new), np.uint64), new)
    return block, new


@kernel
def _equal(body, a, b, size):
    k = 0
    while k < size and body[a + k] == body[b + k]:
        k += 1
    return k == size


@kernel
def _same_key(head, ptr, body, a, b, key):
    if head[a] != head[b]:
        return False
    return _equal(body, ptr[a], ptr[b], key)


@kernel
def last_key(head, ptr, body, key):
    """Where the facts of the last key begin."""
    first = len(head) - 1
    while first > 0 and _same_key(head, ptr, body, first - 1, len(head) - 1, key):
        first -= 1
    return first


@kernel
def _hash(body, start, stop):
    value = _OFFSET
    for k in range(start, stop):
        value = (value ^ np.uint64(body[k])) * _PRIME
    return value


@kernel
def mark_repeated(head, ptr, body, layout, table, hashes, new):
    """Unmark each fact that is equal to an earlier one; `table` is a hash table with room for all, -1 where empty."""
    mask = np.uint64(len(table) - 1)
    count = len(head)
    for i in range(count):
        alone = i == 0 or not _same_key(head, ptr, body, i - 1, i, layout.key)
        if alone and (i + 1 == count or not _same_key(head, ptr, body, i, i + 1, layout.key)):
            continue
        start = ptr[i] + layout.skip
        size = ptr[i + 1] - start
        hashes[i] = _hash(body, start, ptr[i + 1])
        slot = (hashes[i] ^ (hashes[i] >> np.uint64(32))) & mask
        while table[slot] >= 0:
            j = table[slot]
            other = ptr[j] + layout.skip
            if hashes[j] == hashes[i] and ptr[j + 1] - other == size and _equal(body, other, start, size):
                new[i] = False
                break
            slot = (slot + np.uint64(1)) & mask
        if new[i]:
            table[slot] = i


class _ManyFacts:
    """The facts of one key, too many to be compared in memory."""

    def __init__(self, block: Block, layout: Layout, scratch: Scratch, memory: int) -> None:
        self._head = block.head[0]
        self._key = block.body[: layout.key].copy()
        self._layout = layout
        self._sizes = scratch.spool("many-sizes", np.uint32)
        self._bodies = scratch.spool("many-bodies", np.uint8)
        self._sorter = Sorter(scratch, "many", memory=memory, by_body=True)
        self._longest = 0
        self._take(block)

    def take_all(self, blocks: Iterator[Block]) -> Block:
        """Take the facts of the key from the blocks; those of other keys that came with the last of them."""
        for block in blocks:
            stop = first_of_other_key(block.head, block.ptr, block.body, self._head, self._key)
            self._take(block.part(0, stop))
            if stop < len(block.head):
                rest = block.part(stop, len(block.head))
                return Block(rest.head.copy(), rest.ptr, rest.body.copy())
        return NOTHING

    def _take(self, block: Block) -> None:
        count, first = len(block.head), len(self._sizes)
        sizes = np.diff(block.ptr)
        self._sizes.append(sizes)
        self._bodies.append(block.body)
        # For the sort: length, what is compared, place; so equal facts stand together, in the order of their coming.
        ptr = pointers(sizes - self._layout.skip + 16)
        head, body = np.empty(count, np.uint64), np.empty(int(ptr[-1]), np.uint8)
        comparable(block.ptr, block.body, self._layout.skip, first, head, ptr, body)
        self._longest = max(self._longest, int(np.diff(ptr).max(initial=0)))
        self._sorter.add(Block(head, ptr, body))

    def marked(self) -> Iterator[Marked]:
        """The facts taken, in the order of their coming."""
        new = np.ones(len(self._sizes), np.bool_)
        last, size = np.zeros(self._longest, np.uint8), np.zeros(1, np.int64)
        for block in self._sorter.sorted():
            unmark_equal(block.ptr, block.body, last, size, new)
        at = 0
        for start in range(0, len(new), _ROWS):
            stop = min(start + _ROWS, len(new))
            ptr = pointers(self._sizes.read(start, stop))
            body = self._bodies.read(at, at + int(ptr[-1]))
            at += int(ptr[-1])
            yield Block(np.full(stop - start, self._head), ptr, body), new[start:stop]
        self._sizes.remove()
        self._bodies.remove()


@kernel
def first_of_other_key(head, ptr, body, wanted, key):
    """The first fact with another key, or how many there are."""
    for i in range(len(head)):
        if head[i] != wanted:
            return i
        for k in range(len(key)):
            if body[ptr[i] + k] != key[k]:
                return i
    return len(head)


@kernel
def comparable(ptr, body, skip, first, out_head, out_ptr, out):
    """Records that stand together where facts are equal."""
    for i in range(len(out_head)):
        start, stop = ptr[i] + skip, ptr[i + 1]
        out_head[i] = _hash(body, start, stop)
        at = out_ptr[i]
        for k in range(8):
            out[at + k] = ((stop - start) >> (8 * (7 - k))) & 0xFF
        at += 8
        for k in range(start, stop):
            out[at] = body[k]
            at += 1
        for k in range(8):
            out[at + k] = ((first + i) >> (8 * (7 - k))) & 0xFF


@kernel
def unmark_equal(ptr, body, last, last_size, new):
    """Unmark each fact that is equal to the one before; `last` and its size go on from block to block."""
    for i in range(len(ptr) - 1):
        start, size, same = ptr[i], ptr[i + 1] - ptr[i] - 8, 0
        while same < size and same < last_size[0] and body[start + same] == last[same]:
            same += 1
        if same == size == last_size[0]:
            place = np.int64(0)
            for k in range(start + size, ptr[i + 1]):
                place = place << 8 | np.int64(body[k])
            new[place] = False
        else:
            last[:size] = body[start : start + size]
            last_size[0] = size
