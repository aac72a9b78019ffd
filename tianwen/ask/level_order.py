"""The level-order tree and its kernels: built from sorted keys, then searched and walked for many rows at once.

Post: 8802.

Nodes are numbered level by level, siblings side by side in token order, so an edge's position is its child's number.

Notation
    N nodes, u keys, n rows of a batch, m results of all rows
    level_ptr [depth + 2]  first node of each level        leaf_ptr [depth + 2]  first leaf of each level
    dead [d]               key rows that are deleted, ascending
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt16, UInt32

from tianwen.ask.ragged import SortedRows, filling_kernel, inlined, joined, kernel, pointers, split_tokens
from tianwen.errors import InputError

NONE = np.empty(0, np.int64)
"""No dead rows."""

BLOCK = 64
"""Nodes a `leaf_rank` entry stands for."""


class LevelOrderTree(NamedTuple):
    """A prefix tree as flat arrays, 6 bytes a node and 4 a key; `high` planes are empty unless numbers need them."""

    token: UInt16[np.ndarray, " N"]  # on the edge into each node, lower 16 bits; a node entered by END is a leaf
    token_high: UInt16[np.ndarray, " N_or_0"]  # upper 16 bits, for vocabularies beyond 65,536
    first_child: UInt32[np.ndarray, " N+1"]  # children of node i are first_child[i] .. first_child[i + 1] - 1
    first_child_high: UInt8[np.ndarray, " N+1_or_0"]  # upper 8 bits, beyond 2^32 nodes
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
    token, first_child = np.empty(nodes, np.uint32), np.empty(nodes + 1, np.uint32)
    first_child_high = np.empty(nodes + 1 if nodes >= 2**32 else 0, np.uint8)
    leaf_row = np.empty(len(keys.first), np.uint32)
    token[0] = 0 if end_id else 1  # the root's own token is never read, but must not look like a leaf's
    fill_levels(keys, (level_ptr, leaf_ptr), token, (first_child, first_child_high), leaf_row)
    leaves_by_block = np.add.reduceat(token == end_id, np.arange(0, nodes, BLOCK), dtype=np.int64)
    leaf_rank = pointers(leaves_by_block)[:-1].astype(np.uint32)
    return LevelOrderTree(*split_tokens(token), first_child, first_child_high, leaf_rank, leaf_row, end_id)


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
def fill_levels(keys, level_and_leaf_ptr, token, first_child, leaf_row):
    """Write the nodes key by key; a node's children start where the level below stands when the node is made."""
    next_node, next_leaf = level_and_leaf_ptr[0].copy(), level_and_leaf_ptr[1].copy()
    set_first_child(first_child, 0, np.int64(1))
    for k in range(len(keys.first)):
        start = keys.row_ptr[keys.first[k]]
        length = keys.row_ptr[keys.first[k] + 1] - start
        for level in range(keys.shared[k] + 1, length + 1):
            node = next_node[level]
            next_node[level] += 1
            token[node] = keys.tokens[start + level - 1]
            set_first_child(first_child, node, next_node[level + 1] if level + 1 < len(next_node) else len(token))
        leaf_row[next_leaf[length]] = k
        next_leaf[length] += 1
    set_first_child(first_child, len(token), len(token))


@inlined
def set_first_child(first_child, node, value):
    low, high = first_child
    low[node] = value & 0xFFFFFFFF
    if len(high):
        high[node] = value >> 32


@inlined
def token_of(tree, node):
    return joined(tree.token, tree.token_high, node, 16)


@inlined
def first_of(tree, node):
    """The first child of a node, or where it would stand."""
    return joined(tree.first_child, tree.first_child_high, node, 32)


@filling_kernel
def child(tree, node, wanted):
    """The child of `node` by the token `wanted`, -1 if there is none."""
    low, stop = first_of(tree, node), first_of(tree, node + 1)
    high = stop
    while low < high:
        middle = (low + high) >> 1
        if token_of(tree, middle) < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < stop and token_of(tree, low) == wanted else np.int64(-1)


