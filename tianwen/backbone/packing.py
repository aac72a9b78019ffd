"""Padding-free batches: sequences laid end to end, attention within each, everything else on real tokens only.

Post: 8998 (speed of the backbone).

Notation
    n  tokens of a pack (the sum of its lengths)      h, s  heads and their size
    run  (c, t): c neighbouring sequences of equal length t, the tokens [c * t] of a pack

Sequences are sorted by length, so equal lengths stand together and each run is one attention call on a plain view
[c, h, t, s]: no copies, no mask, no work on padding. On a CPU this beat a block-diagonal mask 4 to 14 times, padding
inside attention up to 4 times and nested tensors 4 to 10 times (docs/posts/8998.md). On a GPU, where a call costs more
than its arithmetic, one kernel takes all sequences (`ragged.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from tianwen.backbone.masks import Rule, unilm_mask
from tianwen.backbone.ragged import attend_ragged
from tianwen.errors import InputError


@runtime_checkable
class Attends(Protocol):
    """Attention over tokens laid end to end, by whatever rule, with whatever cache."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Mixed values [1, h, n, s] of queries, keys and values [1, h, n, s]."""
        ...


@dataclass(frozen=True)
class Runs:
    """Who attends to whom in a pack: within each sequence, by `rule`."""

    shapes: tuple[tuple[int, int], ...]  # (count, length) of each run
    rule: Rule = "encoder"
    masks: tuple[Tensor, ...] = ()  # bool [c, 1, t, t], one a run, for UniLM only

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length of each sequence, in pack order."""
        return tuple(length for count, length in self.shapes for _ in range(count))

    def attend(
        self,
        query: Float[Tensor, " 1 heads tokens size"],
        key: Float[Tensor, " 1 heads tokens size"],
        value: Float[Tensor, " 1 heads tokens size"],
        *,
        dropout: float = 0.0,
    ) -> Float[Tensor, " 1 heads tokens size"]:
        """Scaled dot-product attention inside each sequence of the pack."""
        if query.is_cuda and self.rule == "encoder" and len(self.shapes) > 1:
            return attend_ragged(query, key, value, self.lengths, dropout=dropout)
        mixed = []
        plain = self.rule == "encoder" and dropout == 0.0 and query.dtype == torch.bfloat16 and not query.is_cuda
        # Split in one step: the backward pass of each slice alone would fill a tensor as large as the pack.
        sizes = [count * length for count, length in self.shapes]
        parts = zip(*(x[0].split(sizes, dim=1) for x in (query, key, value)), strict=True)
        for index, ((count, length), run) in enumerate(zip(self.shapes, parts, strict=True)):
            q, k, v = (x.unflatten(1, (count, length)).transpose(0, 1) for x in run)  # [c, h, t, s]
            mask = self.masks[index] if self.masks else None
            if plain and length <= LONGEST_PLAIN:
                out = _plainly(q, k, v)
            else:
                causal = self.rule == "causal"
                out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
            mixed.append(out.transpose(1, 2).flatten(0, 1))  # [c * t, h, s]
        return torch.cat(mixed).transpose(0, 1)[None]  # [1, h, n, s]


LONGEST_PLAIN = 512
"""Up to this length bfloat16 sequences attend by plain products on a CPU, whose fused kernel takes 2 to 5 times as long
for it, forward and backward."""


def _plainly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(s)) v with [c, h, t, t] weights in memory."""
    with torch.autocast(query.device.type, enabled=False):  # else the softmax would be taken in float32 memory
        return ((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)).softmax(-1) @ value


