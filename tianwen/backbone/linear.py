"""A matrix product without bias that takes oneDNN's kernel where that is faster: float32 inference on a CPU.

Post: 8998 (speed of the backbone).

PyTorch multiplies float32 matrices with MKL, which leaves a quarter of the speed on the table on AMD processors.
oneDNN, which every x86 build of PyTorch carries too, does not, and applies ReLU on the way out. The operator is one of
PyTorch's own (its compiler emits it) but not public, so it is tried once and compared with the plain product before it
is trusted.

Products in int8 are another file (`int8.py`); a weight that was quantised there is used from there.

It lays the weight out anew at every call, which costs a third of the time of a product with few rows. Whoever only
infers may have that done once: `pack_for_inference`.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from tianwen.backbone import int8
from tianwen.backbone.int8 import int8_pack, int8_product


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
    if _inference_on_cpu(x, weight):
        small = int8_pack(weight)
        if small is not None:
            return int8_product(x, small, relu=relu)
        if _onednn_works():
            return _onednn(x, _packed(weight), relu=relu)
    product = F.linear(x, weight)
    # In place: the backward pass of a linear layer does not need its own output.
    return F.relu(product, inplace=True) if relu else product


LARGEST_PACKED = 1 << 23
"""Bytes of a weight that is packed: larger ones win little, and packing keeps a second copy."""

_PACKS: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""weight -> (its version and place when it was packed, the packed copy)"""


def pack_for_inference(module: nn.Module) -> None:
    """Lay the weights of linear layers and embeddings out for oneDNN, once.

    For modules whose weights stand still. A weight that changed since, or moved, is used as it is; but writes that
    PyTorch does not see (through numpy or `.data`) are not noticed: call `unpack` before training goes on.
    """
    if not _onednn_works():
        return
    with torch.no_grad():
        for part in module.modules():
            weight = part.weight if isinstance(part, nn.Linear | nn.Embedding) else None
            if weight is not None and _can_be_packed(weight):
                _PACKS[weight] = (_fingerprint(weight), torch.ops.mkldnn._reorder_linear_weight(weight, None))


def _can_be_packed(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and 0 < weight.numel() * weight.element_size() <= LARGEST_PACKED
        and not weight.is_inference()  # such a tensor has no version
    )


def unpack(module: nn.Module) -> None:
    """Forget what was packed for this module: its weights are about to change."""
    for weight in module.parameters():
        _PACKS.pop(weight, None)
    int8.restore(module)


def _packed(weight: Tensor) -> Tensor:
    entry = _PACKS.get(weight)
    return entry[1] if entry is not None and entry[0] == _fingerprint(weight) else weight


def _fingerprint(weight: Tensor) -> tuple[int, int]:
    return weight._version, weight.data_ptr()


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
            torch.allclose(_onednn(x, laid_out, relu=relu), (x @ weight.T).clamp(min=0.0 if relu else -99), atol=1e-5)
            for relu in (False, True)
            for laid_out in (weight, torch.ops.mkldnn._reorder_linear_weight(weight, None))
        )
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
