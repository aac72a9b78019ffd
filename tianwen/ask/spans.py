"""Which tokens may follow when the answer must be copied from a passage: every stretch of it is an entry.

Post: 7115 and 7148 (extractive reading comprehension: the answer's n-grams must be the passage's), 8802 (the tree).

The tree is the catalogue's own, built over all windows of the passages: the window at each token, `longest` tokens wide
or up to the next separator, with the passage's number in front, so that all passages share one tree and each has a root
of its own. A span may end anywhere, so END is a child of every node and need not be stored.

Notation
    P passages, n rows of a batch, m children of all rows together, N nodes of the tree
    state [n]    node of the tree, or that plus N behind END
    place        a passage and the position of a token in it; places are ordered as the windows that begin there
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Bool, Int8, Int32, Int64, Integer
from numpy.typing import ArrayLike

from tianwen.ask.level_order import Completions
from tianwen.ask.ragged import pointers
from tianwen.ask.trie import CatalogueTrie, RowPointers, State
from tianwen.ask.walking import completions_below, read_from
from tianwen.errors import InputError


class SpanConstraint:
    """The spans of several passages as a constraint: rows begin at the root of a passage and stay in it.

    `root(n)` gives each passage the same number of rows, one after another, as a batch of prompts has them; `roots`
    gives any. `rows` are numbers of places; `places` says which.
    """

    def __init__(
        self,
        passages: Sequence[ArrayLike],
        *,
        end_id: int,
        separators: Collection[int] = (),
        longest: int = 32,
        empty: bool = False,
    ) -> None:
        """Token ids of each passage. No span contains END or a separator, or is longer than `longest` tokens.

        `empty`: whether END may come first, "this passage has no answer". Raises InputError without passages.
        """
        if not len(passages) or longest < 1:
            raise InputError(f"Spans need a passage and a length of at least 1; given: {len(passages)}, {longest}.")
        self.end_id, self.longest, self.empty, self.sources = end_id, longest, empty, len(passages)
        tokens = [np.asarray(passage, np.int64).reshape(-1) for passage in passages]
        passage, start, stop = _windows(tokens, frozenset({end_id, *separators}), longest)
        row_ptr, flat = _keys(tokens, (passage, start, stop), end_id)
        self._trie, rank = CatalogueTrie.build(row_ptr, flat, end_id=end_id)
        rank = rank[self.sources :]  # the first windows are the empty ones, which make the roots and are no places
        order = np.argsort(rank, kind="stable")
        self._passage, self._start = passage[order], start[order]
        self._place_ptr = pointers(np.bincount(rank, minlength=len(self._trie)))
        self._size = len(self._trie.tree.token)

    def roots(self, passage: Integer[np.ndarray, " n"]) -> State:
        """Rows at the beginning of an answer from the given passages."""
        return np.asarray(passage, np.int64) + 1  # the tree's first level, in order

    def root(self, n: int) -> State:
        if n % self.sources:
            raise InputError(f"{n} rows cannot be shared evenly by {self.sources} passages; `roots` takes any number.")
        return self.roots(np.repeat(np.arange(self.sources), n // self.sources))

    def allowed(self, state: State) -> tuple[RowPointers, Int32[np.ndarray, " m"], State]:
        live = np.where(state < self._size, state, -1)
        row_ptr, token, after = self._trie.allowed(live)
        row = np.repeat(np.arange(len(state)), np.diff(row_ptr))
        goes_on, ends = token != self.end_id, np.flatnonzero(self._may_end(live))
        row = np.concatenate([row[goes_on], ends])
        token = np.concatenate([token[goes_on], np.full(len(ends), self.end_id, np.int32)])
        after = np.concatenate([after[goes_on], live[ends] + self._size])
        order = np.lexsort((token, row))
        return pointers(np.bincount(row, minlength=len(state))), token[order], after[order]

    def _may_end(self, live: State) -> Bool[np.ndarray, " n"]:
        return live > (0 if self.empty else self.sources)

    def advance(self, state: State, token: Integer[np.ndarray, " n"]) -> State:
        live = np.where(state < self._size, state, -1)
        after = self._trie.advance(live, token)
        ends = np.asarray(token) == self.end_id
        return np.where(ends, np.where(self._may_end(live), live + self._size, -1), after)

    def is_terminal(self, state: State) -> Bool[np.ndarray, " n"]:
        return state >= self._size

    def field(self, state: State) -> Int8[np.ndarray, " n"]:
        return np.where(state < 0, -1, self.is_terminal(state)).astype(np.int8)

    def rows(self, state: State) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """The places where what has been read occurs in its passage, behind END too."""
        low, high = self._trie.rows(np.where(state < self._size, state, state - self._size))
        return self._place_ptr[low], self._place_ptr[high]

    def places(self, state: State) -> list[tuple[Int64[np.ndarray, " places"], Int64[np.ndarray, " places"]]]:
        """For each state the passages and the positions in them where what has been read begins, in order."""
        found = []
        for low, high in zip(*self.rows(state), strict=True):
            start = self._start[low:high]
            order = np.argsort(start, kind="stable")
            found.append((self._passage[low:high][order], start[order]))
        return found

    def walk(self, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        return read_from(self, self.root(len(lengths)), ids, lengths)

    def completions(self, state: State, *, limit: int) -> Completions:
        return completions_below(self, state, limit=limit)


def _windows(
    tokens: list[Int64[np.ndarray, " t"]], barriers: frozenset[int], longest: int
) -> tuple[Int64[np.ndarray, " w"], Int64[np.ndarray, " w"], Int64[np.ndarray, " w"]]:
    """Passage, start and stop of the window at every token that is no barrier."""
    passages, starts, stops = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for number, passage in enumerate(tokens):
        barrier = np.flatnonzero(np.isin(passage, list(barriers)))
        start = np.setdiff1d(np.arange(len(passage)), barrier)
        next_barrier = np.append(barrier, len(passage))[np.searchsorted(barrier, start)]
        passages.append(np.full(len(start), number))
        starts.append(start)
        stops.append(np.minimum(next_barrier, start + longest))
    return np.concatenate(passages), np.concatenate(starts), np.concatenate(stops)


def _keys(
    tokens: list[Int64[np.ndarray, " t"]],
    windows: tuple[Int64[np.ndarray, " w"], Int64[np.ndarray, " w"], Int64[np.ndarray, " w"]],
    end_id: int,
) -> tuple[Int64[np.ndarray, " k+1"], Int64[np.ndarray, " t"]]:
    """The tree's keys: an empty window for each passage, then all windows; each behind its passage's number."""
    passage, start, stop = windows
    numbers = np.arange(len(tokens))
    numbers += numbers >= end_id  # END may not be a passage's number; the order stays
    flat = np.concatenate([*tokens, np.empty(0, np.int64)])
    first = pointers(np.array([len(passage) for passage in tokens]))[:-1]
    length = np.concatenate([np.zeros(len(tokens), np.int64), stop - start]) + 1
    row_ptr = pointers(length)
    key = np.repeat(np.arange(len(length)), length)
    at = np.arange(row_ptr[-1]) - row_ptr[key] - 1  # -1: the passage's number
    source = np.concatenate([numbers * 0, first[passage] + start])[key] + at
    number = np.concatenate([numbers, numbers[passage]])[key]
    return row_ptr, np.where(at < 0, number, flat[np.maximum(source, 0)] if len(flat) else number)
