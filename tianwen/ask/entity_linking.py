"""Entity linking by markup: copy a text, and mark in it which stretches name which entries of a catalogue.

Post: 8802 (one more use of its tree). Paper: De Cao et al., Autoregressive Entity Retrieval (GENRE), 2021.

    the text    Ares I-X flew from Kennedy
    is written  { Ares I-X } [ Ares I-X ( rocket ) ] flew from { Kennedy } [ Kennedy Space Center ]

At every moment the writer stands in one of five phases, and may
    OUTSIDE   copy the text's next token, or open a mention; at the text's end, end
    MENTION   copy the next token, or close the mention where it may be one
    OPENING   open the link: nothing else
    LINK      go on with an entry of the catalogue, whose END is written as the mark that closes the link
    DONE      nothing

Where `mentions` or `by_mention` say what may be a mention, most of the text leaves no choice, and a search that takes
forced tokens for nothing reads it in a few calls.

Notation
    S texts, t tokens of all texts, n rows of a batch, m children of all rows together, L longest mention
    state [n, 4 + parts]   text, next token (flat), phase, first token of the mention; the state of the entries' tree
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from jaxtyping import Bool, Int8, Int32, Int64, Integer
from numpy.typing import ArrayLike

from tianwen.ask.level_order import Completions
from tianwen.ask.ragged import pointers
from tianwen.ask.trie import Constraint, RowPointers, State
from tianwen.ask.walking import completions_below, read_from
from tianwen.errors import InputError

OUTSIDE, MENTION, OPENING, LINK, DONE = range(5)
TEXT, AT, PHASE, START, TREE = range(5)  # columns of the state; the last begins the tree's own


@dataclass(frozen=True)
class Marks:
    """The five tokens that are no text: `{ mention } [ entry ]` and the end."""

    open_mention: int
    close_mention: int
    open_link: int
    close_link: int
    end: int


@dataclass(frozen=True)
class Link:
    """A mention, by its first token and the one behind its last, and the tokens of the entry it is linked to."""

    start: int
    stop: int
    entry: tuple[int, ...]


class MarkupConstraint:
    """All ways to mark up the texts. `root(n)` gives each text the same number of rows, one after another.

    `rows` are the key rows of the entries below, within a link; elsewhere there are none. `completions` walks: without
    `mentions` a text has as many ways to be marked as stars in the sky, so mind its limit.
    """

    def __init__(
        self,
        texts: Sequence[ArrayLike],
        entries: Constraint,
        *,
        marks: Marks,
        mentions: Constraint | None = None,
        by_mention: bool = False,
        longest: int = 10,
    ) -> None:
        """Token ids of the texts, and what they may be linked to.

        `mentions`: what may be a mention (any stretch up to `longest` tokens if None). `by_mention`: the keys of
        `entries` are mention, `close_mention`, entry, so that each mention has candidates of its own.
        Raises InputError for a mark inside a text, marks that are not five tokens, or no text.
        """
        if len(set(astuple(marks))) != len(astuple(marks)) or longest < 1 or not len(texts):
            raise InputError(f"Five different marks, a text and a length of at least 1 are needed: {marks}, {longest}.")
        if by_mention and mentions is not None:
            raise InputError("With by_mention the keys of `entries` say what a mention is; leave `mentions` out.")
        tokens = [np.asarray(text, np.int64).reshape(-1) for text in texts]
        self._tokens = np.concatenate(tokens)  # [t]
        self._text_ptr = pointers(np.array([len(text) for text in tokens]))
        inside = np.isin(self._tokens, astuple(marks))
        if inside.any():
            raise InputError(f"Token {self._tokens[inside][0]} of a text is one of the marks; choose others: {marks}.")
        self.marks, self.entries, self.by_mention, self.sources = marks, entries, by_mention, len(texts)
        self.end_id = marks.end
        root = entries.root(1)
        self._flat, self._parts = root.ndim == 1, root.size
        self._may_close = self._find_mentions(entries if by_mention else mentions, longest)  # [t, L + 1]
        lengths = np.arange(self._may_close.shape[1])
        self._longest = (self._may_close * lengths).max(axis=1, initial=0)  # [t]; 0: no mention begins here

    def _find_mentions(self, catalogue: Constraint | None, longest: int) -> Bool[np.ndarray, " t L+1"]:
        """Whether the stretch of each length at each token may be a mention."""
        count = len(self._tokens)
        stop = np.repeat(self._text_ptr[1:], np.diff(self._text_ptr))
        closing = self.marks.close_mention if self.by_mention else catalogue.end_id if catalogue is not None else 0
        found = np.zeros((count, longest + 1), np.bool_)
        state = catalogue.root(count) if catalogue is not None else np.zeros(count, np.int64)
        for length in range(1, longest + 1):
            last = np.arange(count) + length - 1
            fits = last < stop
            if catalogue is None:
                found[:, length] = fits
                continue
            state = catalogue.advance(state, np.where(fits, self._tokens[np.minimum(last, count - 1)], -1))
            found[:, length] = ~_dead(catalogue.advance(state, np.full(count, closing)))
        return found

    def roots(self, text: Integer[np.ndarray, " n"]) -> State:
        """Rows at the beginning of the given texts."""
        state = np.zeros((len(text), TREE + self._parts), np.int64)
        state[:, TEXT], state[:, AT] = text, self._text_ptr[text]
        return state

    def root(self, n: int) -> State:
        if n % self.sources:
            raise InputError(f"{n} rows cannot be shared evenly by {self.sources} texts; `roots` takes any number.")
        return self.roots(np.repeat(np.arange(self.sources), n // self.sources))

    def allowed(self, state: State) -> tuple[RowPointers, Int32[np.ndarray, " m"], State]:
        phase = state[:, PHASE]
        steps = [
            self._copies(state),
            self._marks(state, phase == OUTSIDE),
            self._marks(state, phase == MENTION),
            self._marks(state, phase == OPENING),
            self._entry_tokens(state),
        ]
        row, token, after = (np.concatenate(column) for column in zip(*steps, strict=True))
        order = np.lexsort((token, row))
        return pointers(np.bincount(row, minlength=len(state))), token[order].astype(np.int32), after[order]

    def _copies(self, state: State) -> tuple[np.ndarray, np.ndarray, State]:
        """The next token of the text, outside or inside a mention that may still grow: (row, token, after)."""
        row = np.flatnonzero(np.isin(state[:, PHASE], (OUTSIDE, MENTION)))
        at, phase = state[row, AT], state[row, PHASE]
        start = state[row, START]
        grows = (phase == OUTSIDE) | (at - start < self._longest_at(start))
        row = row[(at < self._text_ptr[state[row, TEXT] + 1]) & grows]
        after = state[row]
        after[:, AT] += 1
        return row, self._tokens[state[row, AT]], after

    def _marks(self, state: State, wanted: Bool[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray, State]:
        """The mark that each of the wanted rows, all of one phase, may set: (row, token, after)."""
        row = np.flatnonzero(wanted)
        after = state[row]
        at, start = after[:, AT], after[:, START]
        ended = at == self._text_ptr[after[:, TEXT] + 1]
        match int(after[0, PHASE]) if len(row) else DONE:
            case 0:  # OUTSIDE: a mention, or the end
                may = ended | (self._longest_at(at) > 0)
                token = np.where(ended, self.marks.end, self.marks.open_mention)
                after[:, START] = np.where(ended, 0, at)
                after[:, PHASE] = np.where(ended, DONE, MENTION)
            case 1:  # MENTION: its end, where the stretch may be one
                may = self._may_close[start, at - start]
                token, after[:, PHASE] = np.full(len(row), self.marks.close_mention), OPENING
            case 2:  # OPENING
                may = np.ones(len(row), np.bool_)
                token, after[:, PHASE] = np.full(len(row), self.marks.open_link), LINK
                after[:, TREE:] = self._link_roots(start, at)
            case _:
                may, token = np.zeros(len(row), np.bool_), row
        return row[may], token[may], after[may]

    def _entry_tokens(self, state: State) -> tuple[np.ndarray, np.ndarray, State]:
        """What the entries go on with, in a link: (row, token, after)."""
        row = np.flatnonzero(state[:, PHASE] == LINK)
        row_ptr, token, tree = self.entries.allowed(self._own(state[row]))
        row = row[np.repeat(np.arange(len(row)), np.diff(row_ptr))]
        ends = self.entries.is_terminal(tree)
        if (token[~ends] == self.marks.close_link).any():
            raise InputError(f"An entry contains the mark {self.marks.close_link} that closes links; choose another.")
        after = state[row]
        after[:, TREE:] = tree.reshape(len(row), self._parts)
        after[ends, START:] = 0
        after[ends, PHASE] = OUTSIDE
        return row, np.where(ends, self.marks.close_link, token), after

    def _longest_at(self, at: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " k"]:
        """Length of the longest mention that begins at each token; behind the last text there is none."""
        return np.append(self._longest, 0)[at]

    def _link_roots(self, start: Int64[np.ndarray, " k"], stop: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " k p"]:
        """Where in the entries' tree the link of each mention begins."""
        if not self.by_mention or not len(start):
            return self.entries.root(len(start)).reshape(len(start), self._parts)
        length = stop - start
        width = int(length.max())
        ids = self._tokens[np.minimum(start[:, None] + np.arange(width), len(self._tokens) - 1)]  # [k, width]
        state = self.entries.walk(ids, length)
        state = self.entries.advance(state, np.full(len(start), self.marks.close_mention))
        return state.reshape(len(start), self._parts)

    def _own(self, state: State) -> State:
        """The entries' tree's own states."""
        own = np.ascontiguousarray(state[:, TREE:])
        return own[:, 0] if self._flat else own

    def advance(self, state: State, token: Integer[np.ndarray, " n"]) -> State:
        row_ptr, child, after = self.allowed(state)
        row = np.repeat(np.arange(len(state)), np.diff(row_ptr))
        taken = np.flatnonzero(child == np.asarray(token)[row])
        moved = np.full_like(state, -1)
        moved[row[taken]] = after[taken]
        return moved

    def is_terminal(self, state: State) -> Bool[np.ndarray, " n"]:
        return state[:, PHASE] == DONE

    def field(self, state: State) -> Int8[np.ndarray, " n"]:
        return np.where(_dead(state), -1, self.is_terminal(state)).astype(np.int8)

    def rows(self, state: State) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        low, high = np.zeros(len(state), np.int64), np.zeros(len(state), np.int64)
        row = np.flatnonzero(state[:, PHASE] == LINK)
        low[row], high[row] = self.entries.rows(self._own(state[row]))
        return low, high

    def walk(self, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        return read_from(self, self.root(len(lengths)), ids, lengths)

    def completions(self, state: State, *, limit: int) -> Completions:
        return completions_below(self, state, limit=limit)


def read_links(written: ArrayLike, marks: Marks) -> list[Link]:
    """The links in a marked-up text. Raises InputError where the marks are not in order."""
    links: list[Link] = []
    phase, at, start, entry = OUTSIDE, 0, 0, []
    for token in np.asarray(written, np.int64):
        match phase, int(token):
            case 0, marks.end:
                break
            case 0, marks.open_mention:
                phase, start = MENTION, at
            case 1, marks.close_mention if at > start:
                phase = OPENING
            case 2, marks.open_link:
                phase, entry = LINK, []
            case 3, marks.close_link:
                links.append(Link(start, at, tuple(entry)))
                phase = OUTSIDE
            case 3, other:
                entry.append(other)
            case ((0 | 1), other) if other not in astuple(marks):
                at += 1
            case _:
                raise InputError(f"Token {int(token)} behind {at} tokens of the text is a mark out of order.")
    return links


def _dead(state: State) -> Bool[np.ndarray, " n"]:
    return np.logical_and.reduce(state == -1, axis=tuple(range(1, state.ndim)))
