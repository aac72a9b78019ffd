"""The kernels of the level-order tree: built from sorted keys, searched, and walked for many rows at once.

Post: 8802.

Notation (`trie.py` has the layout)
    token [N]  first_child [N + 1]  leaf_rank [N / 64]  leaf_row [u]
    level_ptr [depth + 2]  first node of each level        leaf_ptr [depth + 2]  first leaf of each level
    live [u + 1]  live keys before each key row; empty when all are live
Indices are widened to int64 before arithmetic: numba would turn uint64 + int64 into float64.
"""

from __future__ import annotations

import numpy as np

from tianwen.ask.ragged import kernel

BLOCK = 64
"""Nodes a `leaf_rank` entry stands for."""


@kernel
def count_levels(row_ptr, first, shared):
    """Where the nodes and the leaves of each level begin; key k makes the nodes of levels shared[k] + 1 .. its length."""
    depth = np.int64(0)
    for row in first:
        depth = max(depth, row_ptr[row + 1] - row_ptr[row])
    nodes = np.zeros(depth + 3, np.int64)  # first the change of the number of nodes from level to level
    leaf_ptr = np.zeros(depth + 2, np.int64)
    for k in range(len(first)):
        length = row_ptr[first[k] + 1] - row_ptr[first[k]]
        nodes[shared[k] + 1] += 1
        nodes[length + 1] -= 1
        leaf_ptr[length + 1] += 1
    level_ptr = np.zeros(depth + 2, np.int64)
    level_ptr[1] = 1  # the root is level 0
    width = np.int64(0)
    for level in range(1, depth + 1):
        width += nodes[level]
        level_ptr[level + 1] = level_ptr[level] + width
    for level in range(1, depth + 2):
        leaf_ptr[level] += leaf_ptr[level - 1]
    return level_ptr, leaf_ptr


@kernel
def fill_levels(row_ptr, tokens, first, shared, level_ptr, leaf_ptr, token, first_child, leaf_row):
    """Write the arrays of the tree, key by key; a node's children start where its level's successor stands when it is made."""
    next_node, next_leaf = level_ptr.copy(), leaf_ptr.copy()
    first_child[0] = 1
    for k in range(len(first)):
        start = row_ptr[first[k]]
        length = row_ptr[first[k] + 1] - start
        for level in range(shared[k] + 1, length + 1):
            node = next_node[level]
            next_node[level] += 1
            token[node] = tokens[start + level - 1]
            first_child[node] = next_node[level + 1] if level + 1 < len(next_node) else len(token)
        leaf_row[next_leaf[length]] = k
        next_leaf[length] += 1
    first_child[len(token)] = len(token)


@kernel
def child(token, first_child, node, wanted):
    """The child of `node` by the token `wanted`, -1 if there is none."""
    low, stop = np.int64(first_child[node]), np.int64(first_child[node + 1])
    high = stop
    while low < high:
        middle = (low + high) >> 1
        if np.int64(token[middle]) < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < stop and np.int64(token[low]) == wanted else np.int64(-1)


@kernel
def row_of_leaf(token, leaf_rank, leaf_row, end_id, leaf):
    """Key row of a leaf: leaves before its block, plus those before it in the block."""
    rank = np.int64(leaf_rank[leaf // BLOCK])
    for node in range(leaf - leaf % BLOCK, leaf):
        rank += np.int64(token[node]) == end_id
    return np.int64(leaf_row[rank])


@kernel
def row_range(token, first_child, leaf_rank, leaf_row, end_id, node):
    """The key rows below a node: from its leftmost leaf to its rightmost one; (0, 0) below the root of an empty tree."""
    if node < 0 or len(leaf_row) == 0:
        return np.int64(0), np.int64(0)
    left = right = node
    while np.int64(token[left]) != end_id:
        left = np.int64(first_child[left])
    while np.int64(token[right]) != end_id:
        right = np.int64(first_child[right + 1]) - 1
    low = row_of_leaf(token, leaf_rank, leaf_row, end_id, left)
    high = low if right == left else row_of_leaf(token, leaf_rank, leaf_row, end_id, right)
    return low, high + 1


@kernel
def rows_below(token, first_child, leaf_rank, leaf_row, end_id, state):
    low, high = np.empty(len(state), np.int64), np.empty(len(state), np.int64)
    for i in range(len(state)):
        low[i], high[i] = row_range(token, first_child, leaf_rank, leaf_row, end_id, state[i])
    return low, high


@kernel
def count_children(first_child, state, row_ptr):
    row_ptr[0] = 0
    for i in range(len(state)):
        node = state[i]
        degree = np.int64(0) if node < 0 else np.int64(first_child[node + 1]) - np.int64(first_child[node])
        row_ptr[i + 1] = row_ptr[i] + degree


@kernel
def fill_children(token, first_child, state, row_ptr, out_token, out_state):
    for i in range(len(state)):
        if state[i] >= 0:
            offset = np.int64(first_child[state[i]]) - row_ptr[i]
            for k in range(row_ptr[i], row_ptr[i + 1]):
                out_token[k] = token[k + offset]
                out_state[k] = k + offset


@kernel
def advance_nodes(token, first_child, state, wanted):
    after = np.full(len(state), -1, np.int64)
    for i in range(len(state)):
        if state[i] >= 0:
            after[i] = child(token, first_child, state[i], wanted[i])
    return after


@kernel
def walk_nodes(token, first_child, ids, lengths):
    after = np.zeros(len(lengths), np.int64)
    for i in range(len(lengths)):
        for k in range(lengths[i]):
            after[i] = child(token, first_child, after[i], np.int64(ids[i, k]))
            if after[i] < 0:
                break
    return after


@kernel
def enumerate_below(token, first_child, end_id, state, low, live, owner_ptr, out_leaf, token_ptr, out_token, fill):
    """Depth-first over the leaves below each state until its share of `owner_ptr` is met.

    Called twice: first with `fill` False to write `token_ptr`, then to write `out_token` and `out_leaf`.
    """
    cursor, stop, path = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64, np.int64)
    for i in range(len(state)):
        found, last = owner_ptr[i], owner_ptr[i + 1]
        if found == last:
            continue
        row, depth = low[i], 0
        if np.int64(token[state[i]]) == end_id:  # terminal: nothing follows
            cursor[0], stop[0] = 0, 0
            out_leaf[found] = state[i]
            token_ptr[found + 1] = token_ptr[found]
            continue
        cursor[0], stop[0] = np.int64(first_child[state[i]]), np.int64(first_child[state[i] + 1])
        while found < last:
            if cursor[depth] == stop[depth]:
                depth -= 1
                continue
            node = cursor[depth]
            cursor[depth] += 1
            path[depth] = token[node]
            if path[depth] != end_id:
                depth += 1
                if depth == len(path):
                    cursor, stop = np.append(cursor, cursor), np.append(stop, stop)
                    path = np.append(path, path)
                cursor[depth], stop[depth] = np.int64(first_child[node]), np.int64(first_child[node + 1])
                continue
            if len(live) == 0 or live[row + 1] > live[row]:
                if fill:
                    out_leaf[found] = node
                    for d in range(depth + 1):
                        out_token[token_ptr[found] + d] = path[d]
                else:
                    token_ptr[found + 1] = token_ptr[found] + depth + 1
                found += 1
            row += 1
