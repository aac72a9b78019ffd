"""wkv in plain torch, a step at a time: the truth for the tests, and what runs where there is no kernel.

Post: 9554

Notation as in `wkv.py`. Slow: a dozen small operations a step; autograd follows them.
"""

from __future__ import annotations

import torch
from torch import Tensor

NOTHING = -1e30
"""The exponent of an empty state: finite, so that differences of exponents are numbers."""


def forward(
    key: Tensor,
    value: Tensor,
    lam: Tensor,
    bonus: Tensor,
    *,
    state: Tensor,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The averages in the dtype of value, and the last state; arguments as in `wkv`."""
    batch, length, _ = key.shape
    fresh = torch.zeros_like(state)
    fresh[:, 2] = NOTHING
    rows = torch.full((batch,), length, device=key.device) if lengths is None else lengths
    outs: list[Tensor] = [value[:, 0]] * length
    k, v = key.to(state.dtype), value.to(state.dtype)
    for t in reversed(range(length)) if reverse else range(length):
        counts = (t < rows)[:, None]  # [batch, 1]
        if reset is not None:
            state = torch.where((reset[:, t] & counts[:, 0])[:, None, None], fresh, state)
        out, after = _step(torch.where(counts, k[:, t], 0), torch.where(counts, v[:, t], 0), lam, bonus, state)
        outs[t] = torch.where(counts, out, 0)
        state = torch.where(counts[..., None], after, state)
    return (torch.stack(outs, 1).to(value.dtype) if length else torch.zeros_like(value)), state.clone()


def _step(k: Tensor, v: Tensor, lam: Tensor, bonus: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    a, b, m = state.unbind(1)  # each [batch, channels]
    top = torch.maximum(m, bonus + k)
    past, now = (m - top).exp(), (bonus + k - top).exp()
    out = (past * a + now * v) / (past * b + now)
    top = torch.maximum(m, k).detach()
    past, now = (m - top).exp() * lam, (k - top).exp()
    a, b = past * a + now * v, past * b + now
    scale = b.detach()  # at least e^-(distance to the largest key): brought back to 1, so that it never vanishes
    return out, torch.stack([a / scale, b / scale, top + scale.log()], 1)
