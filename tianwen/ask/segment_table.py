"""All segments of a union for one kernel: the addresses of each tree's arrays and of what is deleted in it.

Post: 8802

A kernel cannot loop over a tuple of trees, and a dozen arrays a tree as arguments would cost more than a step; it can
loop over the rows of a table of numbers (see `addresses`).

Notation
    k segments      table  int64 [k, NUMBERS], one row a segment
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from tianwen.ask.addresses import addresses, array_at
from tianwen.ask.dead_rows import NOTHING_DEAD, Dead, Marked
from tianwen.ask.field_rows import FactTree
from tianwen.ask.level_order import LevelOrderTree
from tianwen.ask.ragged import inlined

NUMBERS = 36


class SegmentTable:
    """Segments of one union. Keeps alive what its table has the addresses of."""

    def __init__(self, trees: Sequence[FactTree], dead: Sequence[Dead] | None = None) -> None:
        """`dead[i]`: what is deleted of tree i; nothing without it."""
        self.trees = list(trees)
        self.dead = [NOTHING_DEAD] * len(self.trees) if dead is None else list(dead)
        self.table = np.stack([_row(tree, gone) for tree, gone in zip(self.trees, self.dead, strict=True)])

    @property
    def are_catalogues(self) -> bool:
        """Whether all are plain catalogues."""
        return all(len(tree.subject_ptr) == 0 for tree in self.trees)

    @property
    def are_facts(self) -> bool:
        """Whether all are facts."""
        return all(len(tree.subject_ptr) > 0 for tree in self.trees)


def as_fact_tree(tree: FactTree | LevelOrderTree) -> FactTree:
    """A plain catalogue as a tree of facts whose leaves open no rows, so that one kernel serves both."""
    if isinstance(tree, FactTree):
        return tree
    empty = [np.empty(0, dtype) for dtype in (np.uint32, np.uint8, np.uint32, np.uint16, np.uint16)]
    return FactTree(*tree, *empty, pair_bytes=1, sense_bits=0, predicates=0)


def _row(tree: FactTree, dead: Dead) -> Int64[np.ndarray, " numbers"]:
    marked = [(addresses((part.number, part.block_ptr)), [part.shift]) for part in dead]
    numbers = np.array([tree.end_id, *tree[12:]], np.int64)
    arrays = addresses((*tree[:6], *tree[7:12]))
    return np.concatenate([arrays, numbers, *marked[0], *marked[1]]).astype(np.int64)


@inlined
def tree_at(row):
    """The tree of a row of the table."""
    return FactTree(
        array_at(row[0], row[1], np.uint16),
        array_at(row[2], row[3], np.uint16),
        array_at(row[4], row[5], np.uint32),
        array_at(row[6], row[7], np.uint8),
        array_at(row[8], row[9], np.uint32),
        array_at(row[10], row[11], np.uint32),
        row[22],
        array_at(row[12], row[13], np.uint32),
        array_at(row[14], row[15], np.uint8),
        array_at(row[16], row[17], np.uint32),
        array_at(row[18], row[19], np.uint16),
        array_at(row[20], row[21], np.uint16),
        row[23],
        row[24],
        row[25],
    )


@inlined
def dead_at(row):
    """What is deleted in the segment of a row of the table."""
    return Dead(
        Marked(array_at(row[26], row[27], np.int64), array_at(row[28], row[29], np.int64), row[30]),
        Marked(array_at(row[31], row[32], np.int64), array_at(row[33], row[34], np.int64), row[35]),
    )
