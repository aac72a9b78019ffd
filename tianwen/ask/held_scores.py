"""A whole step of holding scores to a tree in one kernel: read what was written, find the children, copy their scores.

Post: 8802. Between two steps a model sweeps the caches: a dozen calls of Python and NumPy that take 30 microseconds if
they are repeated then take 400, and every row waits for a dozen places of memory. So a step is one call, it lists
nothing, and it goes over the rows several times, so that what they wait for comes for many of them at once.

Notation
    B  rows      T  tokens of each, the prompt included      t  tokens behind the prompt      V  vocabulary
    rows of a step, int64 [B, 5 + room]: where, what (the state, see `field_rows`; where is -1 outside the tree, OVER
        for a row that has ended); of a node its first child, the one behind its last and the first one's token; then
        the t <= room tokens behind the prompt
    marks int64 [2 + ends]: prompt_len, pad_token_id, and the model's end tokens, of which the first closes an entry
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from tianwen.ask.addresses import addresses, array_at
from tianwen.ask.field_rows import FactTree, first_above, step, symbol, unpack
from tianwen.ask.level_order import LevelOrderTree, child, first_of, token_of
from tianwen.ask.ragged import filling_kernel, inlined
from tianwen.ask.score_buffers import (
    FINE,
    MINUS_INFINITY,
    NOTHING,
    NOWHERE,
    WIDE,
    Buffer,
    ScoreBuffers,
    as_array,
    bounds_of,
    copy_lists,
    whole_rows,
)

NEARBY = 64
"""How many rows before and behind its own place a row's past is looked for; beyond it the row is read from the root."""

OVER = -2
TOKENS = 5  # the column where the tokens begin
ROOM = 32  # for so many tokens more than there are


class HeldScores:
    """Steps of one search, or of several in turns; not for several threads at once."""

    def __init__(
        self, tree: FactTree | LevelOrderTree, buffers: ScoreBuffers, *, prompt_len: int, ends: Sequence[int], pad: int
    ) -> None:
        self._tree = _as_fact_tree(tree)  # kept alive, for the kernel has its addresses only
        numbers = [self._tree.end_id, *self._tree[12:]]
        self._table = np.concatenate([addresses((*self._tree[:6], *self._tree[7:12])), np.array(numbers, np.int64)])
        self._marks = np.array([prompt_len, pad, *ends], np.int64)
        self._prompt_len, self._buffers = prompt_len, buffers
        self._last, self._tokens, self._spare = NOWHERE, -1, NOWHERE
        self._at_root = _shown_at_root(self._tree, ends)
        self._bounds: tuple[tuple[Any, ...], Tensor] | None = None

    def step(self, ids: Int64[Tensor, " B T"], scores: Float[Tensor, " B V"]) -> tuple[Tensor | None, int]:
        """Scores that are -inf but for the children's, and how many rows have left the tree.

        None for what needs a closer look: tensors elsewhere than in the CPU's memory or of an unknown type or layout, a
        row all of whose scores are -inf, a token beyond the vocabulary, an end token within an entry.
        """
        rows, length = ids.shape
        if ids.dtype != torch.int64 or ids.stride(1) != 1 or not (ids.is_cpu and scores.is_contiguous()):
            return None, 0
        if scores.ndim != 2 or len(scores) != rows:  # the kernel knows addresses only: what does not fit ends here
            return None, 0
        at_root = length == self._prompt_len and len(self._at_root) * WIDE > scores.shape[1]
        buffer = self._buffers.take(scores, clean=not at_root)
        if buffer.array is None:
            return None, 0
        if at_root:
            return self._wide_root(scores, buffer), 0
        old = buffer.forget_rows()
        tokens = length - self._prompt_len
        now, self._spare = self._spare, NOWHERE
        if len(now) != rows or now.shape[1] < TOKENS + tokens:
            now = np.empty((rows, TOKENS + tokens + ROOM), np.int64)
        given = tokens, ids.data_ptr(), ids.stride(0), scores.data_ptr()
        known = self._last if tokens == self._tokens + 1 else NOWHERE
        infinity = MINUS_INFINITY[scores.dtype]
        strangers = hold(self._table, self._marks, *given, known, now, old, buffer.array, infinity)
        if strangers < 0:
            return None, 0
        if old is not self._last:
            self._spare = old
        self._last, self._tokens = now, tokens
        return buffer.handed_out(now), strangers

    def _wide_root(self, scores: Float[Tensor, " B V"], buffer: Buffer) -> Tensor | None:
        """Where every search begins, one list of thousands serves all rows: whole rows are written."""
        given = np.array([0, len(self._at_root)]), self._at_root, np.zeros(1, np.bool_)
        infinity, scores = MINUS_INFINITY[scores.dtype], scores.detach()
        if copy_lists(as_array(scores)[:0], as_array(scores), given, NOTHING, infinity) != FINE:
            return None
        if self._bounds is None or self._bounds[0] != (scores.dtype, scores.shape[1]):
            self._bounds = (scores.dtype, scores.shape[1]), bounds_of(self._at_root, scores)
        buffer.written = None
        whole_rows(scores, self._bounds[1], buffer.scores)
        return buffer.handed_out(None)


