"""The scan in plain torch, in blocks of steps: for devices that have no kernel of ours.

Post: 9554

Within a block the doubling form: after pass k, x_t holds the sum over the last 2^k inputs; between blocks the state is
carried along. So memory is bound by the block, and no power of lam is ever inverted (lam^t cumsum(lam^-k u) overflows).
The last bits depend on where blocks begin; those of the kernels do not.

Notation
    B  batch    L  length    P  planes: 2 for complex numbers [Re, Im], 1 for real ones    D  channels
    u, x    [B, L, P, D]
    lam     [P, D]
    keep    [B, L]   0 where the state starts anew, else 1
    valid   [B, L]   false beyond a row's length: such a step hands the state on as it is
    g       adjoint of x: g_t = dx_t + conj(lam) g_{t+1}
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 64


class Gradients(NamedTuple):
    """Of a scan's inputs, in the precision of the state but for u."""

    u: Tensor
    lam: Tensor
    gamma: Tensor
    h0: Tensor


def forward(
    u: Tensor,
    lam: Tensor,
    gamma: Tensor | None,
    *,
    h0: Tensor | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """x in the dtype of u, and the last state in that of lam; arguments as in `linear_scan`."""
    keep, valid = _in_order(u, reset, lengths, reverse=reverse)
    scaled = _planes(u, lam, reverse=reverse)
    scaled = scaled if gamma is None else gamma * scaled
    scaled = torch.where(valid[..., None, None], scaled, 0)
    x, last = _blocks(scaled, _factors(lam), _state(h0, u, lam), keep, valid)
    x = torch.where(valid[..., None, None], x, 0)
    return (x.flip(1) if reverse else x).flatten(2).to(u.dtype), last.flatten(1)


def backward(
    grads: tuple[Tensor, Tensor],
    saved: tuple[Tensor, Tensor, Tensor],
    gamma: Tensor | None,
    *,
    h0: Tensor | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> Gradients:
    """Gradients from those of (x, last) and the saved (u, x, lam)."""
    u, x, lam = saved
    keep, valid = _in_order(u, reset, lengths, reverse=reverse)
    shown = valid[..., None, None]
    dx, u_planes, x_planes = (_planes(tensor, lam, reverse=reverse) for tensor in (grads[0], u, x))
    after = torch.zeros_like(keep[:, :1])  # nothing stands between the last step and the last state
    conj = lam * _conjugation(lam)
    g, first = _blocks(
        torch.where(shown, dx, 0).flip(1),
        _factors(conj),
        grads[1].view(-1, *_planes_of(lam)),
        torch.cat([keep[:, 1:], after], 1).flip(1),
        torch.cat([valid[:, 1:], after.bool()], 1).flip(1),
    )
    g = g.flip(1)  # [B, L, P, D]
    state = _state(h0, u, lam)
    entering = torch.cat([torch.zeros_like(valid[:, :1]), valid[:, :-1]], 1)[..., None, None]
    before = torch.where(entering, torch.cat([state[:, None], x_planes[:, :-1]], 1), state[:, None])
    used = (keep * valid)[..., None, None]
    dlam = torch.where(used > 0, times(g, before * _conjugation(lam)), 0).sum((0, 1))
    dgamma = torch.where(shown, g * u_planes, 0).sum((0, 1, 2))
    du = torch.where(shown, g if gamma is None else gamma * g, 0)
    if u.shape[1]:
        enters = torch.where(valid[:, 0, None, None], conj * keep[:, 0, None, None], _one(lam))
        first = times(enters, g[:, 0])
    du = (du.flip(1) if reverse else du).flatten(2).to(u.dtype)
    return Gradients(du, dlam.view_as(lam), dgamma, first.flatten(1))


def times(a: Tensor, b: Tensor) -> Tensor:
    """Product of planar numbers [..., P, D], which may broadcast."""
    if a.shape[-2] == 1:
        return a * b
    (ar, ai), (br, bi) = a.unbind(-2), b.unbind(-2)
    return torch.stack([ar * br - ai * bi, ar * bi + ai * br], -2)


def _planes_of(lam: Tensor) -> tuple[int, int]:
    return (lam.shape[0], lam.shape[1]) if lam.dim() == 2 else (1, lam.shape[0])


def _planes(tensor: Tensor, lam: Tensor, *, reverse: bool) -> Tensor:
    planes = tensor.to(lam.dtype).unflatten(2, _planes_of(lam))  # [B, L, P, D]
    return planes.flip(1) if reverse else planes


def _state(h0: Tensor | None, u: Tensor, lam: Tensor) -> Tensor:
    shape = (u.shape[0], *_planes_of(lam))
    return lam.new_zeros(shape) if h0 is None else h0.view(shape)


def _in_order(u: Tensor, reset: Tensor | None, lengths: Tensor | None, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """keep and valid in the order of the scan."""
    at = torch.arange(u.shape[1], device=u.device).expand(u.shape[:2])
    valid = at >= 0 if lengths is None else at < lengths[:, None]
    keep = torch.ones_like(valid) if reset is None else ~reset
    return (keep.flip(1), valid.flip(1)) if reverse else (keep, valid)


def _one(lam: Tensor) -> Tensor:
    one = torch.zeros(_planes_of(lam), dtype=lam.dtype, device=lam.device)
    one[0] = 1
    return one


def _conjugation(lam: Tensor) -> Tensor:
    signs = torch.ones(_planes_of(lam)[0], 1, dtype=lam.dtype, device=lam.device)
    signs[1:] = -1
    return signs


def _factors(lam: Tensor) -> Tensor:
    return lam.view(_planes_of(lam))


def _blocks(u: Tensor, lam: Tensor, state: Tensor, keep: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    done = [u[:, :0]]
    for begin in range(0, u.shape[1], BLOCK):
        end = begin + BLOCK
        factor = torch.where(keep[:, begin:end, None, None], lam, 0)
        factor = torch.where(valid[:, begin:end, None, None], factor, _one(lam))  # [B, length, P, D]
        x = _block(u[:, begin:end], factor, state)
        state = x[:, -1]
        done.append(x)
    return torch.cat(done, 1), state


def _block(u: Tensor, factor: Tensor, state: Tensor) -> Tensor:
    x = torch.cat([u[:, :1] + times(factor[:, :1], state[:, None]), u[:, 1:]], 1)
    reach = 1
    while reach < u.shape[1]:
        x = torch.cat([x[:, :reach], x[:, reach:] + times(factor[:, reach:], x[:, :-reach])], 1)
        factor = torch.cat([factor[:, :reach], times(factor[:, reach:], factor[:, :-reach])], 1)
        reach *= 2
    return x
