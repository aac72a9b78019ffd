"""Gradients of equal length for every task, so that none drowns the others.

Post: 8896 (several losses as one aim), used by 8998 in its multi-task stage.

Notation
    i        task      L_i  its loss on a batch      theta  weights that all tasks share      phi_i  those of its head
    g_i      gradient of L_i by theta                u_i = 1 / |g_i|
    update   sum over the batches of a step of g_i / |g_i|;  a head's own gradient is multiplied by the same u_i

A training loop knows losses, not gradients. So the gradient is taken here, and what is handed on is a number with the
value of the loss whose gradient is the normalised one:  L_i + <u_i g_i, theta> - (the same, held fixed).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

TINY = 1e-12
"""A shared gradient shorter than this is left as it is: there is nothing to normalise."""


def with_unit_gradient(
    loss: Float[Tensor, ""], shared: Sequence[Tensor], own: Sequence[Tensor] = ()
) -> Float[Tensor, ""]:
    """A number equal to `loss` whose gradient by `shared` has length 1; the one by `own` is scaled alike.

    A gradient that is not finite is handed on as it is, for the loop to skip.
    """
    parameters = [p for p in (*shared, *own) if p.requires_grad]
    with torch.autocast(loss.device.type, enabled=False):
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        count = sum(p.requires_grad for p in shared)
        squares = [_wide(g).square().sum() for g in gradients[:count] if g is not None]
        length = torch.stack(squares).sum().sqrt() if squares else loss.new_zeros(())
        scale = torch.where(length > TINY, 1 / length, torch.ones_like(length))
        pairs = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        if not pairs:
            return loss
        handle = torch.stack([((g.detach() * scale.to(g.dtype)) * p).sum() for p, g in pairs]).sum()
    return loss.detach() + (handle - handle.detach())


def _wide(gradient: Tensor) -> Tensor:
    """float32 at least: squares of 16-bit numbers vanish."""
    return gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32))
