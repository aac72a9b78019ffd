"""RWKV: a mixer whose output is a decaying average of values, weighted by e^k and gated by a sigmoid.

Post: 9554 (the mixer without RWKV-4's token shift, as one more linear recurrence), arXiv 2305.13048.

Notation (-> name in the post)
    d  width    N  channels (default d: 4 d^2 weights, as every mixer here)
    r, k, v = W_in x;  y = W_out (sigmoid(r) * wkv(k, v))
    lam = exp(-exp(nu_log)),  gamma = exp(gamma_log)
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tianwen.recurrent.lru import positive, wide
from tianwen.recurrent.padding import without_padding
from tianwen.recurrent.ring import R_MAX, R_MIN, ring
from tianwen.recurrent.wkv import empty_state, wkv


class RWKV(nn.Module):
    """[batch, length, width] -> the same shape, with a state of [batch, 3, size] in float32."""

    def __init__(
        self, width: int, *, size: int | None = None, r_min: float = R_MIN, r_max: float = R_MAX, bias: bool = False
    ) -> None:
        """`size` is the number of channels (default: width); decays start between r_min and r_max, gamma at 1."""
        super().__init__()
        self.width, self.size = positive(width=width), positive(size=self.default_size(width) if size is None else size)
        self.input = nn.Linear(width, 3 * self.size, bias=bias)
        self.output = nn.Linear(self.size, width, bias=bias)
        self.nu_log = nn.Parameter(ring(self.size, r_min=r_min, r_max=r_max)[0])
        self.gamma_log = nn.Parameter(torch.zeros(self.size))

    @staticmethod
    def default_size(width: int) -> int:
        """As many channels as the width."""
        return width

    def decay(self) -> Float[Tensor, " size"]:
        """lam, between 0 and 1."""
        return (-wide(self.nu_log).exp()).exp()

    def init_state(self, batch: int) -> Float[Tensor, " batch 3 size"]:
        """The state before the first step: nothing seen."""
        return empty_state(batch, self.size, like=self.nu_log)

    def forward(
        self,
        x: Float[Tensor, " batch length width"],
        *,
        state: Float[Tensor, " batch 3 size"] | None = None,
        reset: Bool[Tensor, " batch length"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        reverse: bool = False,
    ) -> tuple[Float[Tensor, " batch length width"], Float[Tensor, " batch 3 size"]]:
        """The mixed sequence and the state after it; `reset`, `lengths` and `reverse` as in `linear_scan`."""
        r, k, v = self.input(without_padding(x, lengths)).chunk(3, -1)  # each [batch, length, N]
        mean, last = wkv(k, v, self.decay(), self.gamma_log, state=state, reset=reset, lengths=lengths, reverse=reverse)
        return self.output(r.sigmoid() * mean), last

    def step(
        self, x: Float[Tensor, " batch width"], state: Float[Tensor, " batch 3 size"]
    ) -> tuple[Float[Tensor, " batch width"], Float[Tensor, " batch 3 size"]]:
        """One step of `forward`, in constant time and memory."""
        y, state = self.forward(x[:, None], state=state)
        return y[:, 0], state