@dataclass(frozen=True)
class Pack:
    """Several sequences end to end, sorted by length. All tensors are [tokens]."""

    ids: Int[Tensor, " tokens"]
    segments: Int[Tensor, " tokens"]
    positions: Int[Tensor, " tokens"]  # 0, 1, .. in each sequence
    runs: Runs
    order: tuple[int, ...]  # which input each sequence is

    @property
    def lengths(self) -> list[int]:
        """Length of each sequence, in pack order."""
        return list(self.runs.lengths)

    @property
    def starts(self) -> Int[Tensor, " sequences"]:
        """Where each sequence starts, in pack order: `hidden[pack.starts]` are the first tokens."""
        ends = np.cumsum(self.lengths)
        return torch.from_numpy(ends - self.lengths).to(self.ids.device)

    def split(self, tokens: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(input index, its rows) of a tensor [tokens, ..]."""
        yield from zip(self.order, tokens.split(self.lengths), strict=True)

    def to(self, device: torch.device | str) -> Pack:
        """The same pack on another device."""
        masks = tuple(mask.to(device) for mask in self.runs.masks)
        ids, segments, positions = (x.to(device) for x in (self.ids, self.segments, self.positions))
        return Pack(ids, segments, positions, Runs(self.runs.shapes, self.runs.rule, masks), self.order)


def pack(
    sequences: Sequence[ArrayLike],
    *,
    segments: Sequence[ArrayLike] | None = None,
    rule: Rule = "encoder",
    budget: int = 1024,
) -> list[Pack]:
    """Packs of at most `budget` tokens (a longer sequence travels alone), empty sequences left out.

    `sequences` are rows of token ids (lists, arrays or CPU tensors), `segments` rows of the same lengths.
    Raises InputError for rows that are not one-dimensional integers, or whose lengths disagree.
    """
    if budget < 1:
        raise InputError(f"The token budget is {budget}; it must be at least 1 (1024 to 2048 is fastest on a CPU).")
    rows = [_row(sequence, index, "token ids") for index, sequence in enumerate(sequences)]
    marks = None if segments is None else [_row(marks, index, "segment ids") for index, marks in enumerate(segments)]
    if marks is not None and [len(row) for row in rows] != [len(mark) for mark in marks]:
        raise InputError("Segment ids must have the lengths of the token ids, row by row. Check both for truncation.")
    if rule == "unilm" and marks is None:
        raise InputError("The UniLM rule needs `segments` to tell the source (0) from the target (1).")
    return [_lay_out(rows, marks, group, rule) for group in group_by_budget([len(row) for row in rows], budget)]


def group_by_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices sorted by length and cut into groups of at most `budget` tokens; length 0 is left out."""
    groups: list[list[int]] = []
    filled = 0
    for index in sorted((i for i, length in enumerate(lengths) if length), key=lambda i: lengths[i]):
        if not groups or filled + lengths[index] > budget:
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += lengths[index]
    return groups


def _row(values: ArrayLike, index: int, what: str) -> np.ndarray:
    """One row as int64."""
    row = np.asarray(values)
    if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
        raise InputError(
            f"Row {index} of the {what} has shape {row.shape} and type {row.dtype}; a row is a list of integers."
        )
    return row.astype(np.int64)


def _lay_out(rows: list[np.ndarray], marks: list[np.ndarray] | None, group: list[int], rule: Rule) -> Pack:
    """One pack from the rows of `group`, which are sorted by length."""
    lengths = [len(rows[index]) for index in group]
    ids = torch.from_numpy(np.concatenate([rows[index] for index in group]))
    segments = torch.zeros_like(ids)
    if marks is not None:
        segments = torch.from_numpy(np.concatenate([marks[index] for index in group]))
    shapes = tuple((len(list(same)), length) for length, same in groupby(lengths))
    masks = tuple(_run_masks(segments, shapes)) if rule == "unilm" else ()
    positions = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))
    return Pack(ids, segments, positions, Runs(shapes, rule, masks), tuple(group))


def _run_masks(segments: Tensor, shapes: tuple[tuple[int, int], ...]) -> Iterator[Tensor]:
    """The UniLM mask of each run: [c, 1, t, t]."""
    sizes = [count * length for count, length in shapes]
    for run, (count, length) in zip(segments.split(sizes), shapes, strict=True):
        yield unilm_mask(run.view(count, length))
