"""Score tensors that are -inf but for a few entries, written again and again instead of made anew.

A mask over a vocabulary touches every score: 128 rows of 262,144 are 134 MB, most of whose cost is the pages of a fresh
tensor. Here a tensor that is -inf everywhere is kept; a step writes its few allowed scores, the next one erases just
these. A tensor is used again only when nobody holds it any more and nobody has written to it.

Post: 8802

Notation: B rows, V vocabulary, m allowed entries of all rows together.
    scores  [B, V]    row i may take token[row_ptr[i] : row_ptr[i + 1]]; one list serves all if row_ptr has two entries
    free    [B]       rows whose entries become 0 whatever their scores are
    index   int64 [m], places in the flattened scores
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from tianwen.ask.ragged import filling_kernel

KEPT = 3
"""Tensors kept at most: `generate` holds the scores of the step before while it asks for the next."""

LEAST = -1e6
"""Score of what a row may take if all of it is -inf already: above the -1e9 of the fillers of a beam search."""

WIDE = 16
"""Where one list serves all rows and names more than 1 / WIDE of the columns from its first to its last, they are all
written: that takes a twentieth of the time an entry that single entries take to be written and to be erased."""

MINUS_INFINITY = {
    torch.float64: np.float64(-math.inf),
    torch.float32: np.float32(-math.inf),
    torch.float16: np.int16(-0x400),
    torch.bfloat16: np.int16(-0x80),
}
"""As it stands in the arrays of `as_array`, for the types that the kernels know."""

_WHOLE = {8: torch.int64, 4: torch.int32, 2: torch.int16}
"""Whole numbers of as many bytes as a score."""

_COUNT = getattr(torch._C, "_storage_Use_Count", None)

FINE, UNFIT, HOPELESS = 0, 1, 2

NOTHING = np.zeros(2, np.int64), np.zeros(0, np.int32)
"""A list for all rows, of no token."""

NOWHERE = np.empty((0, 0), np.int64)
"""No rows of a step."""


Written = tuple[np.ndarray, np.ndarray] | np.ndarray | Tensor | range | None


@dataclass
class Buffer:
    """A tensor and how we left it: -inf but at `written` (None: anything anywhere), so many owners, such a version.

    `written` is (row_ptr, token), an index, a range of columns, or the rows of a step of `held_scores`. `array` is the
    same memory for the kernels, if it is the CPU's.
    """

    scores: Tensor
    kind: tuple[Any, ...]  # shape, type and device
    array: np.ndarray | None
    written: Written
    memory: Any  # its storage, as PyTorch counts the owners of
    owners: int
    version: int

    @classmethod
    def like(cls, scores: Tensor) -> Buffer:
        """A new one, -inf everywhere."""
        with torch.inference_mode(False):  # a tensor of inference mode would not count how often it is written to
            fresh = torch.full(scores.shape, -math.inf, dtype=scores.dtype, device=scores.device)
        array = as_array(fresh) if is_known(fresh) else None
        memory = fresh.untyped_storage()
        return cls(fresh, _kind(scores), array, NOTHING, memory, _owners(memory), fresh._version)

    def forget(self) -> tuple[np.ndarray, np.ndarray]:
        """Lists of what is still to be erased; until it is handed out again, nobody knows what is in it."""
        written, self.written = self.written, None
        if written is None or isinstance(written, np.ndarray | range) or self.scores._version != self.version:
            self.scores.fill_(-math.inf)
        elif isinstance(written, Tensor):
            self.scores.view(-1).index_fill_(0, written, -math.inf)
        else:
            return written
        return NOTHING

    def forget_rows(self) -> np.ndarray:
        """The same for `held_scores`: the rows of the step whose children are still to be erased."""
        written, self.written = self.written, None
        if isinstance(written, np.ndarray) and self.scores._version == self.version:
            return written
        self.scores.fill_(-math.inf)
        return NOWHERE

    def forget_columns(self, columns: range) -> None:
        """The same where these columns are going to be written all over: the others are -inf then."""
        written, self.written = self.written, None
        inside = isinstance(written, range) and columns.start <= written.start and written.stop <= columns.stop
        if not (inside or written is NOTHING) or self.scores._version != self.version:
            self.scores.fill_(-math.inf)

    @property
    def is_sparse(self) -> bool:
        """Whether little of it is written, and known."""
        return not (self.written is None or isinstance(self.written, range))

    def handed_out(self, written: Written) -> Tensor:
        """A tensor of its own on the same memory: as long as it or a view of it lives, the memory has another owner."""
        self.written, self.version = written, self.scores._version
        return self.scores.view_as(self.scores)


class ScoreBuffers:
    """Makes tensors like given scores in which everything but some entries is -inf. Not for several threads at once."""

    def __init__(self) -> None:
        self._kept: list[Buffer] = []

    def only(
        self,
        scores: Float[Tensor, " B V"],
        row_ptr: Int64[np.ndarray, " B+1"],
        token: Int32[np.ndarray, " m"],
        free: Bool[np.ndarray, " B"],
        *,
        renormalize: bool = False,
    ) -> Float[Tensor, " B V"]:
        """Scores in which each row has -inf everywhere but at its tokens; with `renormalize` log-probabilities of them.

        A row all of whose tokens are -inf already has `LEAST` there instead, so that something can be chosen.
        Raises IndexError for lists that do not fit the scores.
        """
        if len(free) != len(row_ptr) - 1 or len(free) not in (1, len(scores)):
            raise IndexError(f"{len(row_ptr) - 1} lists and {len(free)} marks do not fit scores {tuple(scores.shape)}.")
        if scores.requires_grad or not scores.is_contiguous():
            scores = scores.detach().contiguous()
        if is_known(scores) and not renormalize:
            written = self._copied(scores, (row_ptr, token), free)
            if written is not None:
                return written
        with torch.no_grad():
            return self._computed(scores, (row_ptr, token), free, renormalize)

    def _copied(self, scores: Tensor, lists: tuple[np.ndarray, np.ndarray], free: np.ndarray) -> Tensor | None:
        """On the CPU: the entries are copied as they are; None if a row has only -inf."""
        row_ptr, token = lists
        wide = len(row_ptr) == 2 and is_wide(token) and not free.any()
        given, buffer = as_array(scores), self.take(scores, clean=not wide)
        assert buffer.array is not None
        # For whole rows the kernel only checks.
        target, old = (buffer.array[:0], NOTHING) if wide else (buffer.array, buffer.forget())
        verdict = copy_lists(target, given, (row_ptr, token, free), old, MINUS_INFINITY[scores.dtype])
        if verdict == UNFIT:
            raise IndexError(f"The lists of {len(token)} tokens do not fit scores {tuple(scores.shape)}.")
        if verdict == HOPELESS:
            return None
        if len(target):
            return buffer.handed_out(lists)
        return WholeRows.of(token, scores).written(scores, buffer)

    def _computed(
        self, scores: Tensor, lists: tuple[np.ndarray, np.ndarray], free: np.ndarray, renormalize: bool
    ) -> Tensor:
        """On any device, with the entries changed on the way."""
        rows, vocabulary = scores.shape
        row_ptr, token = lists
        if len(token) and not 0 <= int(token.min()) <= int(token.max()) < vocabulary:
            raise IndexError(f"The lists of {len(token)} tokens do not fit scores {tuple(scores.shape)}.")
        shared = len(row_ptr) == 2 and rows > 1
        counts = np.full(rows, len(token)) if shared else np.diff(row_ptr)
        token = np.tile(token, rows) if shared else token
        row = torch.from_numpy(np.repeat(np.arange(rows), counts)).to(scores.device)  # [m]
        index = torch.from_numpy(token.astype(np.int64)).to(scores.device) + row * vocabulary  # [m]
        values = scores.view(-1).index_select(0, index)  # [m]
        if free.any():
            each = torch.from_numpy(np.broadcast_to(free, rows).copy()).to(scores.device)
            values = torch.where(each[row], torch.zeros_like(values), values)
        values = _possible(values, row, rows)
        if renormalize:
            values = _log_softmax(values, row, rows)
        buffer = self.take(scores)
        if buffer.array is not None:
            _erase(buffer.array, *buffer.forget(), MINUS_INFINITY[scores.dtype])
        else:
            buffer.forget()
        buffer.scores.view(-1).index_copy_(0, index, values)
        return buffer.handed_out(index)

    def take(self, like: Tensor, *, clean: bool = True) -> Buffer:
        """A kept tensor that fits and is not in use, or a new one; if possible one that is `clean`, or is not.

        A tensor that was written all over costs as much to clean: those that begin a search are kept for beginnings.
        """
        if self._kept and self._kept[0].kind != _kind(like):
            self._kept.clear()
        found = None
        for buffer in self._kept:
            if buffer.is_sparse == clean or len(self._kept) == KEPT:
                if _owners(buffer.memory) != buffer.owners:
                    continue
                if buffer.is_sparse == clean:
                    return buffer
                found = buffer
        if found is not None and len(self._kept) == KEPT:
            return found
        fresh = Buffer.like(like)
        if len(self._kept) < KEPT and fresh.owners > 0:
            self._kept.append(fresh)
        return fresh


def _possible(values: Float[Tensor, " m"], row: Int64[Tensor, " m"], rows: int) -> Float[Tensor, " m"]:
    """The values; where a row has nothing but -inf, because something before us forbade it all, `LEAST` instead."""
    if not torch.isneginf(values).any():
        return values
    top = torch.full((rows,), -math.inf, dtype=values.dtype, device=values.device)
    top = top.scatter_reduce(0, row, values, "amax")
    floor = torch.full_like(values, max(LEAST, torch.finfo(values.dtype).min / 64))
    return torch.where(torch.isneginf(top)[row], floor, values)


def _log_softmax(values: Float[Tensor, " m"], row: Int64[Tensor, " m"], rows: int) -> Float[Tensor, " m"]:
    """Log-probabilities among the entries of each row."""
    wide = values.float() if values.dtype != torch.float64 else values
    top = wide.new_full((rows,), -math.inf).scatter_reduce(0, row, wide, "amax")
    shifted = wide - top[row]
    total = wide.new_zeros(rows).index_add(0, row, shifted.exp())
    return (shifted - total.log()[row]).to(values.dtype)


def _owners(memory: Any) -> int:
    """How many own the memory; 0 where PyTorch does not tell, and then nothing is ever used again."""
    return 0 if _COUNT is None else _COUNT(memory._cdata)


def _kind(scores: Tensor) -> tuple[Any, ...]:
    return scores.shape, scores.dtype, scores.device


def is_known(scores: Tensor) -> bool:
    return scores.is_cpu and scores.dtype in MINUS_INFINITY


def as_array(scores: Tensor) -> np.ndarray:
    """The same memory as an array; types of 16 bits, which are only copied, as their bits."""
    return (scores.view(torch.int16) if scores.element_size() == 2 else scores).numpy()


def is_wide(token: Int32[np.ndarray, " m"]) -> bool:
    """Whether one list of tokens for all rows is better written in whole rows."""
    return len(token) > 0 and len(token) * WIDE > int(token.max()) - int(token.min())


@dataclass(frozen=True)
class WholeRows:
    """One long list for all rows: scores are copied whole, from its first column to its last, but -inf between them.

    A clamp of the bits is as fast as memory, on all cores, and unlike a minimum or a sum right for NaN too. What lies
    outside the list's columns stays -inf from one time to the next: of 12,000 columns a root may need 4,500.
    """

    columns: range
    bounds: Int[Tensor, " 2 columns"]  # least and greatest bits: any if the token is listed, else those of -inf

    @classmethod
    def of(cls, token: Int32[np.ndarray, " m"], like: Float[Tensor, " B V"]) -> WholeRows:
        """For a list of at least one token and scores of this type."""
        kind = _WHOLE[like.element_size()]
        columns = range(int(token.min()), int(token.max()) + 1)
        infinity = torch.full((1,), -math.inf, dtype=like.dtype).view(kind)
        bounds = infinity.expand(2, len(columns)).clone()  # [2, columns]
        listed = torch.from_numpy(token).long() - columns.start
        bounds[0, listed], bounds[1, listed] = torch.iinfo(kind).min, torch.iinfo(kind).max
        return cls(columns, bounds)

    def written(self, scores: Float[Tensor, " B V"], buffer: Buffer) -> Float[Tensor, " B V"]:
        """The scores in a buffer, which is handed out."""
        buffer.forget_columns(self.columns)
        kind, columns = self.bounds.dtype, slice(self.columns.start, self.columns.stop)
        out = buffer.scores.view(kind)[:, columns]
        torch.clamp(scores.view(kind)[:, columns], self.bounds[0], self.bounds[1], out=out)
        return buffer.handed_out(self.columns)


@filling_kernel
def _erase(out, row_ptr, token, minus_infinity):
    for i in range(len(out)):
        k = 0 if len(row_ptr) == 2 else i
        for at in range(row_ptr[k], row_ptr[k + 1]):
            out[i, token[at]] = minus_infinity


@filling_kernel
def copy_lists(out, scores, lists, old, minus_infinity):
    """Erase the old lists from `out`, copy the scores of the new ones (0 for free rows); FINE, UNFIT or HOPELESS.

    HOPELESS: a row that is not free has -inf at all its tokens. An `out` without rows is left alone.
    """
    row_ptr, token, free = lists
    if row_ptr[0] != 0 or row_ptr[len(row_ptr) - 1] != len(token):
        return UNFIT
    for k in range(len(free)):
        if row_ptr[k] > row_ptr[k + 1]:
            return UNFIT
    for at in range(len(token)):
        if not 0 <= token[at] < scores.shape[1]:
            return UNFIT
    for i in range(len(scores)):
        k = 0 if len(row_ptr) == 2 else i
        hopeless = not free[k]
        for at in range(row_ptr[k], row_ptr[k + 1]):
            if not hopeless:
                break
            hopeless = scores[i, token[at]] == minus_infinity
        if hopeless:
            return HOPELESS
    _erase(out, old[0], old[1], minus_infinity)
    for i in range(len(out)):
        k = 0 if len(row_ptr) == 2 else i
        for at in range(row_ptr[k], row_ptr[k + 1]):
            out[i, token[at]] = 0 if free[k] else scores[i, token[at]]
    return FINE