@filling_kernel
def row_of_leaf(tree, leaf):
    """Key row of a leaf: leaves before its block, plus those before it in the block."""
    rank = np.int64(tree.leaf_rank[leaf // BLOCK])
    for node in range(leaf - leaf % BLOCK, leaf):
        rank += token_of(tree, node) == tree.end_id
    return np.int64(tree.leaf_row[rank])


@filling_kernel
def row_range(tree, node):
    """The key rows below a node, from its leftmost leaf to its rightmost one; none below the root of an empty tree."""
    if node < 0 or len(tree.leaf_row) == 0:
        return np.int64(0), np.int64(0)
    left = right = node
    while token_of(tree, left) != tree.end_id:
        left = first_of(tree, left)
    while token_of(tree, right) != tree.end_id:
        right = first_of(tree, right + 1) - 1
    low = row_of_leaf(tree, left)
    high = low if right == left else row_of_leaf(tree, right)
    return low, high + 1


@filling_kernel
def at_end(tree, state, ended):
    """Whether each state is a leaf."""
    for i in range(len(state)):
        ended[i] = state[i] >= 0 and token_of(tree, state[i]) == tree.end_id


@filling_kernel
def rows_below(tree, state, low, high):
    for i in range(len(state)):
        low[i], high[i] = row_range(tree, state[i])


@filling_kernel
def count_children(tree, state, row_ptr):
    row_ptr[0] = 0
    for i in range(len(state)):
        row_ptr[i + 1] = row_ptr[i]
        if state[i] >= 0:
            row_ptr[i + 1] += first_of(tree, state[i] + 1) - first_of(tree, state[i])


@filling_kernel
def children(tree, state, row_ptr, out_token, out_state):
    for i in range(len(state)):
        if state[i] >= 0:
            offset = first_of(tree, state[i]) - row_ptr[i]
            for k in range(row_ptr[i], row_ptr[i + 1]):
                out_token[k], out_state[k] = token_of(tree, k + offset), k + offset


@filling_kernel
def read(tree, state, ids, lengths):
    """Read ids[i, :lengths[i]] into state[i], in place; a row that meets a token that is not there dies."""
    for i in range(len(state)):
        for k in range(lengths[i]):
            if state[i] >= 0:
                state[i] = child(tree, state[i], ids[i, k])


@kernel
def doubled(values):
    """The same values with as much room again (loops compile several times faster than array functions)."""
    grown = np.empty(2 * len(values), np.int64)
    for k in range(len(values)):
        grown[k] = values[k]
    return grown


@inlined
def first_from(values, least):
    """Place of the first of the ascending values that is at least `least`."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < least:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def enumerate_below(tree, state, low, dead, out):
    """Depth-first over the leaves below each state until its share of `out.owner_ptr` is met.

    Called first with empty `out.tokens` to write the rest of `out`, then to write the tokens.
    """
    cursor, stop, path = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64, np.int64)
    for i in range(len(state)):
        found, last = out.owner_ptr[i], out.owner_ptr[i + 1]
        if found < last and token_of(tree, state[i]) == tree.end_id:  # terminal: the empty completion
            out.terminal[found], out.token_ptr[found + 1] = state[i], out.token_ptr[found]
            continue
        row, depth, next_dead = low[i] - 1, 0, first_from(dead, low[i])
        if found < last:
            cursor[0], stop[0] = first_of(tree, state[i]), first_of(tree, state[i] + 1)
        while found < last:
            if cursor[depth] == stop[depth]:
                depth -= 1
                continue
            node = cursor[depth]
            cursor[depth] += 1
            path[depth] = token_of(tree, node)
            if path[depth] != tree.end_id:
                depth += 1
                if depth == len(path):
                    cursor, stop, path = doubled(cursor), doubled(stop), doubled(path)
                cursor[depth], stop[depth] = first_of(tree, node), first_of(tree, node + 1)
                continue
            row += 1
            if next_dead < len(dead) and dead[next_dead] == row:
                next_dead += 1
                continue
            start = out.token_ptr[found]
            if len(out.tokens):
                for d in range(depth + 1):
                    out.tokens[start + d] = path[d]
            found += 1
            out.terminal[found - 1], out.token_ptr[found] = node, start + depth + 1


def completions(
    tree: LevelOrderTree, state: Int64[np.ndarray, " n"], limit: int, dead: Int64[np.ndarray, " d"]
) -> Completions:
    """The first `limit` leaves below each state that are not dead."""
    low, high = np.empty(len(state), np.int64), np.empty(len(state), np.int64)
    rows_below(tree, state, low, high)
    owner_ptr, cut = shares(low, high, limit, dead)
    terminal, token_ptr = np.empty(owner_ptr[-1], np.int64), np.zeros(owner_ptr[-1] + 1, np.int64)
    out = Completions(owner_ptr, terminal, token_ptr, np.empty(0, np.int32), cut)
    enumerate_below(tree, state, low, dead, out)
    out = out._replace(tokens=np.empty(token_ptr[-1], np.int32))
    enumerate_below(tree, state, low, dead, out)
    return out


def count_live(
    low: Int64[np.ndarray, " n"], high: Int64[np.ndarray, " n"], dead: Int64[np.ndarray, " d"]
) -> Int64[np.ndarray, " n"]:
    """How many of the rows low .. high - 1 are not dead."""
    if len(dead) == 0:
        return high - low
    return high - low - (np.searchsorted(dead, high) - np.searchsorted(dead, low))


def shares(
    low: Int64[np.ndarray, " n"], high: Int64[np.ndarray, " n"], limit: int, dead: Int64[np.ndarray, " d"]
) -> tuple[Int64[np.ndarray, " n+1"], Bool[np.ndarray, " n"]]:
    """Where the first `limit` live rows of each state begin in the listing, and which states have more."""
    if limit < 0:
        raise InputError(f"limit must be at least 0, not {limit}.")
    count = count_live(low, high, dead)
    return pointers(np.minimum(count, limit)), count > limit
