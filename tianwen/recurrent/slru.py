"""SLRU: the LRU with real eigenvalues and twice the states, so that the weights are as many.

Post: 9554 (the "slim" variant: is the complex plane needed at all?).

Notation (-> name in the post)
    d  width    N  size of the state: real numbers (default 2 d: 4 d^2 weights, as every mixer here)
    lam = exp(-exp(nu_log)),  gamma = exp(gamma_log);  x_t = lam x_{t-1} + gamma u_t;  y = W_out x
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tianwen.recurrent.lru import positive, wide
from tianwen.recurrent.padding import without_padding
from tianwen.recurrent.ring import R_MAX, R_MIN, ring
from tianwen.recurrent.scan import linear_scan


class SLRU(nn.Module):
    """Real linear recurrent unit: [batch, length, width] -> the same, with a state of [batch, size] in float32."""

    def __init__(
        self, width: int, *, size: int | None = None, r_min: float = R_MIN, r_max: float = R_MAX, bias: bool = False
    ) -> None:
        """`size` is the number of real states (default: 2 * width); eigenvalues start between r_min and r_max."""
        super().__init__()
        self.width, self.size = positive(width=width), positive(size=self.default_size(width) if size is None else size)
        self.input = nn.Linear(width, self.size, bias=bias)
        self.output = nn.Linear(self.size, width, bias=bias)
        nu_log, _, gamma_log = ring(self.size, r_min=r_min, r_max=r_max)
        self.nu_log = nn.Parameter(nu_log)
        self.gamma_log = nn.Parameter(gamma_log)

    def eigenvalues(self) -> Float[Tensor, " size"]:
        """lam, between 0 and 1."""
        return (-wide(self.nu_log).exp()).exp()

    @staticmethod
    def default_size(width: int) -> int:
        """Twice the width."""
        return 2 * width

    def init_state(self, batch: int) -> Float[Tensor, " batch size"]:
        """The state before the first step: zeros."""
        return self.nu_log.new_zeros(batch, self.size, dtype=torch.float32)

    def forward(
        self,
        x: Float[Tensor, " batch length width"],
        *,
        state: Float[Tensor, " batch size"] | None = None,
        reset: Bool[Tensor, " batch length"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        reverse: bool = False,
    ) -> tuple[Float[Tensor, " batch length width"], Float[Tensor, " batch size"]]:
        """The mixed sequence and the state after it; `reset`, `lengths` and `reverse` as in `linear_scan`."""
        u = self.input(without_padding(x, lengths))  # [batch, length, N]
        states, last = linear_scan(
            u, self.eigenvalues(), wide(self.gamma_log).exp(), h0=state, reset=reset, lengths=lengths, reverse=reverse
        )
        return self.output(states), last

    def step(
        self, x: Float[Tensor, " batch width"], state: Float[Tensor, " batch size"]
    ) -> tuple[Float[Tensor, " batch width"], Float[Tensor, " batch size"]]:
        """One step of `forward`, in constant time and memory."""
        y, state = self.forward(x[:, None], state=state)
        return y[:, 0], state
