"""The deleted rows of a segment, and the nodes below which nothing else is left: found once, not at every step.

Post: 8802 (which rebuilds the whole tree for every change).

A step must not offer a token below which every row is deleted. To count the rows below each child would be to go down
to its first and its last leaf; but whoever stands at a node that is alive only has to know which of its children are
not, and these are few: a node below whose parent something lives is dead itself once for some deleted row or other.

Notation
    d  deleted rows      e <= d  dead nodes whose parent is not dead (and maybe some below them)
    where, what  a state of the segment, see `field_rows`
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from tianwen.ask.field_rows import FactTree, unpack
from tianwen.ask.level_order import NONE, doubled, first_of, row_of_leaf, token_of
from tianwen.ask.ragged import inlined, kernel

MOST_BLOCKS = 2**12
"""So many parts, at least, the range of the marked numbers is divided into: 32 kB that stay near the processor."""


class Marked(NamedTuple):
    """Some numbers, ascending, of which those in any short range are found in about two looks."""

    number: Int64[np.ndarray, " d"]
    block_ptr: Int64[np.ndarray, " blocks+1"]  # numbers b << shift .. ((b + 1) << shift) - 1 begin at block_ptr[b]
    shift: int

    @classmethod
    def of(cls, number: Int64[np.ndarray, " d"]) -> Marked:
        """Index ascending, distinct numbers."""
        if not len(number):
            return cls(NONE, np.zeros(1, np.int64), 0)
        shift = max(0, int(number[-1]).bit_length() - MOST_BLOCKS.bit_length() + 1)
        block_ptr = np.zeros((int(number[-1]) >> shift) + 2, np.int64)
        np.cumsum(np.bincount(number >> shift), out=block_ptr[1:])
        return cls(np.ascontiguousarray(number, np.int64), block_ptr, shift)


class Dead(NamedTuple):
    """What is deleted of one segment."""

    row: Marked
    node: Marked

    @classmethod
    def of(cls, tree: FactTree, row: Int64[np.ndarray, " d"], before: Dead | None = None) -> Dead:
        """The deleted rows (ascending, distinct) of a tree; `before`: what was known when there were fewer of them."""
        if not len(row):
            return NOTHING_DEAD
        known = NOTHING_DEAD if before is None else before
        marked = Marked.of(row)
        new = np.empty(len(row) - len(known.row.number), np.int64)
        count = find_dead_nodes(tree, marked, known.row.number, new)
        return cls(marked, Marked.of(np.union1d(known.node.number, new[:count])))


NOTHING_DEAD = Dead(Marked.of(NONE), Marked.of(NONE))


@inlined
def first_marked(marked, least):
    """Place of the first marked number that is at least `least`."""
    block = least >> marked.shift
    if block + 1 >= len(marked.block_ptr):
        return np.int64(len(marked.number))
    low, high = marked.block_ptr[block], marked.block_ptr[block + 1]
    while low < high:
        middle = (low + high) >> 1
        if marked.number[middle] < least:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def is_dead(dead, where, what):
    """Whether a state whose parent is alive has deleted rows only below it."""
    if what == 0:
        place = first_marked(dead.node, where)
        return place < len(dead.node.number) and dead.node.number[place] == where
    count = unpack(what)[2]
    last = first_marked(dead.row, where) + count - 1  # where the last row would stand if all were deleted
    return last < len(dead.row.number) and dead.row.number[last] == where + count - 1


@kernel
def first_row(tree, node):
    """The first key row below a node."""
    while token_of(tree, node) != tree.end_id:
        node = first_of(tree, node)
    row = row_of_leaf(tree, node)
    return np.int64(tree.subject_ptr[row]) if len(tree.subject_ptr) else row


@kernel
def find_dead_nodes(tree, dead, known, out):
    """Write the topmost nodes that are dead because of rows that are not among the `known` ones; how many there are.

    Down the tree along one row after the other. The path to the row before is kept, and since rows ascend, each of its
    nodes goes on among its brothers: child[d] is a child of the d-th node of the path, child_stop[d] the end of them.
    """
    child, child_stop, row_stop = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64, np.int64)
    child[0], child_stop[0] = first_of(tree, np.int64(0)), first_of(tree, np.int64(1))
    row_stop[0] = len(tree.pair) // tree.pair_bytes if len(tree.subject_ptr) else len(tree.leaf_row)
    depth, found, next_known, passed = 0, 0, 0, np.int64(0)
    for at in range(len(dead.number)):
        row = dead.number[at]
        if next_known < len(known) and known[next_known] == row:
            next_known += 1
            continue
        if row < passed:  # below the node that was looked at last
            continue
        while depth > 0 and row >= row_stop[depth]:
            depth -= 1
        while True:
            step = np.int64(1)  # doubling, then halving
            low, stop = child[depth], child_stop[depth]
            while low + step < stop and first_row(tree, low + step) <= row:
                low += step
                step *= 2
            high = min(low + step, stop)
            while high - low > 1:
                middle = (low + high) >> 1
                if first_row(tree, middle) <= row:
                    low = middle
                else:
                    high = middle
            child[depth] = low
            first = first_row(tree, low)
            behind = first_row(tree, low + 1) if low + 1 < stop else row_stop[depth]
            passed = behind
            if first_marked(dead, behind) - first_marked(dead, first) == behind - first:
                out[found] = low
                found += 1
                break
            if token_of(tree, low) == tree.end_id:
                break
            depth += 1
            if depth == len(child):
                child, child_stop, row_stop = doubled(child), doubled(child_stop), doubled(row_stop)
            child[depth], child_stop[depth] = first_of(tree, low), first_of(tree, low + 1)
            row_stop[depth] = behind
    return found
