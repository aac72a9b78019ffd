"""Score tensors that are -inf but for a few entries, written again and again instead of made anew.

A mask over a vocabulary touches every score: 128 rows of 262,144 are 134 MB, most of whose cost is the pages of a fresh
tensor. Here a tensor that is -inf everywhere is kept; a step writes its few allowed scores, the next one erases just
these. A tensor is used again only when nobody holds it any more and nobody has written to it.

Post: 8802

Notation: B rows, V vocabulary, m allowed entries of all rows together.
    scores  [B, V]    index  int64 [m], places in the flattened scores
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

KEPT = 3
"""Tensors kept at most: `generate` holds the scores of the step before while it asks for the next."""


@dataclass
class _Buffer:
    """`scores` is -inf but at `written` (None: anything anywhere); `owners` and `version` tell what others did."""

    scores: Tensor
    written: Tensor | None
    owners: int
    version: int

    @classmethod
    def like(cls, scores: Tensor) -> _Buffer:
        """A new one, -inf everywhere."""
        with torch.inference_mode(False):  # a tensor of inference mode would not count how often it is written to
            fresh = torch.full(scores.shape, -math.inf, dtype=scores.dtype, device=scores.device)
        nowhere = torch.empty(0, dtype=torch.int64, device=scores.device)
        return cls(fresh, nowhere, _owners(fresh), fresh._version)

    def is_free(self) -> bool:
        """Whether nobody but us can see it."""
        return _owners(self.scores) == self.owners

    def fits(self, like: Tensor) -> bool:
        """Whether it is of this shape, type and device."""
        mine = self.scores
        return mine.shape == like.shape and mine.dtype == like.dtype and mine.device == like.device


class ScoreBuffers:
    """Makes tensors like given scores in which everything but some entries is -inf. Not for several threads at once."""

    def __init__(self) -> None:
        self._kept: list[_Buffer] = []

    def only(
        self, like: Float[Tensor, " B V"], index: Int64[Tensor, " m"], values: Float[Tensor, " m"]
    ) -> Float[Tensor, " B V"]:
        """A tensor like the scores: `values` at the flat places `index`, -inf elsewhere."""
        buffer = self._free(like)
        flat = buffer.scores.view(-1)  # [B * V]
        if buffer.written is None or buffer.scores._version != buffer.version:
            flat.fill_(-math.inf)
        else:
            flat.index_fill_(0, buffer.written, -math.inf)
        flat.index_copy_(0, index, values)
        return _handed_out(buffer, written=index)

    def plus(self, scores: Float[Tensor, " B V"], bias: Float[Tensor, " V"]) -> Float[Tensor, " B V"]:
        """scores + bias, where the bias is 0 at the tokens that all rows may take and -inf at the others."""
        buffer = self._free(scores)
        torch.add(scores, bias, out=buffer.scores)
        return _handed_out(buffer, written=None)

    def _free(self, like: Tensor) -> _Buffer:
        """A kept tensor that fits and is not in use, or a new one."""
        self._kept = [buffer for buffer in self._kept if buffer.fits(like)]
        for buffer in self._kept:
            if buffer.is_free():
                return buffer
        fresh = _Buffer.like(like)
        if len(self._kept) < KEPT and fresh.owners > 0:
            self._kept.append(fresh)
        return fresh


def _handed_out(buffer: _Buffer, *, written: Tensor | None) -> Tensor:
    """A tensor of its own on the same memory: as long as it, or a view of it, lives, the memory has another owner."""
    buffer.written = written
    buffer.version = buffer.scores._version
    return buffer.scores.view_as(buffer.scores)


def _owners(tensor: Tensor) -> int:
    """How many tensors share the memory; 0 where PyTorch does not tell, and then nothing is ever used again."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    return 0 if count is None else int(count(tensor.untyped_storage()._cdata))
