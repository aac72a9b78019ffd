"""A 3x3 convolution without bias, with swish behind it where wanted; on a CPU in one pass, its weights laid out once.

Post: 9152 (speed of the networks)

Notation
    x   [N, c, H, W]        weight   [C, c, k, k]        y = conv(x) or swish(conv(x))   [N, C, H, W]

PyTorch's convolution lays the weights out anew at every call, which costs a fifth of the time with one small picture,
and swish is one more pass over memory. oneDNN's operator that PyTorch's own compiler emits does both better. It is not
public, so it is tried once and compared with the plain result before it is trusted; elsewhere, in training and for
other types than float32 the plain operations are used.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

_PACKS: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""weight -> (its version, place and the sides it was laid out for, the copy laid out)"""


class Convolution(nn.Conv2d):
    """`nn.Conv2d` without bias that keeps the sides, with an optional swish behind it."""

    def __init__(self, inputs: int, outputs: int, side: int = 3) -> None:
        super().__init__(inputs, outputs, side, padding=side // 2, bias=False)

    def forward(self, input: Float[Tensor, " N c H W"], *, swish: bool = False) -> Float[Tensor, " N C H W"]:
        if _inference_on_cpu(input, self.weight) and _onednn_works():
            return _onednn(input, _packed(self.weight, input), swish=swish)
        y = F.conv2d(input, self.weight, padding=self.padding)
        return F.silu(y) if swish else y


def laid_out(x: Tensor) -> Tensor:
    """`x` with the channels of a pixel side by side if that is how convolutions here are fastest, else as it is."""
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        return x.contiguous(memory_format=torch.channels_last)
    return x


def _packed(weight: Tensor, x: Tensor) -> Tensor:
    """The weight laid out for pictures of these sides; always for one picture, so that a batch changes no bits."""
    if weight.is_inference():  # such a tensor has no version, so changes would go unseen
        return weight
    state = (weight._version, weight.data_ptr(), x.shape[2:])
    known = _PACKS.get(weight)
    if known is None or known[0] != state:
        known = (state, _lay_out(weight.detach(), [1, *x.shape[1:]]))
        _PACKS[weight] = known
    return known[1]


def _lay_out(weight: Tensor, sizes: list[int]) -> Tensor:
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    reorder = torch._C._nn.mkldnn_reorder_conv2d_weight  # pyright: ignore[reportAttributeAccessIssue] - not in its stubs
    return reorder(weight.to_mkldnn(), padding, [1, 1], [1, 1], 1, sizes)


def _onednn(x: Tensor, weight: Tensor, *, swish: bool) -> Tensor:
    padding = [weight.shape[2] // 2, weight.shape[3] // 2]
    kind = "swish" if swish else "none"
    return torch.ops.mkldnn._convolution_pointwise(x, weight, None, padding, [1, 1], [1, 1], 1, kind, [], "")


def _inference_on_cpu(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


@cache
def _onednn_works() -> bool:
    """The operator exists in this build and gives the plain result."""
    if not torch.backends.mkldnn.is_available():
        return False
    x = torch.linspace(-1, 1, 96).view(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    try:
        for side in (1, 3):
            weight = torch.linspace(1, -2, 15 * side**2).view(5, 3, side, side)
            plain = F.conv2d(x, weight, padding=side // 2)
            for packed in (weight, _lay_out(weight, [1, 3, 4, 4])):
                if not torch.allclose(_onednn(x, packed, swish=False), plain, atol=1e-4):
                    return False
                if not torch.allclose(_onednn(x, packed, swish=True), F.silu(plain), atol=1e-4):
                    return False
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True
