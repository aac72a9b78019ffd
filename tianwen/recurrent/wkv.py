"""wkv, the average that RWKV takes over the past: weights e^k, decaying by lam a step, and a weight of its own for now.

Post: 9554 (as y and z, two real linear recurrences); equal to the wkv of RWKV-4.

Notation (-> name in the post; RWKV-4)
    k, v   [batch, length, channels]   keys and values
    nu     [channels] > 0   lam = exp(-nu) (w)
    bonus  [channels]       log gamma (u): what the present step weighs more
    y_t = lam y_{t-1} + e^{k_t} v_t,   z_t = lam z_{t-1} + e^{k_t}
    out = (y_t + (g - 1) e^k v) / (z_t + (g - 1) e^k), g = gamma lam
        = (y_{t-1} + e^{bonus + k} v) / (z_{t-1} + e^{bonus + k})      the same, and nothing is subtracted
    state  [batch, 3, channels] = (a, b, m): y = a e^m, z = b e^m;
           m is the largest exponent so far, so nothing overflows

The reference has no m (overflow from k = 88 on) and writes gamma nu - 1 where gamma lam - 1 is meant.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NOTHING = -1e30
"""The exponent of an empty state: finite, so that differences of exponents are numbers."""


def empty_state(batch: int, channels: int, *, like: Tensor) -> Float[Tensor, " batch 3 channels"]:
    """The state before the first step, on the device of `like`, in float32 (float64 if `like` is)."""
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    state = torch.zeros(batch, 3, channels, dtype=wide, device=like.device)
    state[:, 2] = NOTHING
    return state


def wkv(
    key: Float[Tensor, " batch length channels"],
    value: Float[Tensor, " batch length channels"],
    nu: Float[Tensor, " channels"],
    bonus: Float[Tensor, " channels"],
    *,
    state: Float[Tensor, " batch 3 channels"] | None = None,
    reset: Bool[Tensor, " batch length"] | None = None,
    lengths: Int[Tensor, " batch"] | None = None,
    reverse: bool = False,
) -> tuple[Float[Tensor, " batch length channels"], Float[Tensor, " batch 3 channels"]]:
    """The averages at every step, in the dtype of `value`, and the state after the last.

    `reset`, `lengths` and `reverse` as in `linear_scan`: steps beyond a row's length are never read and give zero.
    """
    batch, length, channels = key.shape
    state = empty_state(batch, channels, like=key) if state is None else state
    fresh = empty_state(batch, channels, like=key)
    rows = torch.full((batch,), length, device=key.device) if lengths is None else lengths
    outs: list[Tensor] = [torch.zeros_like(value[:, 0])] * length
    k, v = key.to(state.dtype), value.to(state.dtype)
    for t in reversed(range(length)) if reverse else range(length):
        counts = (t < rows)[:, None]
        if reset is not None:
            state = torch.where((reset[:, t] & counts[:, 0])[:, None, None], fresh, state)
        out, after = _step(torch.where(counts, k[:, t], 0), torch.where(counts, v[:, t], 0), nu, bonus, state)
        outs[t] = torch.where(counts, out, 0)
        state = torch.where(counts[..., None], after, state)
    return torch.stack(outs, 1).to(value.dtype) if length else value, state


def _step(k: Tensor, v: Tensor, nu: Tensor, bonus: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    a, b, m = state.unbind(1)  # each [batch, channels]
    top = torch.maximum(m, bonus + k)
    past, now = (m - top).exp(), (bonus + k - top).exp()
    out = (past * a + now * v) / (past * b + now)
    top = torch.maximum(m - nu, k)
    past, now = (m - nu - top).exp(), (k - top).exp()
    return out, torch.stack([past * a + now * v, past * b + now, top], 1)
