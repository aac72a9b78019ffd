"""Rotary position embedding (RoPE), interleaved pairs, as RoFormer uses it.

Post: 8265 (used by 8998). Paper: Su et al., RoFormer, 2021.

Notation
    s        head size (even)          m   position           theta_i = base^(-2i/s), i = 0 .. s/2 - 1
    turns    [..., s/2, 2]: cos and sin of m * theta_i, that is the complex number e^(i m theta_i)
    The pair (x_{2i}, x_{2i+1}), read as a complex number, is multiplied by its turn. Since <R_m q, R_n k> depends on
    n - m alone, no position is special and none is too large: tables are a cache, not a limit.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def turns_at(
    positions: Int[Tensor, " *shape"], head_size: int, *, base: float = 10000.0
) -> Float[Tensor, " *shape half 2"]:
    """cos and sin of m * theta_i for every position m, computed in float64 and rounded once to float32."""
    exponent = torch.arange(0, head_size, 2, dtype=torch.float64, device=positions.device) / head_size
    angle = positions.to(torch.float64)[..., None] * base**-exponent  # [..., s/2]
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float()


LONGEST_TABLE = 1 << 16


class RopeTable:
    """Turns of the positions 0 .. n-1, kept per device; it grows when a longer sequence comes, up to 65,536 rows.

    Positions beyond that, and negative ones, are computed each time: one odd position must not fill the memory.

    It is not a buffer on purpose: half-precision casts of the model would blur it, and a table that grows on one
    process only would break the buffer broadcast of distributed training.
    """

    def __init__(self, length: int, head_size: int, *, base: float = 10000.0) -> None:
        self.head_size = head_size
        self.base = base
        self._length = length
        self._rows: dict[torch.device, Tensor] = {}

    def rows(self, positions: Int[Tensor, " batch length"], *, bound: int | None = None) -> Tensor:
        """Turns at `positions`: [batch, length, s/2, 2] float32.

        With `bound`, a promise that 0 <= position < bound, the positions are not looked at (no wait for a GPU).
        """
        if bound is None:
            low, high = (int(p) for p in positions.aminmax()) if positions.numel() else (0, 0)
            bound = LONGEST_TABLE + 1 if low < 0 else high + 1
        if bound > LONGEST_TABLE:
            return turns_at(positions, self.head_size, base=self.base)
        table = self._rows.get(positions.device)
        if table is None or table.shape[0] < bound:
            self._length = max(self._length, 2 ** (bound - 1).bit_length() if bound > self._length else 0)
            table = turns_at(torch.arange(self._length, device=positions.device), self.head_size, base=self.base)
            self._rows[positions.device] = table
        return table[positions]


def rotate(
    x: Float[Tensor, " batch length *heads size"], turns: Float[Tensor, " #batch length half 2"]
) -> Float[Tensor, " batch length *heads size"]:
    """Turn each pair of `x` by its position's angle; any number of axes (heads) may stand between length and size.

    float16 and bfloat16 inputs are turned in float32 and rounded back.
    """
    between = x.dim() - 3
    work = x if x.dtype in (torch.float32, torch.float64) else x.float()
    turns = turns.to(work.dtype).view(*turns.shape[:2], *[1] * between, *turns.shape[2:])  # [B, T, 1.., s/2, 2]
    pairs = work.unflatten(-1, (-1, 2))  # [B, T, .., s/2, 2]
    if x.device.type in ("cpu", "cuda") and not torch.compiler.is_compiling():  # one fused pass over memory
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    else:
        turned = rotate_pairs(pairs, turns)
    return turned.flatten(-2).to(x.dtype)


def rotate_pairs(pairs: Tensor, turns: Tensor) -> Tensor:
    """The rotation in real numbers, for compilers and devices without complex numbers; both [.., s/2, 2]."""
    even, odd = pairs.unbind(-1)
    cos, sin = turns.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
