"""A whole step of holding scores to a tree in one kernel: read what was written, find the children, copy their scores.

Post: 8802. Between two steps a model sweeps the caches: a dozen calls of Python and NumPy that take 30 microseconds if
they are repeated then take 400, and every row waits for a dozen places of memory. So a step is one call, it lists
nothing, and it goes over the rows several times, so that what they wait for comes for many of them at once.

Of several segments nothing is merged: each writes its children's scores, and where two have the same child the same
score is written twice.

Notation
    B  rows      T  tokens of each, the prompt included      t  tokens behind the prompt      V  vocabulary
    k  segments, one for a tree without edits
    rows of a step, int64 [B, 1 + 5 k + room]: how the row stands (LIVE, STRANGER outside the tree, OVER if it has
        ended; on the way the row of the step before that it goes on from); for each segment where, what (the state,
        see `field_rows`, -1 if the segment has nothing) and of a node its first child, the one behind its last and the
        first one's token; then the t <= room tokens behind the prompt
    marks int64 [2 + ends]: prompt_len, pad_token_id, and the model's end tokens, of which the first closes an entry
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from tianwen.ask.addresses import array_at
from tianwen.ask.dead_rows import first_marked
from tianwen.ask.field_rows import first_above, symbol, unpack
from tianwen.ask.level_order import child, first_of, token_of
from tianwen.ask.ragged import filling_kernel, inlined
from tianwen.ask.score_buffers import (
    FINE,
    MINUS_INFINITY,
    NOTHING,
    NOWHERE,
    Buffer,
    ScoreBuffers,
    WholeRows,
    as_array,
    copy_lists,
    is_wide,
)
from tianwen.ask.segment_table import SegmentTable, dead_at, tree_at
from tianwen.ask.union_steps import live_step

NEARBY = 64
"""How many rows before and behind its own place a row's past is looked for; beyond it the row is read from the root."""

LIVE, STRANGER, OVER, SHOWN = 0, -1, -2, 1  # SHOWN: LIVE, and a score that is not -inf has been written
PLACE = 5  # columns of a segment
ROOM = 32  # for so many tokens more than there are


class HeldScores:
    """Steps of one search, or of several in turns; not for several threads at once."""

    def __init__(
        self,
        segments: SegmentTable,
        at_root: Int32[np.ndarray, " m"],
        buffers: ScoreBuffers,
        *,
        marks: tuple[int, int, Sequence[int]],
    ) -> None:
        """`at_root`: the root's children. `marks`: number of tokens of a prompt, padding, the model's end tokens."""
        prompt_len, pad, ends = marks
        self._segments = segments  # kept alive, for the kernel has its addresses only
        self._marks = np.array([prompt_len, pad, *ends], np.int64)
        self._prompt_len, self._buffers = prompt_len, buffers
        self._last, self._tokens, self._spare = NOWHERE, -1, NOWHERE
        self._begins = 1 + PLACE * len(segments.table)  # where the tokens of a row begin
        self._at_root = _shown_at_root(segments, at_root, ends)
        self._is_wide = is_wide(self._at_root)
        self._whole: tuple[torch.dtype, WholeRows] | None = None

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
        at_root = length == self._prompt_len and self._is_wide
        buffer = self._buffers.take(scores, clean=not at_root)
        if buffer.array is None:
            return None, 0
        if at_root:
            return self._wide_root(scores, buffer), 0
        old = buffer.forget_rows()
        tokens = length - self._prompt_len
        now, self._spare = self._spare, NOWHERE
        if len(now) != rows or now.shape[1] < self._begins + tokens:
            now = np.empty((rows, self._begins + tokens + ROOM), np.int64)
        given = tokens, ids.data_ptr(), ids.stride(0), scores.data_ptr()
        known = self._last if tokens == self._tokens + 1 else NOWHERE
        infinity = MINUS_INFINITY[scores.dtype]
        strangers = hold(self._segments.table, self._marks, *given, known, now, old, buffer.array, infinity)
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
        if self._whole is None or self._whole[0] != scores.dtype:
            self._whole = scores.dtype, WholeRows.of(self._at_root, scores)
        return self._whole[1].written(scores, buffer)


