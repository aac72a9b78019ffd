"""A matrix product without bias that takes oneDNN's kernel where that is faster: float32 inference on a CPU.

Post: 8998 (speed of the backbone).

PyTorch multiplies float32 matrices with MKL, which leaves a quarter of the speed on the table on AMD processors.
oneDNN, which every x86 build of PyTorch carries too, does not, and applies ReLU on the way out. The operator is one of
PyTorch's own (its compiler emits it) but not public, so it is tried once and compared with the plain product before it
is trusted.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """`nn.Linear` without bias, with an optional ReLU behind it."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out, bias=False)

    def forward(self, input: Float[Tensor, " *rows fan_in"], *, relu: bool = False) -> Float[Tensor, " *rows fan_out"]:
        return linear(input, self.weight, relu=relu)


def linear(
    x: Float[Tensor, " *rows fan_in"], weight: Float[Tensor, " fan_out fan_in"], *, relu: bool = False
) -> Float[Tensor, " *rows fan_out"]:
    """x W^T, then max(0, .) if `relu`."""
    if _inference_on_cpu(x, weight) and _onednn_works():
        return _onednn(x, weight, relu=relu)
    product = F.linear(x, weight)
    # In place: the backward pass of a linear layer does not need its own output.
    return F.relu(product, inplace=True) if relu else product


def _inference_on_cpu(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _onednn(x: Tensor, weight: Tensor, *, relu: bool) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "relu" if relu else "none", [], "")


@cache
def _onednn_works() -> bool:
    """The operator exists in this build and gives the plain product."""
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.linspace(-1, 1, 24).view(2, 3, 4)
    weight = torch.linspace(1, -2, 20).view(5, 4)
    try:
        return all(
            torch.allclose(_onednn(x, weight, relu=relu), (x @ weight.T).clamp(min=0.0 if relu else -99), atol=1e-5)
            for relu in (False, True)
        )
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
