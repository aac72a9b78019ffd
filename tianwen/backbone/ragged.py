"""Attention within each sequence of a pack on a GPU: one kernel for all of them, where a CPU takes one call a run.

Post: 8998 (padding-free batches).

Notation
    n  tokens of a pack      S  sequences      t_i  their lengths, nearly sorted      h, s  heads and their size

    varlen   Flash Attention over sequences of any length; PyTorch's own since 2.10, 16-bit, without dropout. It is
             tried once and compared with the padded way, values and gradients, before it is trusted.
    padded   groups of sequences of nearly equal length, each padded to its longest: works everywhere
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

LARGEST_HEAD = 256
"""Flash Attention takes heads of a multiple of 8 up to this size."""

SPREAD = 1.25
"""The longest sequence of a padded group has at most this many times the tokens of its shortest."""


class Group(NamedTuple):
    """Sequences that are padded together: where their tokens lie in the pack, and in the padded rows."""

    start: int
    tokens: int
    rows: int
    longest: int
    place: Int[Tensor, " tokens"]  # in the rows laid end to end
    valid: Bool[Tensor, " rows 1 1 longest"]


def attend_ragged(
    query: Float[Tensor, " 1 heads tokens size"],
    key: Float[Tensor, " 1 heads tokens size"],
    value: Float[Tensor, " 1 heads tokens size"],
    lengths: tuple[int, ...],
    *,
    dropout: float = 0.0,
) -> Float[Tensor, " 1 heads tokens size"]:
    """Scaled dot-product attention inside each of the sequences laid end to end, everyone seeing everyone."""
    fits = dropout == 0.0 and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] % 8 == 0
    if fits and query.shape[-1] <= LARGEST_HEAD and _varlen_works(query.device, query.dtype):
        return _varlen(query, key, value, lengths)
    return attend_padded(query, key, value, lengths, dropout=dropout)


def attend_padded(
    query: Float[Tensor, " 1 heads tokens size"],
    key: Float[Tensor, " 1 heads tokens size"],
    value: Float[Tensor, " 1 heads tokens size"],
    lengths: tuple[int, ...],
    *,
    dropout: float = 0.0,
) -> Float[Tensor, " 1 heads tokens size"]:
    """The same by padding groups of nearly equal length."""
    mixed = []
    for group in _groups(lengths, query.device):
        q, k, v = (_pad(x[0].transpose(0, 1), group) for x in (query, key, value))  # [rows, h, longest, s]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=group.valid, dropout_p=dropout)
        mixed.append(out.transpose(1, 2).flatten(0, 1).index_select(0, group.place))  # [group's tokens, h, s]
    return torch.cat(mixed).transpose(0, 1)[None]  # [1, h, n, s]


def _pad(x: Float[Tensor, " tokens heads size"], group: Group) -> Float[Tensor, " rows heads longest size"]:
    padded = x.new_zeros(group.rows * group.longest, *x.shape[1:])
    padded = padded.index_copy(0, group.place, x[group.start : group.start + group.tokens])
    return padded.unflatten(0, (group.rows, group.longest)).transpose(1, 2)


@lru_cache(maxsize=8)
def _groups(lengths: tuple[int, ...], device: torch.device) -> list[Group]:
    """The padded groups of a pack; kept, because each layer asks for them."""
    cuts = [0]
    for index, length in enumerate(lengths):
        if abs(length - lengths[cuts[-1]]) > max((SPREAD - 1) * lengths[cuts[-1]], 8):
            cuts.append(index)
    groups, start = [], 0
    for first, end in pairwise([*cuts, len(lengths)]):
        sizes = torch.tensor(lengths[first:end])
        longest = int(sizes.max())
        valid = torch.arange(longest) < sizes[:, None]  # [rows, longest]
        place = valid.flatten().nonzero()[:, 0]
        groups.append(Group(start, len(place), len(sizes), longest, place.to(device), valid[:, None, None].to(device)))
        start += len(place)
    return groups


@lru_cache(maxsize=8)
def _ends(lengths: tuple[int, ...], device: torch.device) -> Int[Tensor, " sequences+1"]:
    """0 and where each sequence ends."""
    return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)


def _varlen(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...]) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))  # [n, h, s]
    ends = _ends(lengths, query.device)
    mixed = varlen_attn(q, k, v, ends, ends, max(lengths), max(lengths))
    assert isinstance(mixed, Tensor)
    return mixed.transpose(0, 1)[None]


@cache
def _varlen_works(device: torch.device, dtype: torch.dtype) -> bool:
    """This build has the kernel, and it gives what padding gives."""
    if device.type != "cuda":
        return False
    lengths = (3, 3, 17, 40)
    with torch.random.fork_rng(devices=[device]), torch.enable_grad(), torch.autocast("cuda", enabled=False):
        torch.manual_seed(0)
        x = torch.randn(3, 1, 2, sum(lengths), 64, device=device).to(dtype)
        outcomes = []
        try:
            for way in (_varlen, attend_padded):
                inputs = x.clone().requires_grad_()
                mixed = way(inputs[0], inputs[1], inputs[2], lengths)
                mixed.float().square().sum().backward()
                assert inputs.grad is not None
                outcomes.append((mixed.float(), inputs.grad.float()))
        except (ImportError, RuntimeError, TypeError, NotImplementedError):
            return False
    return all(bool(((a - b).abs() <= 0.05 + 0.05 * b.abs()).all()) for a, b in zip(*outcomes, strict=True))
