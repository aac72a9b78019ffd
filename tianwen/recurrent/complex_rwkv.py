"""Complex RWKV: the average of the past turns as it decays, the step that the post names as next and nobody ships.

Post: 9554 (its last section)

Notation
    d  width    M  complex channels (default 4 d / 7: 4 d^2 weights, as every mixer here)
    r [2M], k [M], v [2M] = [Re | Im]   of each step, from one dense layer;  y = W_out (sigmoid(r) * average)
    lam = exp(-nu + i theta);  y_t = lam y_{t-1} + e^k v,  z_t = |lam| z_{t-1} + e^k   (real: weights still sum to one)

No complex kernel is needed: y_t = e^{i theta t} Y_t, and Y decays by |lam| alone while it adds e^{-i theta t} v_t. So a
value is turned backward by its position, averaged by the real wkv, and the average is turned forward again: RoPE, with
values in place of keys. Measured small in docs/posts/9554.md.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tianwen.recurrent.lru import positive, wide
from tianwen.recurrent.padding import without_padding
from tianwen.recurrent.ring import R_MAX, R_MIN, ring
from tianwen.recurrent.wkv import empty_state, wkv


class ComplexRWKV(nn.Module):
    """[batch, length, width] -> the same shape, with a state of [batch, 3, 2 * size] in float32."""

    def __init__(
        self, width: int, *, size: int | None = None, r_min: float = R_MIN, r_max: float = R_MAX, bias: bool = False
    ) -> None:
        """`size` is the number of complex channels; angles start between .001 and pi, evenly in their logarithm."""
        super().__init__()
        self.width, self.size = positive(width=width), positive(size=self.default_size(width) if size is None else size)
        self.input = nn.Linear(width, 5 * self.size, bias=bias)
        self.output = nn.Linear(2 * self.size, width, bias=bias)
        self.nu_log = nn.Parameter(ring(self.size, r_min=r_min, r_max=r_max)[0])
        self.theta_log = nn.Parameter(torch.linspace(math.log(1e-3), math.log(math.pi), self.size))
        self.gamma_log = nn.Parameter(torch.zeros(self.size))

    @staticmethod
    def default_size(width: int) -> int:
        """Four sevenths of the width."""
        return max(1, round(4 * width / 7))

    def init_state(self, batch: int) -> Float[Tensor, " batch 3 planes"]:
        """The state before the first step: nothing seen."""
        return empty_state(batch, 2 * self.size, like=self.nu_log)

    def forward(
        self,
        x: Float[Tensor, " batch length width"],
        *,
        state: Float[Tensor, " batch 3 planes"] | None = None,
        reset: Bool[Tensor, " batch length"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        reverse: bool = False,
    ) -> tuple[Float[Tensor, " batch length width"], Float[Tensor, " batch 3 planes"]]:
        """The mixed sequence and the state after it; `reset`, `lengths` and `reverse` as in `linear_scan`."""
        parts = self.input(without_padding(x, lengths)).split([2 * self.size, self.size, 2 * self.size], -1)
        r, k, v = parts
        count = torch.full((x.shape[0],), x.shape[1], device=x.device) if lengths is None else lengths
        at = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        at = count[:, None] - 1 - at if reverse else at  # steps done before this one, [batch, length]
        decay, bonus = (-wide(self.nu_log).exp()).exp().repeat(2), self.gamma_log.repeat(2)
        mean, last = wkv(
            k.repeat(1, 1, 2), self._turn(v, -at), decay, bonus,
            state=state, reset=reset, lengths=lengths, reverse=reverse,
        )  # fmt: skip
        turned = self._turn(last[:, 0], count)  # seen from where the next call begins
        last = torch.cat([turned[:, None], last[:, 1:]], 1)
        return self.output(r.sigmoid() * self._turn(mean, at)), last

    def step(
        self, x: Float[Tensor, " batch width"], state: Float[Tensor, " batch 3 planes"]
    ) -> tuple[Float[Tensor, " batch width"], Float[Tensor, " batch 3 planes"]]:
        """One step of `forward`, in constant time and memory."""
        y, state = self.forward(x[:, None], state=state)
        return y[:, 0], state

    def _turn(self, planes: Float[Tensor, " *rows planes"], steps: Int[Tensor, " *rows"]) -> Tensor:
        """Planes [Re | Im] times e^{i theta steps}; angles in float64, for steps may be millions."""
        angle = steps[..., None].double() * self.theta_log.double().exp()  # [*rows, M]
        cos, sin = angle.cos().to(planes.dtype), angle.sin().to(planes.dtype)
        re, im = planes.chunk(2, -1)
        return torch.cat([re * cos - im * sin, re * sin + im * cos], -1)
