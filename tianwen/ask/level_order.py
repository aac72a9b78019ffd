"""The level-order tree and its kernels: built from sorted keys, then searched and walked for many rows at once.

Post: 8802.

Nodes are numbered level by level, siblings side by side in token order, so an edge's position is its child's number.

Notation
    N nodes, u keys, n rows of a batch, m results of all rows
    level_ptr [depth + 2]  first node of each level        leaf_ptr [depth + 2]  first leaf of each level
    live [u + 1]           live keys before each key row; empty when all are live
Numbers from the arrays are widened to int64 before arithmetic: numba would turn uint64 + int64 into float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer, UInt, UInt32

from tianwen.ask.ragged import SortedRows, kernel, pointers, token_dtype
from tianwen.errors import InputError

BLOCK = 64
"""Nodes a `leaf_rank` entry stands for."""


class LevelOrderTree(NamedTuple):
    """A prefix tree as flat arrays; 6 bytes a node, and 4 a key."""

    token: UInt[np.ndarray, " N"]  # on the edge into each node (2 bytes, 4 for large vocabularies); END makes a leaf
    first_child: UInt[np.ndarray, " N+1"]  # children of i: first_child[i] .. first_child[i + 1] - 1 (4 bytes, or 8)
    leaf_rank: UInt32[np.ndarray, " blocks"]  # leaves before every 64th node
    leaf_row: UInt32[np.ndarray, " u"]  # key row (rank in key order) of each leaf, leaves in node order
    end_id: int


class Completions(NamedTuple):
    """Every entry below each of n states, in key order within a state."""

    owner_ptr: Int64[np.ndarray, " n+1"]  # completions of state i are owner_ptr[i] .. owner_ptr[i + 1] - 1
    terminal: Int64[np.ndarray, " m *parts"]  # the state at the end of each completion
    token_ptr: Int64[np.ndarray, " m+1"]
    tokens: Int32[np.ndarray, " t"]  # what follows below the state, END included
    cut: Bool[np.ndarray, " n"]  # whether the limit left entries of this state out


def build_tree(keys: SortedRows, end_id: int) -> LevelOrderTree:
    """The tree over sorted, closed, distinct sequences."""
    level_ptr, leaf_ptr = count_levels(keys)
    nodes = int(level_ptr[-1])
    token = np.zeros(nodes, token_dtype(max(end_id, int(keys.tokens.max(initial=0)))))
    token[0] = 0 if end_id else 1  # the root's own token is never read, but must not look like a leaf's
    first_child = np.empty(nodes + 1, np.uint32 if nodes < 2**32 else np.uint64)
    tree = LevelOrderTree(token, first_child, np.empty(0, np.uint32), np.empty(len(keys.first), np.uint32), end_id)
    fill_levels(tree, keys, level_ptr, leaf_ptr)
    leaves_by_block = np.add.reduceat(token == end_id, np.arange(0, nodes, BLOCK), dtype=np.int64)
    return tree._replace(leaf_rank=pointers(leaves_by_block)[:-1].astype(np.uint32))


@kernel
def count_levels(keys):
    """Where the nodes and leaves of each level begin; key k makes the nodes of levels shared[k] + 1 .. its length."""
    depth = np.int64(0)
    for row in keys.first:
        depth = max(depth, keys.row_ptr[row + 1] - keys.row_ptr[row])
    change = np.zeros(depth + 3, np.int64)  # of the number of nodes from level to level
    leaf_ptr = np.zeros(depth + 2, np.int64)
    for k in range(len(keys.first)):
        length = keys.row_ptr[keys.first[k] + 1] - keys.row_ptr[keys.first[k]]
        change[keys.shared[k] + 1] += 1
        change[length + 1] -= 1
        leaf_ptr[length + 1] += 1
    level_ptr = np.zeros(depth + 2, np.int64)
    level_ptr[1] = 1  # the root is level 0
    width = np.int64(0)
    for level in range(1, depth + 1):
        width += change[level]
        level_ptr[level + 1] = level_ptr[level] + width
    for level in range(1, depth + 2):
        leaf_ptr[level] += leaf_ptr[level - 1]
    return level_ptr, leaf_ptr


@kernel
def fill_levels(tree, keys, level_ptr, leaf_ptr):
    """Write the nodes key by key; a node's children start where the level below stands when the node is made."""
    token, first_child = tree.token, tree.first_child
    next_node, next_leaf = level_ptr.copy(), leaf_ptr.copy()
    first_child[0] = 1
    for k in range(len(keys.first)):
        start = keys.row_ptr[keys.first[k]]
        length = keys.row_ptr[keys.first[k] + 1] - start
        for level in range(keys.shared[k] + 1, length + 1):
            node = next_node[level]
            next_node[level] += 1
            token[node] = keys.tokens[start + level - 1]
            first_child[node] = next_node[level + 1] if level + 1 < len(next_node) else len(token)
        tree.leaf_row[next_leaf[length]] = k
        next_leaf[length] += 1
    first_child[len(token)] = len(token)


@kernel
def child(tree, node, wanted):
    """The child of `node` by the token `wanted`, -1 if there is none."""
    low, stop = np.int64(tree.first_child[node]), np.int64(tree.first_child[node + 1])
    high = stop
    while low < high:
        middle = (low + high) >> 1
        if np.int64(tree.token[middle]) < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < stop and np.int64(tree.token[low]) == wanted else np.int64(-1)


