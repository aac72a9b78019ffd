"""The tree of facts as tensors: its subjects, predicates and senses are a forest, its rows one sorted list.

Post: 8802.

Predicates and senses are numbered in token order, so those that begin alike are a range of numbers, and a node of their
trees knows it. A row of the tree is subject, predicate and sense in one integer, ascending; the rows that go on with a
token are found by two searches in that list, whatever they are.

Notation
    u rows, v names (predicates, then senses), t their tokens, K nodes of the names' trees
    state  [*shape, 2] as in `field_rows`: where, what = phase << PHASE | depth << COUNT_BITS | count; -1, -1 is dead
    child  a node of the forest by which a state goes on
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Int8, Int64
from torch import Tensor

from tianwen.ask.field_rows import COUNT_BITS, DEPTH_BITS, PHASE, FactTree
from tianwen.ask.level_order import LevelOrderTree
from tianwen.ask.ragged import pointers
from tianwen.ask.torch_forest import MOST_WIDE, Device, Forest, Lists, forest_of, joined, place, tensor
from tianwen.ask.trie import CatalogueTrie
from tianwen.errors import InputError


class Parts(NamedTuple):
    """A state taken apart, as far as it stands in a predicate or sense; zeros elsewhere."""

    phase: Int64[Tensor, " *shape"]  # of every state: -1 dead, 0 in the subject, 3 complete
    in_name: Bool[Tensor, " *shape"]
    row: Int64[Tensor, " *shape"]  # the first of its rows
    depth: Int64[Tensor, " *shape"]
    rows: Int64[Tensor, " *shape"]  # how many


class FactStates:
    """The part of `TorchTrie` that knows what the states of facts mean."""

    repeats = True
    """Whether a listing may hold the same child several times running, and children without a row below."""

    def __init__(self, tree: FactTree, device: Device) -> None:
        tokens = joined(tree.name_token, tree.name_token_high, 16)
        ends = tree.name_ptr.astype(np.int64)
        parts = ends[: tree.predicates + 1], ends[tree.predicates :]
        names = [_Names.of(ptr, tokens, tree.end_id) for ptr in parts]
        subjects = LevelOrderTree(*tree[:7])
        self.forest: Forest = forest_of([subjects, *(kind.tree for kind in names)], tree.subject_ptr, device)
        self._predicates, self._sense_bits = tree.predicates, tree.sense_bits
        self._pair_bits = tree.sense_bits + max(tree.predicates - 1, 0).bit_length()
        self._fact = _sorted_rows(tree, self._pair_bits, device)
        self._first_name_node = len(tree.first_child)
        shift = np.array([len(tree.first_child), len(tree.first_child) + len(names[0].low)])  # where their nodes begin
        after = np.concatenate([kind.after + place for kind, place in zip(names, shift, strict=True)])
        self._name_ptr, self._after = (
            tensor(ends, len(tokens), device),
            tensor(after, int(after.max(initial=0)), device),
        )
        self._low, self._high = (
            tensor(np.concatenate(values), len(ends), device)
            for values in ([kind.low for kind in names], [kind.high for kind in names])
        )
        widths = [int(np.diff(kind.tree.first_child.astype(np.int64)).max(initial=0)) for kind in names]
        most_rows = int(np.diff(tree.subject_ptr.astype(np.int64)).max(initial=0))
        self._always_by_row = most_rows <= max(widths)
        self.widest = most_rows if self._always_by_row else max(widths)
        self.all_lead_on = self._always_by_row

    def root(self, n: int) -> Int64[Tensor, " n 2"]:
        return torch.zeros((n, 2), dtype=torch.int64, device=self._fact.device)

    def _parts(self, state: Int64[Tensor, " *shape 2"]) -> Parts:
        where, what = state.unbind(-1)
        phase = what >> PHASE
        in_name = (phase == 1) | (phase == 2)
        what = torch.where(in_name, what, 0)
        depth, count = (what >> COUNT_BITS) & ((1 << DEPTH_BITS) - 1), what & ((1 << COUNT_BITS) - 1)
        return Parts(phase, in_name, torch.where(in_name, where, 0), depth, count)

    def node(self, state: Int64[Tensor, " *shape 2"]) -> Int64[Tensor, " *shape"]:
        """The node of the forest that each state stands at; -1 for dead and complete ones."""
        parts = self._parts(state)
        named = self.forest.parent(self._child_of_row(parts, parts.row))
        return torch.where(parts.in_name, named, torch.where(parts.phase == 0, state[..., 0], -1))

    def _child_of_row(self, parts: Parts, row: Int64[Tensor, " *shape"]) -> Int64[Tensor, " *shape"]:
        """The child by which a row of each state goes on; anything for states that have no rows."""
        pair = self._fact[row.clamp(max=len(self._fact) - 1)].long()
        predicate = (pair & ((1 << self._pair_bits) - 1)) >> self._sense_bits
        sense = (pair & ((1 << self._sense_bits) - 1)) + self._predicates
        name = torch.where(parts.phase == 2, sense, predicate).clamp(max=len(self._name_ptr) - 1)
        return self._after[(self._name_ptr[name] + parts.depth).clamp(max=len(self._after) - 1)].long()

    def enter(self, state: Int64[Tensor, " *shape 2"], child: Int64[Tensor, " *shape"]) -> Int64[Tensor, " *shape 2"]:
        """The states behind the children (-1: none) of states; dead where no row lies there."""
        parts, there = self._parts(state), child.clamp(min=0)
        ended, inside = self.forest.token(there) == self.forest.end_id, parts.phase == 0
        opened_low, opened_high = self.forest.rows_of_leaf(there)
        low, high = self._rows_of_names(parts, there)
        low, high = torch.where(inside, opened_low, low), torch.where(inside, opened_high, high)
        on = torch.where(inside | ended, 0, parts.depth + 1)
        what = (parts.phase + ended) << PHASE | on << COUNT_BITS | (high - low)
        in_subject = inside & ~ended
        after = torch.stack([torch.where(in_subject, there, low), torch.where(in_subject, 0, what)], dim=-1)
        lives = (child >= 0) & (inside | (low < high))
        return torch.where(lives[..., None], after, -1)  # [*shape, 2]

    def _rows_of_names(
        self, parts: Parts, child: Int64[Tensor, " *shape"]
    ) -> tuple[Int64[Tensor, " *shape"], Int64[Tensor, " *shape"]]:
        """The rows of each state whose name lies below the child: between where two numbers would be sorted in."""
        at = (child - self._first_name_node).clamp(min=0)
        names = torch.stack([self._low[at].long(), self._high[at].long()])  # [2, *shape]
        shared = torch.where(parts.phase == 1, self._pair_bits, self._sense_bits)  # what is read before the name
        unit = torch.where(parts.phase == 1, self._sense_bits, 0)
        read = self._fact[parts.row].long() >> shared << shared
        low, high = place(self._fact, read + (names << unit)).unbind(0)
        return low, high

    def lists(self, state: Int64[Tensor, " *shape 2"]) -> Lists:
        """Its rows where those are fewer, otherwise the children of its node, of which some may have no row below."""
        parts = self._parts(state)
        first, count = self.forest.span(self.node(state))
        by_row = parts.in_name if self._always_by_row else parts.in_name & (parts.rows <= count)
        return Lists(torch.where(by_row, parts.row, first), torch.where(by_row, parts.rows, count), by_row)

    def candidate(
        self, state: Int64[Tensor, " *shape 2"], lists: Lists, k: Int64[Tensor, " *shape"]
    ) -> Int64[Tensor, " *shape"]:
        """The child that is candidate k of each state; some node or other where k is no candidate's number."""
        at, by_row = lists.first + k, lists.by_row
        assert by_row is not None  # `lists` made it
        of_row = self._child_of_row(self._parts(state), torch.where(by_row, at, 0))
        return torch.where(by_row, of_row, at.clamp(max=len(self.forest.edge) - 1))

    def field(self, state: Int64[Tensor, " n 2"]) -> Int8[Tensor, " n"]:
        return (state[:, 1] >> PHASE).to(torch.int8)  # -1 >> 60 is -1: dead

    def is_terminal(self, state: Int64[Tensor, " n 2"]) -> Bool[Tensor, " n"]:
        return state[:, 1] >> PHASE == 3

    def rows(self, state: Int64[Tensor, " n 2"]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        where, what = state.unbind(-1)
        phase, count = what >> PHASE, what & ((1 << COUNT_BITS) - 1)
        low, high = self.forest.rows(torch.where(phase == 0, where, -1))
        return torch.where(phase > 0, where, low), torch.where(phase > 0, where + count, high)


class _Names(NamedTuple):
    """Predicates or senses as a tree."""

    tree: LevelOrderTree
    low: np.ndarray  # [K + 1] the names below each node are low .. high - 1; one slot without a node closes the tree
    high: np.ndarray
    after: np.ndarray  # [t] the node behind each token of each name

    @classmethod
    def of(cls, ptr: np.ndarray, tokens: np.ndarray, end_id: int) -> _Names:
        """The tree of names in token order, name i being tokens[ptr[i]:ptr[i + 1]], END included."""
        tokens, ptr = tokens[ptr[0] : ptr[-1]], ptr - ptr[0]
        lengths = np.diff(ptr)
        trie, _ = CatalogueTrie.build(pointers(lengths - 1), tokens[tokens != end_id], end_id=end_id)
        after, state, reads = np.empty(len(tokens), np.int64), trie.root(len(lengths)), np.arange(len(lengths))
        for k in range(int(lengths.max(initial=0))):
            state, reads = state[lengths[reads] > k], reads[lengths[reads] > k]
            state = after[ptr[reads] + k] = trie.advance(state, tokens[ptr[reads] + k])
        low, high = (np.append(rows, 0) for rows in trie.rows(np.arange(len(trie.tree.first_child) - 1)))
        return cls(trie.tree, low, high, after)


def _sorted_rows(tree: FactTree, pair_bits: int, device: Device) -> Int[Tensor, " u"]:
    """Subject << pair_bits | predicate << sense_bits | sense of every row, ascending."""
    subjects = len(tree.subject_ptr) - 1
    if (subjects + 1) << pair_bits > MOST_WIDE:
        raise InputError(
            f"The numbers of {subjects} subjects, {tree.predicates} predicates and the senses of these facts are more "
            "than 62 bits together, which is what a TorchTrie can search. Use the tree on the CPU."
        )
    pairs = np.zeros((len(tree.pair) // tree.pair_bytes, 8), np.uint8)
    pairs[:, : tree.pair_bytes] = tree.pair.reshape(-1, tree.pair_bytes)
    subject = np.repeat(np.arange(subjects), np.diff(tree.subject_ptr.astype(np.int64)))
    return tensor((subject << pair_bits) + pairs.reshape(-1).view("<i8"), (subjects + 1) << pair_bits, device)
