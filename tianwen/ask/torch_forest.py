"""Prefix trees as tensors: one sorted list of edges, in which a child is found by one search, on any device.

Post: 8802.

Nodes are numbered in level order, siblings in token order. So the numbers (parent << bits) + token ascend over all
nodes, and `torch.searchsorted` finds the children of any number of nodes in one call, where halving step by step would
take some hundred. Several trees stand one behind the other, each closed by one slot without a token.

Notation
    N slots (the nodes of all trees and one more each), u leaves of the first tree
    node      integers of any shape, -1 for none; numbers of the first tree are those of its `LevelOrderTree`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from tianwen.ask.level_order import LevelOrderTree
from tianwen.errors import InputError

MOST_NARROW = 2**31 - 1
"""The greatest number that is kept in an int32."""

MOST_WIDE = 2**63 - 1

Device = str | torch.device


class Leaves(NamedTuple):
    """The leaves of the first tree in node order, and the key rows low .. high - 1 that each stands for."""

    node: Int[Tensor, " u"]
    low: Int[Tensor, " u"]
    high: Int[Tensor, " u"]


class Lists(NamedTuple):
    """Where the candidates for each state's children stand: all children of a node, or for facts also rows."""

    first: Int64[Tensor, " *shape"]
    length: Int64[Tensor, " *shape"]
    by_row: Bool[Tensor, " *shape"] | None

    def of(self, owner: Int64[Tensor, " m"]) -> Lists:
        """The lists of the owners."""
        return Lists(self.first[owner], self.length[owner], None if self.by_row is None else self.by_row[owner])


