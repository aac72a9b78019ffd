"""Rotary position embedding (RoPE), interleaved pairs, as RoFormer uses it.

Post: 8265 (used by 8998). Paper: Su et al., RoFormer, 2021.

Notation: d = head size, m = position, theta_i = base^(-2i/d).
Pair (x_{2i}, x_{2i+1}) is turned by the angle m * theta_i.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rope_tables(length: int, head_size: int, *, base: float = 10000.0) -> tuple[Tensor, Tensor]:
    """cos and sin of m * theta_i for m < length, each repeated for both members of a pair: [length, head_size]."""
    theta = base ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * theta[None, :]
    angle = angle.repeat_interleave(2, dim=-1)  # [length, head_size]
    return angle.cos().float(), angle.sin().float()


def rotate(
    x: Float[Tensor, " batch heads length size"],
    cos: Float[Tensor, " batch length size"],
    sin: Float[Tensor, " batch length size"],
) -> Float[Tensor, " batch heads length size"]:
    """Turn each pair of `x` by its position's angle; `cos` and `sin` are rows of `rope_tables` gathered by position."""
    even, odd = x[..., 0::2], x[..., 1::2]
    quarter_turn = torch.stack([-odd, even], dim=-1).flatten(-2)  # [batch, heads, length, size]
    return x * cos[:, None] + quarter_turn * sin[:, None]


def gather_tables(
    tables: tuple[Tensor, Tensor], positions: Int[Tensor, " batch length"]
) -> tuple[Float[Tensor, " batch length size"], Float[Tensor, " batch length size"]]:
    """Rows of the cos and sin tables at `positions`."""
    return tables[0][positions], tables[1][positions]