def _shown_at_root(tree: FactTree, ends: Sequence[int]) -> Int32[np.ndarray, " m"]:
    """The root's children as the model writes them; none where one of them would end its output."""
    children = slice(int(tree.first_child[0]), int(tree.first_child[1]))
    tokens = tree.token[children].astype(np.int32)
    if len(tree.token_high):
        tokens |= tree.token_high[children].astype(np.int32) << 16
    if len(tree.subject_ptr) == 0:
        tokens[tokens == tree.end_id] = ends[0]
        return tokens if not np.isin(tokens, ends[1:]).any() else tokens[:0]
    return tokens if not np.isin(tokens, ends).any() else tokens[:0]


def _as_fact_tree(tree: FactTree | LevelOrderTree) -> FactTree:
    """A plain catalogue as a tree of facts whose leaves open no rows, so that one kernel serves both."""
    if isinstance(tree, FactTree):
        return tree
    empty = [np.empty(0, dtype) for dtype in (np.uint32, np.uint8, np.uint32, np.uint16, np.uint16)]
    return FactTree(*tree, *empty, pair_bytes=1, sense_bits=0, predicates=0)


@inlined
def tree_at(table):
    """The tree whose addresses these are."""
    return FactTree(
        array_at(table[0], table[1], np.uint16),
        array_at(table[2], table[3], np.uint16),
        array_at(table[4], table[5], np.uint32),
        array_at(table[6], table[7], np.uint8),
        array_at(table[8], table[9], np.uint32),
        array_at(table[10], table[11], np.uint32),
        table[22],
        array_at(table[12], table[13], np.uint32),
        array_at(table[14], table[15], np.uint8),
        array_at(table[16], table[17], np.uint32),
        array_at(table[18], table[19], np.uint16),
        array_at(table[20], table[21], np.uint16),
        table[23],
        table[24],
        table[25],
    )


@filling_kernel
def hold(table, marks, tokens, ids_at, stride, scores_at, last, now, old, out, minus_infinity):
    """Erase the children of `old` from `out`, place each row in the tree, and copy its children's scores into `out`.

    Returns how many rows stand outside the tree, or -1 where the step is not a usual one (`out` then is half written).
    """
    tree = tree_at(table)
    rows = len(now)
    ids = array_at(ids_at, (rows - 1) * stride + marks[0] + tokens, np.int64)
    scores = array_at(scores_at, out.size, out.dtype)
    pad, end = marks[1], marks[2]
    if not (0 <= pad < out.shape[1] and 0 <= end < out.shape[1]):
        return -1
    for i in range(len(old)):  # only fetches, see `place`
        if old[i, 0] >= 0 and old[i, 1] == 0:
            old[i, 4] = tree.token[old[i, 2]]
    for i in range(len(old)):
        if old[i, 0] < 0:
            out[i, pad if old[i, 0] == OVER else end] = minus_infinity
        else:
            put(tree, old, i, marks, out, (scores, True), minus_infinity)
    for i in range(rows):
        for k in range(tokens):
            now[i, TOKENS + k] = ids[i * stride + marks[0] + k]
        find_past(now, i, tokens, marks, last)
    place(tree, now, tokens, last)
    strangers = 0
    for i in range(rows):
        if now[i, 0] < 0:
            out[i, pad if now[i, 0] == OVER else end] = 0
            strangers += now[i, 0] != OVER
        elif not put(tree, now, i, marks, out, (scores, False), minus_infinity):
            return -1
    return strangers


