"""Attention masks: which tokens may a token look at? True means visible.

Post: 8998 (UniLM mask), 6933 (one model, three masks). Paper: Dong et al., UniLM, 2019.

Notation
    B  batch      T  tokens of the whole sequence      N  new tokens, the last N of T (the rest is in the cache)
    valid    [B, T]: true at real tokens, false at padding (on either side)
    u_i      segment_0 + .. + segment_i, the cumulative sum of segment ids
    encoder  everybody sees everybody           causal  j <= i           UniLM  u_j <= u_i

The UniLM rule in words: segment 0 (the source) sees all of segment 0; a token of segment 1 (the target) sees the source
and its own past. Nobody sees padding. Rows of padding see themselves, so that no softmax runs over nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Rule = Literal["encoder", "causal", "unilm"]


def encoder_mask(valid: Bool[Tensor, " batch total"]) -> Bool[Tensor, " batch 1 1 total"]:
    """Every token sees every real token; broadcast over the rows. A row that is all padding sees itself whole."""
    return (valid | ~valid.any(dim=-1, keepdim=True))[:, None, None]  # [B, 1, 1, T]


def causal_mask(
    valid: Bool[Tensor, " batch total"], *, new: int | None = None
) -> Bool[Tensor, " batch 1 new_tokens total"]:
    """A token sees real tokens up to itself; `new` keeps the last rows only, for use with a cache."""
    order = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    return _visible(order, valid, new)


def unilm_mask(
    segments: Int[Tensor, " batch total"], valid: Bool[Tensor, " batch total"] | None = None, *, new: int | None = None
) -> Bool[Tensor, " batch 1 new_tokens total"]:
    """The prefix language model's mask, from segment ids 0 (source) and 1 (target); padding may have any segment."""
    if valid is None:
        valid = torch.ones_like(segments, dtype=torch.bool)
    return _visible((segments * valid).cumsum(dim=1), valid, new)


def _visible(order: Tensor, valid: Tensor, new: int | None) -> Tensor:
    """order_j <= order_i and j is real, or j = i: [B, 1, N, T]."""
    total = valid.shape[1]
    first = 0 if new is None else total - new
    visible = (order[:, None, :] <= order[:, first:, None]) & valid[:, None, :]  # [B, N, T]
    itself = torch.ones(total, total, dtype=torch.bool, device=valid.device).tril_().triu_()[first:]  # the diagonal
    return (visible | itself)[:, None]


def valid_tokens(lengths: Int[Tensor, " batch"], total: int) -> Bool[Tensor, " batch total"]:
    """True at the first `lengths` tokens of each row: right padding."""
    return torch.arange(total, device=lengths.device) < lengths[:, None]
