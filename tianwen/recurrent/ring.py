"""Where the eigenvalues of a recurrent layer start: in a ring just inside the unit circle.

Post: 9554

Notation (-> name in the post)
    nu, theta  [size]   lam = exp(-nu + i theta); trained are their logarithms nu_log, theta_log
    gamma      [size]   scale of the inputs, sqrt(1 - |lam|^2): E|x|^2 = gamma^2 E|u|^2 / (1 - |lam|^2)
                        (its logarithm is trained)
    u1, u2     [size]   uniform in (0, 1), never 0 or 1: log 0 would make the first step of training not a number
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tianwen.errors import InputError

R_MIN, R_MAX = 0.9, 0.999
"""The ring of the post; the paper's own default is the whole disc, 0 to 1."""


def ring(
    size: int, *, r_min: float = R_MIN, r_max: float = R_MAX, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, " size"], Float[Tensor, " size"], Float[Tensor, " size"]]:
    """nu_log, theta_log and gamma_log of `size` eigenvalues, uniform over the area of the ring r_min <= |lam| <= r_max.

    Raises InputError unless 0 <= r_min < r_max <= 1.
    """
    if not 0 <= r_min < r_max <= 1:
        raise InputError(
            f"The ring of eigenvalues needs 0 <= r_min < r_max <= 1; given were r_min {r_min} and r_max {r_max}. "
            "Outside the unit circle a state grows without bound."
        )
    u1, u2 = _open_uniform(size, generator), _open_uniform(size, generator)
    squared = u1 * (r_max**2 - r_min**2) + r_min**2  # |lam|^2
    nu_log = (-0.5 * squared.log()).log()
    theta_log = (2 * math.pi * u2).log()
    gamma_log = 0.5 * (-squared).log1p()
    return nu_log.float(), theta_log.float(), gamma_log.float()


def _open_uniform(size: int, generator: torch.Generator | None) -> Tensor:
    """Uniform in (0, 1) without its ends: the middles of 2^24 equal parts."""
    part = torch.randint(0, 1 << 24, (size,), generator=generator)
    return (part.double() + 0.5) / (1 << 24)
