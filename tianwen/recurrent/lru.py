"""LRU: a layer that mixes a sequence by a diagonal complex recurrence between two dense layers.

Post: 9554 (the layer), arXiv 2303.06349.

Notation (-> name in the post)
    d  width    N  size of the state: complex numbers
    u  [batch, length, 2N] = [Re | Im]    inputs of the recurrence
    lam = exp(-exp(nu_log) + i exp(theta_log)),  gamma = exp(gamma_log)
    x_t = lam x_{t-1} + gamma u_t;  y = W_out [Re x | Im x]

With N = d the layer has 4 d^2 weights, as attention has.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tianwen.errors import InputError
from tianwen.recurrent.padding import without_padding
from tianwen.recurrent.ring import R_MAX, R_MIN, ring
from tianwen.recurrent.scan import linear_scan


class LRU(nn.Module):
    """Linear recurrent unit: [batch, length, width] -> the same shape, with a state of [batch, 2 * size] in float32."""

    def __init__(
        self, width: int, *, size: int | None = None, r_min: float = R_MIN, r_max: float = R_MAX, bias: bool = False
    ) -> None:
        """`size` is the number of complex states (default: width); eigenvalues start in the ring r_min to r_max."""
        super().__init__()
        self.width, self.size = positive(width=width), positive(size=self.default_size(width) if size is None else size)
        self.input = nn.Linear(width, 2 * self.size, bias=bias)
        self.output = nn.Linear(2 * self.size, width, bias=bias)
        nu_log, theta_log, gamma_log = ring(self.size, r_min=r_min, r_max=r_max)
        self.nu_log = nn.Parameter(nu_log)
        self.theta_log = nn.Parameter(theta_log)
        self.gamma_log = nn.Parameter(gamma_log)

    def eigenvalues(self) -> Float[Tensor, " 2 size"]:
        """lam as (Re, Im)."""
        radius, angle = (-wide(self.nu_log).exp()).exp(), wide(self.theta_log).exp()
        return torch.stack([radius * angle.cos(), radius * angle.sin()])

    @staticmethod
    def default_size(width: int) -> int:
        """As many complex states as the width."""
        return width

    def init_state(self, batch: int) -> Float[Tensor, " batch planes"]:
        """The state before the first step: zeros."""
        return self.nu_log.new_zeros(batch, 2 * self.size, dtype=torch.float32)

    def forward(
        self,
        x: Float[Tensor, " batch length width"],
        *,
        state: Float[Tensor, " batch planes"] | None = None,
        reset: Bool[Tensor, " batch length"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        reverse: bool = False,
    ) -> tuple[Float[Tensor, " batch length width"], Float[Tensor, " batch planes"]]:
        """The mixed sequence and the state after it; `reset`, `lengths` and `reverse` as in `linear_scan`."""
        u = self.input(without_padding(x, lengths))  # [batch, length, 2N]
        states, last = linear_scan(
            u, self.eigenvalues(), wide(self.gamma_log).exp(), h0=state, reset=reset, lengths=lengths, reverse=reverse
        )
        return self.output(states), last

    def step(
        self, x: Float[Tensor, " batch width"], state: Float[Tensor, " batch planes"]
    ) -> tuple[Float[Tensor, " batch width"], Float[Tensor, " batch planes"]]:
        """One step of `forward`, in constant time and memory."""
        y, state = self.forward(x[:, None], state=state)
        return y[:, 0], state


def wide(parameter: Tensor) -> Tensor:
    """In float32 at least: bfloat16 has no number between .996 and 1, so a layer cast to it would never forget."""
    return parameter if parameter.dtype == torch.float64 else parameter.float()


def positive(**sizes: int) -> int:
    """The one size given, if it is at least 1."""
    ((name, value),) = sizes.items()
    if value < 1:
        raise InputError(f"{name} must be at least 1; given was {value}.")
    return value
