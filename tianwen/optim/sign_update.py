"""One step of a sign optimiser as pure functions of one tensor: what Tiger and Lion do, readable and slow.

Post: 9512 (Tiger), 9473 (Lion), 8634 (accumulation inside the momentum), 9736

Notation (-> name in the posts)
    theta  weights [...]            g  their gradient [...]             m  momentum [...]
    u      what the sign is taken of: m itself (Tiger), a blend of m and g (Lion)
    eta    rate -> alpha_t RMS(theta), a number or one a row [rows, 1, ...]             lam  weight decay -> lambda
    k      micro-steps in a window, j = 1 .. k the one at hand

    Tiger   m <- d m + (1 - beta) g / k,                 d = beta at the first micro-step of a window, 1 at the others
            theta <- theta - eta (sign(m) + lam theta)   after the last micro-step
    Lion    u = beta1 m + (1 - beta1) g,                 m <- beta2 m + (1 - beta2) g
            theta <- theta - eta (sign(u) + lam theta)

Summed over a window the momentum gets (1 - beta) times the mean gradient and decays once: exactly what one step on the
accumulated gradient does, without a buffer for it. Lion takes the sign of a blend that is not kept, so it cannot.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

_LARGE = 1e15


def tiger_update(
    theta: Float[Tensor, " *shape"],
    m: Float[Tensor, " *shape"],
    g: Float[Tensor, " *shape"],
    *,
    rate: float | Tensor,
    beta: float,
    weight_decay: float,
) -> tuple[Float[Tensor, " *shape"], Float[Tensor, " *shape"]]:
    """The weights and the momentum after one step of Tiger (k = 1); nothing is changed in place."""
    m = beta * m + (1 - beta) * g
    return theta - rate * (torch.sign(m) + weight_decay * theta), m


def lion_update(
    theta: Float[Tensor, " *shape"],
    m: Float[Tensor, " *shape"],
    g: Float[Tensor, " *shape"],
    *,
    rate: float | Tensor,
    betas: tuple[float, float],
    weight_decay: float,
) -> tuple[Float[Tensor, " *shape"], Float[Tensor, " *shape"]]:
    """The weights and the momentum after one step of Lion; nothing is changed in place."""
    u = betas[0] * m + (1 - betas[0]) * g
    return theta - rate * (torch.sign(u) + weight_decay * theta), betas[1] * m + (1 - betas[1]) * g


def row_rms(theta: Float[Tensor, " rows *rest"]) -> Float[Tensor, " rows *ones"]:
    """Root mean square of each row, the other axes kept with length 1; 0 for rows of no length or not finite."""
    if not theta.numel():
        return theta.new_zeros(theta.shape[0], *[1] * (theta.ndim - 1))
    rest = tuple(range(1, theta.ndim))
    largest = torch.linalg.vector_norm(theta, math.inf, dim=rest, keepdim=True)
    # Where squares would leave the range of float32 the row is divided by its largest value first.
    extreme = (largest > _LARGE) | ((largest < 1 / _LARGE) & (largest > 0))
    unit = torch.where(extreme, largest, 1.0)
    rms = (theta / unit).square().mean(dim=rest, keepdim=True).sqrt() * unit  # [rows, 1, ...]
    return torch.where(rms.isfinite(), rms, 0.0)


def shrunk(theta: Float[Tensor, " *shape"], ratio: float, centre: float) -> Float[Tensor, " *shape"]:
    """`theta` drawn towards `centre`, where it has no effect: 1 for gains, 0 for all else."""
    return (theta - centre) * ratio + centre