@kernel
def row_of_leaf(tree, leaf):
    """Key row of a leaf: leaves before its block, plus those before it in the block."""
    rank = np.int64(tree.leaf_rank[leaf // BLOCK])
    for node in range(leaf - leaf % BLOCK, leaf):
        rank += np.int64(tree.token[node]) == tree.end_id
    return np.int64(tree.leaf_row[rank])


@kernel
def row_range(tree, node):
    """The key rows below a node, from its leftmost leaf to its rightmost one; none below the root of an empty tree."""
    if node < 0 or len(tree.leaf_row) == 0:
        return np.int64(0), np.int64(0)
    left = right = node
    while np.int64(tree.token[left]) != tree.end_id:
        left = np.int64(tree.first_child[left])
    while np.int64(tree.token[right]) != tree.end_id:
        right = np.int64(tree.first_child[right + 1]) - 1
    low = row_of_leaf(tree, left)
    high = low if right == left else row_of_leaf(tree, right)
    return low, high + 1


@kernel
def rows_below(tree, state):
    low, high = np.empty(len(state), np.int64), np.empty(len(state), np.int64)
    for i in range(len(state)):
        low[i], high[i] = row_range(tree, state[i])
    return low, high


@kernel
def count_children(tree, state):
    row_ptr = np.zeros(len(state) + 1, np.int64)
    for i in range(len(state)):
        row_ptr[i + 1] = row_ptr[i]
        if state[i] >= 0:
            row_ptr[i + 1] += np.int64(tree.first_child[state[i] + 1]) - np.int64(tree.first_child[state[i]])
    return row_ptr


@kernel
def children(tree, state):
    row_ptr = count_children(tree, state)
    token, after = np.empty(row_ptr[-1], np.int32), np.empty(row_ptr[-1], np.int64)
    for i in range(len(state)):
        if state[i] >= 0:
            offset = np.int64(tree.first_child[state[i]]) - row_ptr[i]
            for k in range(row_ptr[i], row_ptr[i + 1]):
                token[k], after[k] = tree.token[k + offset], k + offset
    return row_ptr, token, after


@kernel
def read(tree, state, ids, lengths):
    """Read ids[i, :lengths[i]] into state[i], in place; a row that meets a token that is not there dies."""
    for i in range(len(state)):
        for k in range(lengths[i]):
            if state[i] >= 0:
                state[i] = child(tree, state[i], ids[i, k])


@kernel
def enumerate_below(tree, state, low, live, out, fill):
    """Depth-first over the leaves below each state until its share of `out.owner_ptr` is met.

    Called first with `fill` False to write `out.terminal` and `out.token_ptr`, then to write `out.tokens`.
    """
    cursor, stop, path = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64, np.int64)
    for i in range(len(state)):
        found, last = out.owner_ptr[i], out.owner_ptr[i + 1]
        if found < last and np.int64(tree.token[state[i]]) == tree.end_id:  # terminal: the empty completion
            out.terminal[found], out.token_ptr[found + 1] = state[i], out.token_ptr[found]
            continue
        row, depth = low[i], 0
        if found < last:
            cursor[0], stop[0] = np.int64(tree.first_child[state[i]]), np.int64(tree.first_child[state[i] + 1])
        while found < last:
            if cursor[depth] == stop[depth]:
                depth -= 1
                continue
            node = cursor[depth]
            cursor[depth] += 1
            path[depth] = tree.token[node]
            if path[depth] != tree.end_id:
                depth += 1
                if depth == len(path):
                    cursor, stop, path = np.append(cursor, cursor), np.append(stop, stop), np.append(path, path)
                cursor[depth], stop[depth] = np.int64(tree.first_child[node]), np.int64(tree.first_child[node + 1])
                continue
            row += 1
            if len(live) and live[row] == live[row - 1]:
                continue
            if fill:
                start = out.token_ptr[found]
                for d in range(depth + 1):
                    out.tokens[start + d] = path[d]
            out.terminal[found], out.token_ptr[found + 1] = node, out.token_ptr[found] + depth + 1
            found += 1


def completions(
    tree: LevelOrderTree,
    state: Int64[np.ndarray, " n"],
    limit: int,
    live: Integer[np.ndarray, " u+1"] | None,
) -> Completions:
    """The first `limit` live leaves below each state."""
    low, high = rows_below(tree, state)
    owner_ptr, cut, live = shares(low, high, limit, live)
    out = Completions(
        owner_ptr,
        np.empty(owner_ptr[-1], np.int64),
        np.zeros(owner_ptr[-1] + 1, np.int64),
        np.empty(0, np.int32),
        cut,
    )
    enumerate_below(tree, state, low, live, out, False)
    out = out._replace(tokens=np.empty(out.token_ptr[-1], np.int32))
    enumerate_below(tree, state, low, live, out, True)
    return out


def shares(
    low: Int64[np.ndarray, " n"],
    high: Int64[np.ndarray, " n"],
    limit: int,
    live: Integer[np.ndarray, " u+1"] | None,
) -> tuple[Int64[np.ndarray, " n+1"], Bool[np.ndarray, " n"], Int64[np.ndarray, " any"]]:
    """Where each state's first `limit` live rows begin, where the limit cuts, and `live` as kernels take it."""
    if limit < 0:
        raise InputError(f"limit must be at least 0, not {limit}.")
    live = np.empty(0, np.int64) if live is None else np.ascontiguousarray(live, np.int64)
    count = high - low if len(live) == 0 else live[high] - live[low]
    return pointers(np.minimum(count, limit)), count > limit, live
