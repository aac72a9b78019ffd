"""One prefix tree out of several: an immutable base, small trees of later additions, and deleted rows.

Post: 8802 (which rebuilds the whole tree for every change).

A token is legal if it is legal in some segment and at least one key below it, in that segment, is not deleted.

Notation: k segments, n rows of a batch, m children or completions of all rows together.
A state is the segments' states side by side, [n, 2 k]: (where, what) in each, see `field_rows`; a segment that cannot
follow is -1 there, and so is one in which everything below is deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int8, Int32, Int64, Integer

from tianwen.ask import union_steps
from tianwen.ask.dead_rows import Dead
from tianwen.ask.fielded import FieldedTrie
from tianwen.ask.level_order import NONE, Completions
from tianwen.ask.ragged import kernel, pointers, slots
from tianwen.ask.root_children import Children, RootChildren, own
from tianwen.ask.segment_table import SegmentTable, as_fact_tree
from tianwen.ask.trie import CatalogueTrie, RowPointers, State, as_reading
from tianwen.errors import InputError

Segment = CatalogueTrie | FieldedTrie

FEW = 4096
"""Children of all rows together that there is room for at once."""


class _Part(NamedTuple):
    """A segment, its first column of the state, and its deleted rows."""

    trie: Segment
    column: int
    dead: Int64[np.ndarray, " d"]

    def view(self, state: State) -> State:
        """This segment's own states."""
        if isinstance(self.trie, CatalogueTrie):
            return np.ascontiguousarray(state[:, self.column])
        return np.ascontiguousarray(state[:, self.column : self.column + 2])

    def spread(self, own: State) -> State:
        """The segment's own states as its two columns."""
        return np.stack([own, np.minimum(own, 0)], axis=1) if own.ndim == 1 else own


