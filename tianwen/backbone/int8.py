"""Products with weights in int8 for inference on a CPU: a quarter of the memory, two to four times the speed.

Post: 8998 (speed of the backbone).

Notation
    W  [out, in] weights, s_o = max |W_o| / 127 for each row, W ~ s_o Q_o with Q in int8
    x  activations, quantised at each call to 8 bits by the least and the greatest of them; the sums are exact in int32

PyTorch's own operators do the work. They are tried once and compared with the plain product; where they are missing or
wrong, products stay in float32 and nothing else changes.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

_PACKS: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""weight -> (its version and place when it was packed, the packed int8 copy)"""


def quantise_for_inference(module: nn.Module) -> int:
    """Let the linear layers of `module` multiply in int8 from now on; how many they are, 0 where int8 does not work.

    Only products without gradients, in float32 on a CPU, are affected. A weight that changed since is used as it is;
    writes that PyTorch does not see (through numpy or `.data`) are not noticed: call `restore` before training goes on.
    """
    if not int8_works():
        return 0
    weights = [part.weight for part in module.modules() if isinstance(part, nn.Linear) and _can_be_packed(part.weight)]
    for weight in weights:
        _PACKS[weight] = (_fingerprint(weight), _packed(weight.detach()))
    return len(weights)


def restore(module: nn.Module) -> None:
    """Products in float32 again."""
    for weight in module.parameters():
        _PACKS.pop(weight, None)


def int8_pack(weight: Tensor) -> Any:
    """The packed copy of a weight, or None."""
    entry = _PACKS.get(weight) if _PACKS else None
    return entry[1] if entry is not None and entry[0] == _fingerprint(weight) else None


def int8_product(x: Tensor, pack: Any, *, relu: bool) -> Tensor:
    """x W^T, then max(0, .) if `relu`."""
    product = torch.ops.quantized.linear_dynamic(x, pack, not _exact_sums())
    return product.relu_() if relu else product


@cache
def int8_works() -> bool:
    """The operators exist in this build and give nearly the plain product."""
    x = torch.linspace(-1, 1, 48).view(2, 3, 8)
    weight = torch.linspace(1, -2, 40).view(5, 8)
    try:
        with torch.no_grad():
            product = int8_product(x, _packed(weight), relu=False)
        return bool(((product - x @ weight.T).abs() < 0.2).all())
    except (RuntimeError, AttributeError, NotImplementedError):
        return False


def _packed(weight: Tensor) -> Any:
    """The int8 copy, laid out for the kernel."""
    scale = weight.abs().amax(dim=1).double().clamp(min=1e-12) / 127
    zeros = torch.zeros(len(weight), dtype=torch.long)
    before = torch.backends.quantized.engine
    try:
        torch.backends.quantized.engine = _engine()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch means to move these functions elsewhere
            codes = torch.quantize_per_channel(weight.contiguous(), scale, zeros, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(codes, None)
    finally:
        torch.backends.quantized.engine = before


@cache
def _engine() -> str:
    """oneDNN where the processor multiplies bytes, else whatever the build has for it."""
    known = torch.backends.quantized.supported_engines
    order = ("onednn", "x86", "fbgemm") if _exact_sums() else ("x86", "fbgemm", "onednn")
    return next((engine for engine in (*order, *known) if engine in known), "none")


@cache
def _exact_sums() -> bool:
    """Byte products are summed in 32 bits (VNNI); without it only 7 bits of the activations are used."""
    asked = getattr(torch.cpu, "_is_vnni_supported", None)
    return bool(asked()) if callable(asked) else False


def _can_be_packed(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.is_inference()


def _fingerprint(weight: Tensor) -> tuple[int, int]:
    return weight._version, weight.data_ptr()
