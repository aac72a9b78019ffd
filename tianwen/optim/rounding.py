"""Stochastic rounding to bfloat16 and float16, so that steps far below half a unit in the last place count on average.

Post: 9736 (a sign optimiser's relative step of 1e-3 is a quarter of a bfloat16 unit: rounded to nearest it is lost)

Notation
    x  value in float32        ulp  distance of the 16-bit numbers around x        r  uniform in [0, 1)
    stored = floor(x / ulp + r) ulp,  so E[stored] = x and a value that 16 bits can hold is kept exactly

The random numbers are a hash of (seed, step, parameter, position), not of a generator's state: a resumed run and the
replicas of a distributed one draw the same.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tianwen.errors import InputError

_FRACTION_BITS = {torch.bfloat16: 7, torch.float16: 10}
_LOWEST_EXPONENT = {torch.bfloat16: -126, torch.float16: -14}
_MASK = 0xFFFFFFFF
_AT_ONCE = 1 << 22  # numbers; the hash needs many times their memory


def rounded(x: Float[Tensor, " *shape"], dtype: torch.dtype, key: tuple[int, int, int]) -> Float[Tensor, " *shape"]:
    """`x` (float32) in `dtype`, rounded up or down at random; `key` is (seed, step, parameter)."""
    if dtype not in _FRACTION_BITS:
        raise InputError(f"Stochastic rounding is for bfloat16 and float16, not for {dtype}.")
    wide = x.float().reshape(-1)  # [numbers]
    stored = torch.empty_like(wide, dtype=dtype)
    for begin in range(0, len(wide), _AT_ONCE):
        stored[begin : begin + _AT_ONCE] = _rounded(wide[begin : begin + _AT_ONCE], dtype, key, begin)
    return stored.view(x.shape)


def _rounded(x: Float[Tensor, " n"], dtype: torch.dtype, key: tuple[int, int, int], begin: int) -> Float[Tensor, " n"]:
    bits = 23 - _FRACTION_BITS[dtype]  # as many as float32 has below the unit: more would round x + r up to the next
    r = uniform(len(x), key, begin=begin, bits=bits, device=x.device)
    exponent = (torch.frexp(x).exponent - 1).clamp(min=_LOWEST_EXPONENT[dtype])  # |x| in [2^e, 2^(e+1)), or below
    ulp = torch.ldexp(torch.ones_like(x), exponent - _FRACTION_BITS[dtype])
    # floor and the product are exact: x / ulp has at most 8 or 11 bits before the point.
    limit = torch.finfo(dtype).max
    stored = ((x / ulp + r).floor() * ulp).clamp(-limit, limit)
    return torch.where(x.isfinite(), stored, x).to(dtype)


def uniform(
    count: int, key: tuple[int, int, int], *, begin: int = 0, bits: int = 16, device: torch.device | str = "cpu"
) -> Float[Tensor, " count"]:
    """`count` numbers in [0, 1), multiples of 2^-bits (at most 24), a pure function of the key and the position."""
    start = 0
    for part in key:
        start = _mixed_int((start ^ (part & _MASK)) + 0x9E3779B9)
    return (
        _mixed((torch.arange(begin, begin + count, device=device) & _MASK) ^ start) >> (32 - bits)
    ).float() * 2.0**-bits


def _mixed(x: Int64[Tensor, " count"]) -> Int64[Tensor, " count"]:
    """A mixer of 32 bits (xor, shift, multiply) on the low half of int64; products stay below 2^63."""
    x = (x ^ (x >> 16)) * 0x21F0AAAD & _MASK
    x = (x ^ (x >> 15)) * 0x735A2D97 & _MASK
    return x ^ (x >> 15)


def _mixed_int(x: int) -> int:
    x &= _MASK
    x = (x ^ (x >> 16)) * 0x21F0AAAD & _MASK
    x = (x ^ (x >> 15)) * 0x735A2D97 & _MASK
    return x ^ (x >> 15)