class Forest(NamedTuple):
    """Trees side by side; see the module's notation."""

    edge: Int[Tensor, " N"]  # (parent << bits) + token; before each root the greatest number that no search finds
    first_child: Int[Tensor, " N"]  # the slot behind a tree's last node has that tree's end
    leaves: Leaves
    bits: int  # of a token; all of them set is no token
    end_id: int
    greatest: int  # of all tokens, END included
    depth: int  # of the first tree
    widest: int  # the most children of a node of the first tree, but for its root

    def token(self, node: Int64[Tensor, " *shape"]) -> Int64[Tensor, " *shape"]:
        """The token on the edge into each node, which must not be -1."""
        return self.edge[node].long() & ((1 << self.bits) - 1)

    def parent(self, node: Int64[Tensor, " *shape"]) -> Int64[Tensor, " *shape"]:
        """The parent of each node, none of which is a root."""
        return self.edge[node].long() >> self.bits

    def span(self, node: Int64[Tensor, " *shape"]) -> tuple[Int64[Tensor, " *shape"], Int64[Tensor, " *shape"]]:
        """The first child of each node and how many there are; none of node -1."""
        there = node.clamp(min=0)
        first = self.first_child[there].long()
        return first, torch.where(node >= 0, self.first_child[there + 1] - first, 0)

    def child(self, node: Int64[Tensor, " *shape"], token: Int64[Tensor, " *shape"]) -> Int64[Tensor, " *shape"]:
        """The child of each node by the token, -1 if there is none."""
        possible = (node >= 0) & (token >= 0) & (token <= self.greatest)
        wanted = torch.where(possible, (node << self.bits) + token, 0)
        found = place(self.edge, wanted).clamp(max=len(self.edge) - 1)
        return torch.where(possible & (self.edge[found] == wanted), found, -1)

    def rows_of_leaf(self, node: Int64[Tensor, " *shape"]) -> tuple[Int64[Tensor, " *shape"], Int64[Tensor, " *shape"]]:
        """The key rows low .. high - 1 of each leaf of the first tree; anything for other nodes."""
        rank = place(self.leaves.node, node).clamp(max=len(self.leaves.node) - 1)
        return self.leaves.low[rank].long(), self.leaves.high[rank].long()

    def rows(self, node: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """The key rows low .. high - 1 below each node of the first tree; 0, 0 for node -1."""
        ends = node.clamp(min=0).expand(2, -1)  # [2, n]: on the way to the leftmost leaf, and to the rightmost one
        side = torch.arange(2, device=node.device)[:, None]
        for _ in range(self.depth):
            ends = torch.where(self.is_leaf(ends), ends, self.first_child[ends + side] - side)
        low, high = self.rows_of_leaf(ends)
        return torch.where(node >= 0, low[0], 0), torch.where(node >= 0, high[1], 0)

    def is_leaf(self, node: Int64[Tensor, " *shape"]) -> Bool[Tensor, " *shape"]:
        """Whether each node is entered by END."""
        return (node >= 0) & (self.token(node.clamp(min=0)) == self.end_id)


def forest_of(trees: Sequence[LevelOrderTree], key_ptr: np.ndarray | None, device: Device) -> Forest:
    """The forest of some trees with one END; leaf i of the first one opens rows key_ptr[leaf_row[i]] .. of the next.

    Without `key_ptr` a leaf is one row. Raises InputError where nodes and tokens do not fit one integer of 63 bits.
    """
    tokens = [joined(tree.token, tree.token_high, 16) for tree in trees]
    end_id = trees[0].end_id
    greatest = max(end_id, *(int(values[1:].max(initial=0)) for values in tokens))
    bits = (greatest + 1).bit_length()  # so that all of them set is no token
    edges, firsts, start = [], [], 0
    for tree, values in zip(trees, tokens, strict=True):
        first = joined(tree.first_child, tree.first_child_high, 32)
        edge = np.empty(len(first), np.int64)
        edge[1:-1] = (np.repeat(np.arange(len(values)), np.diff(first)) + start << bits) + values[1:]
        edge[0], edge[-1] = (start << bits) - 1, (start + len(values) + 1 << bits) - 1
        edges.append(edge)
        firsts.append(first + start)
        start += len(first)
    if start << bits > MOST_WIDE:
        raise InputError(f"{start} nodes and tokens up to {greatest} are more than 63 bits. Use the tree on the CPU.")
    return Forest(
        tensor(np.concatenate(edges), start << bits, device),
        tensor(np.concatenate(firsts), start, device),
        _leaves(trees[0], tokens[0], key_ptr, device),
        bits,
        end_id,
        greatest,
        _depth(firsts[0]),
        int(np.diff(firsts[0][1:]).max(initial=0)),
    )


def _leaves(tree: LevelOrderTree, tokens: np.ndarray, key_ptr: np.ndarray | None, device: Device) -> Leaves:
    node = np.flatnonzero(tokens == tree.end_id)
    low = tree.leaf_row.astype(np.int64)
    high = low + 1
    if key_ptr is not None:
        low, high = key_ptr[low].astype(np.int64), key_ptr[high].astype(np.int64)
    return Leaves(*(tensor(values, int(values.max(initial=0)), device) for values in (node, low, high)))


def _depth(first_child: np.ndarray) -> int:
    """Levels below the root: the first child of a level's first node is where the next level begins."""
    depth, level = 0, 0
    while first_child[level] < len(first_child) - 1:
        level = first_child[level]
        depth += 1
    return depth


def joined(low: np.ndarray, high: np.ndarray, bits: int) -> np.ndarray:
    """Integers kept in two planes, the lower one of `bits` bits, the upper one empty where it is not needed."""
    values = low.astype(np.int64)
    if len(high):
        values |= high.astype(np.int64) << bits
    return values


def tensor(values: np.ndarray, most: int, device: Device) -> Tensor:
    """Integers on the device, int32 where `most` allows it; one zero instead of none, for gathers to find something."""
    values = values if len(values) else np.zeros(1, np.int64)
    return torch.from_numpy(values.astype(np.int32 if most <= MOST_NARROW else np.int64)).to(device)


def place(ascending: Int[Tensor, " k"], wanted: Int64[Tensor, " *shape"]) -> Int64[Tensor, " *shape"]:
    """Where the first of the ascending numbers stands that is at least the wanted one."""
    return torch.searchsorted(ascending, wanted.to(ascending.dtype).contiguous())
