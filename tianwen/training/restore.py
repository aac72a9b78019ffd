"""Putting saved state back into an optimiser exactly, whatever its types."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def load_optimiser(optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """`optimiser.load_state_dict(saved)`, with everything in the state of the type it was saved in.

    torch casts state tensors to the type of their parameter (fp32 momentum of a bf16 weight, int8 or bool marks of a
    float one) and spoils strings; a resumed run would then go another way. The device is the one torch chooses.
    """
    optimiser.load_state_dict(saved)
    ids = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for number, parameter in zip(ids, parameters, strict=True):
        if number in saved["state"]:
            optimiser.state[parameter] = _exact(optimiser.state[parameter], saved["state"][number])


def _exact(loaded: Any, saved: Any) -> Any:
    """`saved`, its tensors on the devices of those in `loaded`."""
    if isinstance(saved, Tensor):
        return loaded if loaded.dtype == saved.dtype else saved.to(loaded.device, copy=True)
    if isinstance(saved, dict):
        return {key: _exact(loaded[key], value) for key, value in saved.items()}
    if isinstance(saved, list | tuple):
        return type(saved)(_exact(a, b) for a, b in zip(loaded, saved, strict=True))
    return saved