def _shown_at_root(
    segments: SegmentTable, tokens: Int32[np.ndarray, " m"], ends: Sequence[int]
) -> Int32[np.ndarray, " m"]:
    """The root's children as the model writes them; none where one of them would end its output."""
    shown = tokens.copy()
    if segments.are_catalogues:
        shown[tokens == segments.trees[0].end_id] = ends[0]
        return shown if not np.isin(shown, ends[1:]).any() else shown[:0]
    return shown if not np.isin(shown, ends).any() else shown[:0]


@filling_kernel
def hold(table, marks, tokens, ids_at, stride, scores_at, last, now, old, out, minus_infinity):
    """Erase the children of `old` from `out`, place each row in the trees, and copy its children's scores into `out`.

    Returns how many rows stand outside all trees, or -1 where the step is not a usual one (`out` then is half written).
    """
    rows, begins = len(now), 1 + PLACE * len(table)
    ids = array_at(ids_at, (rows - 1) * stride + marks[0] + tokens, np.int64)
    scores = array_at(scores_at, out.size, out.dtype)
    pad, end = marks[1], marks[2]
    if not (0 <= pad < out.shape[1] and 0 <= end < out.shape[1]):
        return -1
    for i in range(len(old)):
        if old[i, 0] < 0:
            out[i, pad if old[i, 0] == OVER else end] = minus_infinity
    for s in range(len(table)):
        write(table[s], old, s, marks, out, (scores, True), minus_infinity)
    for i in range(rows):
        for k in range(tokens):
            now[i, begins + k] = ids[i * stride + marks[0] + k]
        find_past(now, i, (begins, tokens), marks, last)
    for s in range(len(table)):
        place(table[s], now, s, (begins, tokens), last)
    strangers = 0
    for i in range(rows):
        if now[i, 0] != OVER:
            now[i, 0] = STRANGER
            for s in range(len(table)):
                if now[i, 1 + PLACE * s] >= 0:
                    now[i, 0] = LIVE
        if now[i, 0] < 0:
            out[i, pad if now[i, 0] == OVER else end] = 0
            strangers += now[i, 0] == STRANGER
    for s in range(len(table)):
        if not write(table[s], now, s, marks, out, (scores, False), minus_infinity):
            return -1
    for i in range(rows):
        if now[i, 0] == LIVE:
            return -1
    return strangers


@filling_kernel
def find_past(now, i, counts, marks, last):
    """How row i stands: OVER, or the row of the step before that it goes on from, or STRANGER for none."""
    begins, tokens = counts
    now[i, 0] = STRANGER
    for k in range(tokens):
        for end in marks[2:]:
            if now[i, begins + k] == end:
                now[i, 0] = OVER
                return
    for turn in range(2 * NEARBY + 1):
        j = i + (turn + 1) // 2 if turn % 2 else i - turn // 2
        if 0 <= j < len(last):
            k = begins + tokens - 2
            while k >= begins and now[i, k] == last[j, k]:
                k -= 1
            if k < begins:
                now[i, 0] = j
                return