class SegmentedTrie:
    """The union of segments without their deleted rows; a key that several segments hold is one key."""

    def __init__(
        self, segments: Sequence[Segment], *, live: Sequence[Bool[np.ndarray, " u"] | None] | None = None
    ) -> None:
        """`live[i]` tells which key rows of segment i are not deleted; None where all are.

        Raises InputError without segments, or when END tokens or lengths do not agree.
        """
        live = [None] * len(segments) if live is None else live
        if len(live) != len(segments) or any(
            mask is not None and len(mask) != len(trie) for trie, mask in zip(segments, live, strict=False)
        ):
            raise InputError(
                "`live` needs one mask (or None) for each segment, with one entry for each of its key rows."
            )
        dead = [NONE if mask is None else np.flatnonzero(~np.asarray(mask, np.bool_)) for mask in live]
        self._set_up(segments, dead)

    @classmethod
    def without(cls, segments: Sequence[Segment], dead: Sequence[Dead | Int64[np.ndarray, " d"]]) -> SegmentedTrie:
        """The union without the key rows dead[i] (ascending, distinct) of segment i; costs nothing per live row."""
        if len(dead) != len(segments):
            raise InputError(f"One array of deleted rows for each of the {len(segments)} segments, not {len(dead)}.")
        union = cls.__new__(cls)
        union._set_up(segments, dead)
        return union

    def _set_up(self, segments: Sequence[Segment], dead: Sequence[Dead | Int64[np.ndarray, " d"]]) -> None:
        if len({trie.end_id for trie in segments}) != 1:
            raise InputError(
                "A union needs at least one segment, and all of them built with the same tokenizer; "
                f"the END tokens given are {[trie.end_id for trie in segments]}."
            )
        self.end_id = segments[0].end_id
        trees = [as_fact_tree(trie.tree) for trie in segments]
        gone = [
            rows if isinstance(rows, Dead) else Dead.of(tree, np.asarray(rows, np.int64))
            for tree, rows in zip(trees, dead, strict=True)
        ]
        self.segments = SegmentTable(trees, gone)
        self._parts = [
            _Part(trie, 2 * number, of_it.row.number)
            for number, (trie, of_it) in enumerate(zip(segments, gone, strict=True))
        ]
        self._at_root = RootChildren(self._root_children)

    def __reduce__(self) -> tuple[Any, ...]:
        """The table of addresses is made anew in another process."""
        return SegmentedTrie.without, ([part.trie for part in self._parts], [part.dead for part in self._parts])

    def root(self, n: int) -> State:
        return np.zeros((n, 2 * len(self._parts)), np.int64)

    def allowed(self, state: State) -> tuple[RowPointers, Int32[np.ndarray, " m"], State]:
        return self._allowed(state) if state.any() else self._at_root.of(state)

    def _own(self, state: State) -> State:
        """The states as the kernels take them. Raises InputError for states of something else."""
        if state.ndim != 2 or state.shape[1] != 2 * len(self._parts):
            raise InputError(
                f"States of this union are [n, {2 * len(self._parts)}], not {list(state.shape)}: they are no other "
                "tree's. Begin at root(n) of the same snapshot."
            )
        return own(state)

    def _root_children(self, state: State) -> Children:
        _, token, after = self._allowed(state[:1])
        return pointers(np.full(len(state), len(token))), np.tile(token, len(state)), np.tile(after, (len(state), 1))

    def _allowed(self, state: State) -> Children:
        state, table = self._own(state), self.segments.table
        row_ptr, room = np.empty(len(state) + 1, np.int64), FEW
        cursor = np.empty((len(table), union_steps.COLUMNS), np.int64)
        while True:
            token, after = np.empty(room, np.int32), np.empty(room * state.shape[1], np.int64)
            count = union_steps.children(table, state, row_ptr, (token, after), cursor)
            if count >= 0:
                return row_ptr, token[:count], after.reshape(room, state.shape[1])[:count]
            room = -1 - count

    def advance(self, state: State, token: Integer[np.ndarray, " n"]) -> State:
        return self._read(np.array(self._own(state)), token[:, None], np.ones(len(state), np.int64))

    def walk(self, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        return self._read(self.root(len(lengths)), ids, lengths)

    def _read(self, state: State, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        union_steps.read(self.segments.table, state, *as_reading(state, ids, lengths))
        return state

    def is_terminal(self, state: State) -> Bool[np.ndarray, " n"]:
        return np.logical_or.reduce([part.trie.is_terminal(part.view(state)) for part in self._parts])

    def field(self, state: State) -> Int8[np.ndarray, " n"]:
        return np.maximum.reduce([part.trie.field(part.view(state)) for part in self._parts])

    def rows(self, state: State) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Raises InputError with several segments, whose rows are no single range: use `rows_by_segment`."""
        if len(self._parts) > 1:
            raise InputError("The rows below a state lie in several segments; ask rows_by_segment(state) instead.")
        return self.rows_by_segment(state)[0]

    def rows_by_segment(self, state: State) -> list[tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]]:
        """For each segment the range lo .. hi - 1 of its key rows below each state, deleted ones among them."""
        return [part.trie.rows(part.view(state)) for part in self._parts]

    def completions(self, state: State, *, limit: int) -> Completions:
        merged = self._own_completions(self._parts[0], state, limit)
        for part in self._parts[1:]:
            other = self._own_completions(part, state, limit)
            owner_ptr, left, right, cut = merge_completions(merged, other, limit)
            terminal = np.concatenate([_take(merged.terminal, left), _take(other.terminal, right)], axis=1)
            token_ptr, tokens = _gather(merged, other, left, right)
            merged = Completions(owner_ptr, terminal, token_ptr, tokens, cut)
        return merged

    def _own_completions(self, part: _Part, state: State, limit: int) -> Completions:
        own = part.trie.completions(part.view(state), limit=limit, dead=part.dead)
        return own._replace(terminal=part.spread(own.terminal))


def _take(values: np.ndarray, index: Int64[np.ndarray, " m"]) -> np.ndarray:
    """values[index], and -1 where the index is -1."""
    taken = np.full((len(index), *values.shape[1:]), -1, values.dtype)
    there = index >= 0
    taken[there] = values[index[there]]
    return taken


def _gather(
    a: Completions, b: Completions, left: Int64[np.ndarray, " m"], right: Int64[np.ndarray, " m"]
) -> tuple[Int64[np.ndarray, " m+1"], Int32[np.ndarray, " t"]]:
    """Tokens of the merged completions: from `a` where it has them, else from `b`."""
    starts = np.concatenate([a.token_ptr, len(a.tokens) + b.token_ptr[1:]])
    index = np.where(left >= 0, left, len(a.token_ptr) - 1 + right)
    token_ptr, flat = slots(starts, index)
    return token_ptr, np.concatenate([a.tokens, b.tokens])[flat]


@kernel
def compare(a, i, b, j):
    """-1, 0 or 1 as completion i of `a` comes before, equals or comes after completion j of `b`."""
    p, q = a.token_ptr[i], b.token_ptr[j]
    while p < a.token_ptr[i + 1] and q < b.token_ptr[j + 1]:
        if a.tokens[p] != b.tokens[q]:
            return -1 if a.tokens[p] < b.tokens[q] else 1
        p += 1
        q += 1
    return int(p < a.token_ptr[i + 1]) - int(q < b.token_ptr[j + 1])


@kernel
def merge_completions(a, b, limit):
    """Union of two listings, the first `limit` of each state: owner_ptr, place in either listing (-1: absent), cut."""
    owner_ptr, cut = np.zeros(len(a.owner_ptr), np.int64), np.zeros(len(a.cut), np.bool_)
    most = len(a.terminal) + len(b.terminal)
    left, right = np.full(most, -1, np.int64), np.full(most, -1, np.int64)
    at = np.int64(0)
    for row in range(len(a.owner_ptr) - 1):
        i, j = a.owner_ptr[row], b.owner_ptr[row]
        i_end, j_end = a.owner_ptr[row + 1], b.owner_ptr[row + 1]
        while i < i_end or j < j_end:
            if at - owner_ptr[row] == limit:
                break
            order = -1 if j == j_end else 1 if i == i_end else compare(a, i, b, j)
            if order <= 0:
                left[at] = i
                i += 1
            if order >= 0:
                right[at] = j
                j += 1
            at += 1
        owner_ptr[row + 1] = at
        cut[row] = a.cut[row] or b.cut[row] or i < i_end or j < j_end
    return owner_ptr, left[:at], right[:at], cut
