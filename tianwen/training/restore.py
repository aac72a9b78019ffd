"""Putting saved state back into an optimiser exactly, whatever the types of its tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def load_optimiser(optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """`optimiser.load_state_dict(saved)`, with every state tensor in the type it was saved in.

    torch casts state to the type of its parameter (fp32 momentum of a bf16 weight, int8 or bool marks of a float one);
    a resumed run would then go another way. The device is the one torch chooses.
    """
    optimiser.load_state_dict(saved)
    ids = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for number, parameter in zip(ids, parameters, strict=True):
        for name, value in saved["state"].get(number, {}).items():
            loaded = optimiser.state[parameter][name]
            if isinstance(value, Tensor) and loaded.dtype != value.dtype:
                optimiser.state[parameter][name] = value.to(loaded.device, copy=True)
