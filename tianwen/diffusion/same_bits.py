"""Batches on a CPU in which every picture has the bits that it has alone.

Post: 9152 (the networks)

Notation
    N   pictures of a batch       x   [N, c, H, W]       t, labels   [N]

Sums of floating-point numbers depend on their order, and kernels choose another order for another number of rows: the
same seed would give slightly different pictures in different batches. Of what the networks use, matrix products and
group norm are such kernels; here they take each row and picture by itself, which costs little, for they are small.
Convolutions, which are nearly all of the work, kept their order in every case tried, but nobody promises it. So it is
tried: the first time a network sees a batch of some size, it also computes each picture alone and compares. If a bit
differs, it takes pictures alone from then on. (An order of summation does not depend on the numbers summed.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Net = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x, t, labels -> prediction of the shape of x."""


class SameBits:
    """Runs a network on batches, with the promise above if `exact`; without gradients on a CPU, else as it is."""

    def __init__(self) -> None:
        self.exact = True
        self._equal: dict[tuple[object, ...], bool] = {}  # what was tried -> whether the batch gave the same bits

    def run(self, net: Net, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """The network's prediction."""
        if not self.exact or x.shape[0] < 2 or not without_gradients_on_cpu(x):
            return net(x, t, labels)
        tried = (tuple(x.shape), x.dtype, torch.get_num_threads(), torch.is_autocast_enabled("cpu"))
        if self._equal.get(tried, False):
            return net(x, t, labels)
        alone = torch.cat(
            [net(x[k : k + 1], t[k : k + 1], None if labels is None else labels[k : k + 1]) for k in range(x.shape[0])]
        )
        if tried not in self._equal:
            # A prediction that is all zeros, as of a network that was just made, shows nothing of any order.
            if not bool(alone.any()) or not bool(alone.isfinite().all()):
                return alone
            self._equal[tried] = torch.equal(net(x, t, labels), alone)
        return alone


def without_gradients_on_cpu(x: Tensor) -> bool:
    """Whether this is inference on a CPU, outside of a compiler."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


class Dense(nn.Linear):
    """A dense layer without bias; in CPU inference each row by itself."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, input: Float[Tensor, " N inputs"]) -> Float[Tensor, " N outputs"]:
        if input.shape[0] < 2 or not without_gradients_on_cpu(input):
            return F.linear(input, self.weight)
        if bool((input == input[:1]).all()):  # one time for all pictures, as in sampling
            return F.linear(input[:1], self.weight).expand(input.shape[0], -1)
        return torch.cat([F.linear(row, self.weight) for row in input.split(1)])


class GroupNorm(nn.GroupNorm):
    """Group norm with gain and offset, eps as the reference has it; in CPU inference each picture by itself."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, input: Float[Tensor, " N C H W"]) -> Float[Tensor, " N C H W"]:
        # One thread takes the pictures in turn anyway; several share them out differently for each batch size.
        if input.shape[0] < 2 or torch.get_num_threads() == 1 or not without_gradients_on_cpu(input):
            return super().forward(input)
        out = torch.empty_like(input)
        for k in range(input.shape[0]):
            out[k : k + 1] = super().forward(input[k : k + 1])
        return out
