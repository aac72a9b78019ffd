"""The arrays of a fact tree written straight into their files, from names that are sorted on disk.

Post: 8802

The layout is that of `level_order` and `fielded`. Nodes of one level are made in the order of the names, so each level
of the tree is written from its beginning to its end: as many places grow as there are levels, and memory need hold no
more than those.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tianwen.ask.external_sort import BLOCK_BYTES
from tianwen.ask.fielded import check_name_table
from tianwen.ask.level_order import BLOCK, set_first_child
from tianwen.ask.names_on_disk import SortedNames
from tianwen.ask.ragged import kernel
from tianwen.ask.scratch import ArrayWriter, Scratch, array_file

_PIECE = 2**18
_PLANE = 2**16


def write_level_order(folder: Path, prefix: str, names: SortedNames, end_id: int) -> None:
    """The files of a `LevelOrderTree` over some names."""
    change, leaves = np.zeros(names.longest + 3, np.int64), np.zeros(names.longest + 2, np.int64)
    for length, shared, _ in _pieces(names, with_tokens=False):
        _count(length, shared, change, leaves)
    level_ptr = np.zeros(names.longest + 2, np.int64)
    level_ptr[1:] = np.cumsum(np.concatenate([[1], np.cumsum(change[1 : names.longest + 1])]))  # the root is level 0
    nodes, high = int(level_ptr[-1]), names.highest >= _PLANE

    def file(name: str, kind: type[np.generic], count: int) -> np.ndarray:
        return array_file(folder / f"{prefix}{name}.npy", kind, count)

    token, token_high = file("token", np.uint16, nodes), file("token_high", np.uint16, nodes if high else 0)
    first_child = file("first_child", np.uint32, nodes + 1)
    first_child_high = file("first_child_high", np.uint8, nodes + 1 if nodes >= 2**32 else 0)
    leaf_row = file("leaf_row", np.uint32, names.different)
    tree = (token, token_high, (first_child, first_child_high), leaf_row)
    token[0] = 0 if end_id else 1  # the root's own token is never read, but must not look like a leaf's
    set_ends((first_child, first_child_high), nodes)
    state = (level_ptr, np.cumsum(leaves), np.zeros(1, np.int64))
    for length, shared, tokens in _pieces(names, with_tokens=True):
        _fill(length, shared, tokens, state, tree)
    rank = file("leaf_rank", np.uint32, -(-nodes // BLOCK))
    _rank_leaves(token, token_high, end_id, rank)
    np.save(folder / f"{prefix}end_id.npy", np.array([end_id], np.int64))


def _pieces(names: SortedNames, *, with_tokens: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Lengths, shared prefixes and, if wanted, tokens of some names at a time."""
    at, step = 0, max(1, min(_PIECE, BLOCK_BYTES // (4 * names.longest)))
    for start in range(0, names.different, step):
        stop = min(start + step, names.different)
        length, shared = names.length.read(start, stop), names.shared.read(start, stop)
        total = int(length.sum(dtype=np.int64)) if with_tokens else 0
        yield length, shared, names.tokens.read(at, at + total)
        at += total


@kernel
def _count(length, shared, change, leaves):
    """How the number of nodes changes from level to level, and how many leaves stand before each level."""
    for k in range(len(length)):
        change[shared[k] + 1] += 1
        change[length[k] + 1] -= 1
        leaves[length[k] + 1] += 1


@kernel
def set_ends(first_child, nodes):
    """The first node's children begin at 1, those of the node behind the last at the end."""
    set_first_child(first_child, 0, np.int64(1))
    set_first_child(first_child, nodes, np.int64(nodes))


@kernel
def _fill(length, shared, tokens, state, tree):
    """Write the nodes of some names; a node's children start where the level below stands when the node is made."""
    next_node, next_leaf, row = state
    token, token_high, first_child, leaf_row = tree
    start = 0
    for k in range(len(length)):
        size = np.int64(length[k])
        for level in range(np.int64(shared[k]) + 1, size + 1):
            node = next_node[level]
            next_node[level] += 1
            value = tokens[start + level - 1]
            token[node] = value & 0xFFFF
            if len(token_high):
                token_high[node] = value >> 16
            set_first_child(first_child, node, next_node[level + 1])
        leaf_row[next_leaf[size]] = row[0]
        next_leaf[size] += 1
        row[0] += 1
        start += size


@kernel
def _rank_leaves(token, token_high, end_id, rank):
    """Leaves before every 64th node."""
    count = 0
    for node in range(len(token)):
        if node % BLOCK == 0:
            rank[node // BLOCK] = count
        value = np.int64(token[node])
        if len(token_high):
            value |= np.int64(token_high[node]) << 16
        count += value == end_id


def write_name_table(folder: Path, kinds: tuple[SortedNames, SortedNames], scratch: Scratch) -> None:
    """The files of the table of predicates and senses."""
    total = sum(len(names.tokens) for names in kinds)
    check_name_table(total, max(names.longest for names in kinds))
    high = max(names.highest for names in kinds) >= _PLANE
    name_ptr = ArrayWriter(folder / "name_ptr.npy", np.uint32, scratch)
    planes = [ArrayWriter(folder / f"{name}.npy", np.uint16, scratch) for name in ("name_token", "name_token_high")]
    name_ptr.append(np.zeros(1, np.uint32))
    at = 0
    for names in kinds:
        for length in names.length.pieces(_PIECE):
            ends = np.cumsum(length, dtype=np.int64) + at
            at = int(ends[-1])
            name_ptr.append(ends)
        for tokens in names.tokens.pieces(_PIECE):
            planes[0].append(tokens & 0xFFFF)
            if high:
                planes[1].append(tokens >> 16)
    for writer in (name_ptr, *planes):
        writer.finish()
