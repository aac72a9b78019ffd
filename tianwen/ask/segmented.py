"""One prefix tree out of several: an immutable base, small trees of later additions, and deleted rows.

Post: 8802 (which rebuilds the whole tree for every change).

A token is legal if it is legal in some segment and at least one key below it, in that segment, is not deleted.

Notation: k segments, n rows of a batch, m children or completions of all rows together.
A state is the segments' states side by side, [n, parts of all segments]; a segment that cannot follow is -1 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Int8, Int32, Int64, Integer

from tianwen.ask.level_order import NONE, Completions, count_live
from tianwen.ask.ragged import filling_kernel, kernel, pointers, slots
from tianwen.ask.root_children import Children, RootChildren
from tianwen.ask.root_children import own as writable
from tianwen.ask.trie import Constraint, RowPointers, State
from tianwen.errors import InputError


class Segment(Constraint, Protocol):
    """What a part of the union must offer beyond the interface."""

    def __len__(self) -> int: ...

    def completions(self, state: State, *, limit: int, dead: Int64[np.ndarray, " d"] = NONE) -> Completions: ...


class _Part(NamedTuple):
    """A segment, its columns of the state, and its deleted rows."""

    trie: Segment
    columns: slice
    flat: bool  # whether its own states are [n] rather than [n, parts]
    dead: Int64[np.ndarray, " d"]

    def view(self, state: State) -> State:
        """This segment's own states."""
        own = np.ascontiguousarray(state[:, self.columns])
        return own[:, 0] if self.flat else own

    def spread(self, own: State) -> State:
        """The segment's own states as columns, [n, parts]."""
        return own.reshape(len(own), self.columns.stop - self.columns.start)

    def alive(self, own: State) -> Bool[np.ndarray, " n"]:
        """Whether a key that is not deleted lies below each of the segment's own states."""
        return count_live(*self.trie.rows(own), self.dead) > 0


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
    def without(cls, segments: Sequence[Segment], dead: Sequence[Int64[np.ndarray, " d"]]) -> SegmentedTrie:
        """The union without the key rows dead[i] (ascending, distinct) of segment i; costs nothing per live row."""
        if len(dead) != len(segments):
            raise InputError(f"One array of deleted rows for each of the {len(segments)} segments, not {len(dead)}.")
        union = cls.__new__(cls)
        union._set_up(segments, [np.asarray(rows, np.int64) for rows in dead])
        return union

    def _set_up(self, segments: Sequence[Segment], dead: Sequence[Int64[np.ndarray, " d"]]) -> None:
        if len({trie.end_id for trie in segments}) != 1:
            raise InputError(
                "A union needs at least one segment, and all of them built with the same tokenizer; "
                f"the END tokens given are {[trie.end_id for trie in segments]}."
            )
        self.end_id = segments[0].end_id
        self._parts: list[_Part] = []
        start = 0
        for trie, rows in zip(segments, dead, strict=True):
            root = trie.root(1)
            width = 1 if root.ndim == 1 else root.shape[1]
            self._parts.append(_Part(trie, slice(start, start + width), root.ndim == 1, rows))
            start += width
        self._root_row = np.concatenate([part.trie.root(1).reshape(-1) for part in self._parts])
        self._at_root = RootChildren(self._root_children)

    def root(self, n: int) -> State:
        return np.tile(self._root_row, (n, 1))

    def allowed(self, state: State) -> tuple[RowPointers, Int32[np.ndarray, " m"], State]:
        if len(state) == 0 or (state != self._root_row).any():
            return self._allowed(state)
        return self._at_root.of(state)

    def _root_children(self, state: State) -> Children:
        _, token, after = self._allowed(state[:1])
        return pointers(np.full(len(state), len(token))), np.tile(token, len(state)), np.tile(after, (len(state), 1))

    def _allowed(self, state: State) -> Children:
        children = self._own_children(self._parts[0], state)
        for part in self._parts[1:]:
            children = merge_children(children, self._own_children(part, state))
        return children

    def _own_children(self, part: _Part, state: State) -> Children:
        """The children in one segment that lead to a live key."""
        row_ptr, token, after = part.trie.allowed(part.view(state))
        children = writable(row_ptr), writable(token), writable(part.spread(after))
        return keep_live(children, part.trie.rows(after), part.dead) if len(part.dead) else children

    def advance(self, state: State, token: Integer[np.ndarray, " n"]) -> State:
        return self._join([(part, part.trie.advance(part.view(state), token)) for part in self._parts])

    def walk(self, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        return self._join([(part, part.trie.walk(ids, lengths)) for part in self._parts], keep=np.asarray(lengths) == 0)

    def _join(self, moved: list[tuple[_Part, State]], *, keep: Bool[np.ndarray, " n"] | None = None) -> State:
        """The segments' states side by side, dead where no live key lies below; rows of `keep` have not moved."""
        for part, own in moved:
            if len(part.dead):
                gone = ~part.alive(own)
                own[gone if keep is None else gone & ~keep] = -1
        return np.concatenate([part.spread(own) for part, own in moved], axis=1)

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


def merge_children(a: Children, b: Children) -> Children:
    """The union of two ragged lists of ascending tokens, with the states of both, -1 in the one that lacks a token."""
    most = len(a[1]) + len(b[1])
    row_ptr, token = np.empty(len(a[0]), np.int64), np.empty(most, np.int32)
    after = np.empty((most, a[2].shape[1] + b[2].shape[1]), np.int64)
    _merge(a, b, row_ptr, token, after)
    return row_ptr, token[: row_ptr[-1]], after[: row_ptr[-1]]


@filling_kernel
def _merge(a, b, row_ptr, token, after):
    ptr_a, token_a, after_a = a
    ptr_b, token_b, after_b = b
    width = after_a.shape[1]
    at = row_ptr[0] = 0
    for row in range(len(row_ptr) - 1):
        i, j = ptr_a[row], ptr_b[row]
        while i < ptr_a[row + 1] or j < ptr_b[row + 1]:
            use_a = j == ptr_b[row + 1] or (i < ptr_a[row + 1] and token_a[i] <= token_b[j])
            use_b = i == ptr_a[row + 1] or (j < ptr_b[row + 1] and token_b[j] <= token_a[i])
            token[at] = token_a[i] if use_a else token_b[j]
            for part in range(width):
                after[at, part] = after_a[i, part] if use_a else -1
            for part in range(after_b.shape[1]):
                after[at, width + part] = after_b[j, part] if use_b else -1
            if use_a:
                i += 1
            if use_b:
                j += 1
            at += 1
        row_ptr[row + 1] = at


def keep_live(
    children: Children,
    rows: tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]],
    dead: Int64[np.ndarray, " d"],
) -> Children:
    """The children below which there is a key row, lo .. hi - 1, that is not dead."""
    old_ptr, old_token, old_after = children
    row_ptr, token, after = np.empty_like(old_ptr), np.empty_like(old_token), np.empty_like(old_after)
    _keep(children, rows, dead, (row_ptr, token, after))
    return row_ptr, token[: row_ptr[-1]], after[: row_ptr[-1]]


@filling_kernel
def _keep(children, rows, dead, kept):
    old_ptr, old_token, old_after = children
    low, high = rows
    row_ptr, token, after = kept
    at = row_ptr[0] = 0
    for row in range(len(row_ptr) - 1):
        first, stop = 0, len(dead)
        if old_ptr[row] < old_ptr[row + 1]:
            while first < stop:  # the first dead row that may lie below this row's children, whose ranges ascend
                middle = (first + stop) >> 1
                if dead[middle] < low[old_ptr[row]]:
                    first = middle + 1
                else:
                    stop = middle
        for k in range(old_ptr[row], old_ptr[row + 1]):
            while first < len(dead) and dead[first] < low[k]:
                first += 1
            last = first + high[k] - low[k] - 1
            if last < first or (last < len(dead) and dead[last] == high[k] - 1):
                continue  # no row at all, or as many dead ones as there are rows
            token[at] = old_token[k]
            for part in range(after.shape[1]):
                after[at, part] = old_after[k, part]
            at += 1
        row_ptr[row + 1] = at


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