@filling_kernel
def place(segment, now, s, counts, last):
    """Write where each row stands in segment s: one token further than its past, or read from the root.

    The short loops only fetch: independent of each other, they wait for all rows at once instead of one by one.
    """
    tree, dead = tree_at(segment), dead_at(segment)
    here, behind = 1 + PLACE * s, counts[0] + counts[1]
    for i in range(len(now)):
        j = now[i, 0]
        if j >= 0 and last[j, here] >= 0 and last[j, here + 1] == 0 and last[j, here + 2] < last[j, here + 3]:
            now[i, here + 4] = tree.token[last[j, here + 2]]
    for i in range(len(now)):
        j = now[i, 0]
        where, what = np.int64(-1), np.int64(-1)
        if j >= 0:
            where, what = last[j, here], last[j, here + 1]
            if where >= 0:
                where, what = live_step(tree, dead, where, what, now[i, behind - 1])
        elif j != OVER:
            where, what = np.int64(0), np.int64(0)
            for k in range(counts[0], behind):
                where, what = live_step(tree, dead, where, what, now[i, k])
        now[i, here], now[i, here + 1] = where, what
    for i in range(len(now)):
        if now[i, here] >= 0 and now[i, here + 1] == 0:
            now[i, here + 2], now[i, here + 3] = first_of(tree, now[i, here]), first_of(tree, now[i, here] + 1)
    for i in range(len(now)):
        if now[i, here] >= 0 and now[i, here + 1] == 0 and now[i, here + 2] < now[i, here + 3]:
            now[i, here + 4] = tree.token[now[i, here + 2]]


@filling_kernel
def write(segment, rows, s, marks, out, source, minus_infinity):
    """Copy the scores of all rows' living children in segment s into `out`, or with the flag of `source` erase them.

    False for a token that the model has not or that would end its output too early. The END that completes an entry
    stands at the first end token.
    """
    tree, dead = tree_at(segment), dead_at(segment)
    here, erase = 1 + PLACE * s, source[1]
    if erase:  # only fetches, see `place`
        for i in range(len(rows)):
            if rows[i, here] >= 0 and rows[i, here + 1] == 0 and rows[i, here + 2] < rows[i, here + 3]:
                rows[i, here + 4] = tree.token[rows[i, here + 2]]
    for i in range(len(rows)):
        if rows[i, here] >= 0:
            if rows[i, here + 1] == 0:
                fine, found = write_nodes(tree, dead, rows[i, here : here + 4], i, marks, out, source, minus_infinity)
            else:
                fine, found = write_rows(tree, dead, rows[i, here : here + 2], i, marks, out, source, minus_infinity)
            if not (erase or fine):
                return False
            if found:
                rows[i, 0] = SHOWN
    return True


@inlined
def write_nodes(tree, dead, state, i, marks, out, source, minus_infinity):
    """`write` for a row inside a subject: whether all went well, and whether there was a score that is not -inf."""
    scores, erase = source
    end, vocabulary = marks[2], out.shape[1]
    plain, found, fine = len(tree.subject_ptr) == 0, False, True
    if not erase:
        for other in marks[2:]:
            if child(tree, state[0], other) >= 0 and not (plain and other == tree.end_id):
                fine = False
    mark = first_marked(dead.node, state[2])
    for at in range(state[2], state[3]):
        if mark < len(dead.node.number) and dead.node.number[mark] == at:
            mark += 1
            continue
        token = token_of(tree, at)
        token = end if plain and token == tree.end_id else token
        if token >= vocabulary:
            fine = False
            break
        value = minus_infinity if erase else scores[i * vocabulary + token]
        found = found or value != minus_infinity
        out[i, token] = value
    return fine, found


@inlined
def write_rows(tree, dead, state, i, marks, out, source, minus_infinity):
    """The same for a row behind its subject."""
    scores, erase = source
    end, vocabulary = marks[2], out.shape[1]
    phase, depth, count = unpack(state[1])
    row, stop, found, fine = state[0], state[0] + count, False, True
    mark = first_marked(dead.row, row)
    while row < stop and phase < 3:
        token = symbol(tree, row, phase, depth)
        following = stop if row + 1 == stop else first_above(tree, phase, depth, row, stop, token)
        gone, size = mark, following - row
        if mark < len(dead.row.number) and dead.row.number[mark] < following:
            mark = first_marked(dead.row, following)
        row = following
        if mark - gone == size:
            continue
        if phase == 2 and token == tree.end_id:
            token = end
        else:
            for other in marks[2:]:
                if token == other:
                    fine = False
        if token >= vocabulary:
            fine = False
        if not fine:
            break
        value = minus_infinity if erase else scores[i * vocabulary + token]
        found = found or value != minus_infinity
        out[i, token] = value
    return fine, found