@filling_kernel
def find_past(now, i, tokens, marks, last):
    """Write in `where` of row i: OVER, or the row of the step before that it goes on from, or -1 for none."""
    now[i, 0] = -1
    for k in range(tokens):
        for end in marks[2:]:
            if now[i, TOKENS + k] == end:
                now[i, 0] = OVER
                return
    for turn in range(2 * NEARBY + 1):
        j = i + (turn + 1) // 2 if turn % 2 else i - turn // 2
        if 0 <= j < len(last):
            k = TOKENS + tokens - 2
            while k >= TOKENS and now[i, k] == last[j, k]:
                k -= 1
            if k < TOKENS:
                now[i, 0] = j
                return


@filling_kernel
def place(tree, now, tokens, last):
    """Replace each row's past by its state: one token further, or read from the root.

    The short loops only fetch: independent of each other, they wait for all rows at once instead of one by one.
    """
    width = TOKENS + tokens
    for i in range(len(now)):
        j = now[i, 0]
        if j >= 0 and last[j, 0] >= 0 and last[j, 1] == 0:
            now[i, 4] = tree.token[last[j, 2]]
    for i in range(len(now)):
        j = now[i, 0]
        if j == OVER:
            continue
        if j >= 0:
            where, what = step(tree, last[j, 0], last[j, 1], now[i, width - 1])
        else:
            where, what = np.int64(0), np.int64(0)
            for k in range(TOKENS, width):
                where, what = step(tree, where, what, now[i, k])
        now[i, 0], now[i, 1] = where, what
    for i in range(len(now)):
        if now[i, 0] >= 0 and now[i, 1] == 0:
            now[i, 2], now[i, 3] = first_of(tree, now[i, 0]), first_of(tree, now[i, 0] + 1)
    for i in range(len(now)):
        if now[i, 0] >= 0 and now[i, 1] == 0 and now[i, 2] < now[i, 3]:
            now[i, 4] = tree.token[now[i, 2]]


@filling_kernel
def put(tree, rows, i, marks, out, source, minus_infinity):
    """Copy the scores of a row's children from `source` into `out`, or with its flag erase them.

    False for a token that the model has not or that would end its output too early, or if every score is -inf. The END
    that completes an entry stands at the first end token.
    """
    scores, erase = source
    where, what, end, vocabulary = rows[i, 0], rows[i, 1], marks[2], out.shape[1]
    plain, found = len(tree.subject_ptr) == 0, False
    if what == 0:
        if not erase:
            for other in marks[2:]:
                if child(tree, where, other) >= 0 and not (plain and other == tree.end_id):
                    return False
        for at in range(rows[i, 2], rows[i, 3]):
            token = token_of(tree, at)
            token = end if plain and token == tree.end_id else token
            if token >= vocabulary:
                return False
            value = minus_infinity if erase else scores[i * vocabulary + token]
            found = found or value != minus_infinity
            out[i, token] = value
        return found
    phase, depth, count = unpack(what)
    row, behind = where, where + count
    while row < behind and phase < 3:
        token = symbol(tree, row, phase, depth)
        row = behind if row + 1 == behind else first_above(tree, phase, depth, row, behind, token)
        if phase == 2 and token == tree.end_id:
            token = end
        else:
            for other in marks[2:]:
                if token == other:
                    return False
        if token >= vocabulary:
            return False
        value = minus_infinity if erase else scores[i * vocabulary + token]
        found = found or value != minus_infinity
        out[i, token] = value
    return found
