"""What the sign optimisers refuse, each with a sentence that says what would do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tianwen.errors import InputError
from tianwen.optim.param_groups import KINDS

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CHOICES = {
    "kind": KINDS,
    "embedding_update": ("plain", "lazy", "stale", "adam"),
    "nonfinite": ("shrink", "skip", "raise"),
    "rounding": ("stochastic", "master", "nearest"),
}


def check_group(group: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for options of a parameter group that make no sense, or do not fit the other groups."""
    for name, allowed in CHOICES.items():
        if group[name] not in allowed:
            raise InputError(f"{name}={group[name]!r}: it is one of {', '.join(map(repr, allowed))}.")
    for name in ("lr", "weight_decay", "rms_floor", "adam_eps"):
        _number(name, group[name], least=0, below=math.inf)
    for name in ("beta", "betas", "adam_betas"):
        if name in group:
            _betas(name, group[name])
    _number("shrink", group["shrink"], least=0, below=math.nextafter(1, 2))
    accumulate = group["accumulate"]
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise InputError(f"accumulate={accumulate!r}: the number of micro-steps in a window is a whole number from 1.")
    if "betas" in group and accumulate != 1:
        raise InputError(
            f"accumulate={accumulate}: Lion takes the sign of a blend that it does not keep, so it cannot hide "
            "accumulation in its momentum; Tiger can. Here, call backward several times before one step."
        )
    if others and accumulate != others[0]["accumulate"]:
        raise InputError(
            f"accumulate={accumulate} in one parameter group, {others[0]['accumulate']} in another: "
            "a window is the same for all parameters."
        )


def check_parameter(parameter: Tensor, group: Mapping[str, Any], index: int) -> None:
    """Raise InputError for a parameter that a sign optimiser cannot step."""
    names = group.get("param_names")
    name = names[index] if names else f"number {index} of its group"
    if parameter.is_complex():
        raise InputError(
            f"Parameter {name} is complex: a sign has no meaning there. "
            "Keep real and imaginary part as real parameters, or leave it to another optimiser."
        )
    if parameter.dtype not in TYPES:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in TYPES)
        raise InputError(f"Parameter {name} is of type {parameter.dtype}; a sign optimiser steps {allowed}.")
    if group["kind"] == "embedding" and parameter.ndim < 2:
        raise InputError(f"Parameter {name} of shape {tuple(parameter.shape)} is no embedding: it has no rows.")
    if group["kind"] == "auto" and group["embedding_update"] == "adam":
        raise InputError(
            'embedding_update="adam" must know which parameters are embeddings. '
            "Give param_groups_for(model), or groups with their kind: {'params': [...], 'kind': 'embedding'}."
        )


def _number(name: str, value: Any, *, least: float, below: float) -> None:
    try:
        good = least <= float(value) < below
    except (TypeError, ValueError, RuntimeError):
        good = False
    if not good or isinstance(value, bool):
        end = "finite" if below == math.inf else "at most 1"
        raise InputError(f"{name}={value!r}: it is a number from {least}, {end}.")


def _betas(name: str, value: Any) -> None:
    values = (value,) if name == "beta" else value
    count = 1 if name == "beta" else 2
    try:
        good = len(values) == count and all(0 <= float(beta) < 1 for beta in values)
    except (TypeError, ValueError):
        good = False
    if not good:
        what = "a number" if count == 1 else "two numbers"
        raise InputError(f"{name}={value!r}: it is {what} from 0, below 1.")
