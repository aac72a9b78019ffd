"""What decides the course of a run, written down in plain values, to refuse a resume under other settings.

A resumed run is the same run only if model, optimiser, schedule, data and arithmetic are the same. The optimiser is
described by its class and the options of its groups; the schedule by its values at sampled updates, so that it does not
matter how it was written, and a longer run is fine where the schedule agrees on the way already gone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from tianwen.optim.schedule import Schedule
from tianwen.training.settings import FitSettings

DECISIVE = ("precision", "accumulate", "clip_norm", "ema_decay", "nonfinite", "seed")


def describe(
    model: nn.Module, optimiser: torch.optim.Optimizer, *, settings: FitSettings, data: Mapping[str, Any], world: int
) -> dict[str, Any]:
    """The decisive settings as nested plain values, equal after a way through JSON."""
    groups = [
        {key: _plain(value) for key, value in group.items() if key not in ("params", "param_names")}
        | {"parameters": len(group["params"])}
        for group in optimiser.param_groups
    ]
    shapes = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in model.state_dict().items()]
    told = {name: getattr(settings, name) for name in DECISIVE}
    told["processes"] = world
    told["model"] = {"tensors": len(shapes), "shapes": sha256(json.dumps(shapes).encode()).hexdigest()[:16]}
    told["optimiser"] = {"class": type(optimiser).__qualname__, "groups": groups}
    told["data"] = _plain(data)
    return json.loads(json.dumps(told))


def sample(schedule: Schedule, steps: int) -> list[list[int | float]]:
    """Pairs [update, factor] at powers of two and at 64 even places up to `steps`."""
    powers = [1 << k for k in range(steps.bit_length())]
    even = [math.ceil(steps * k / 64) for k in range(1, 65)]
    return [[t, float(schedule(t))] for t in sorted({t for t in powers + even if 1 <= t <= steps})]


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Sentences such as "precision was 'fp32', is 'bf16'" for every place where two descriptions differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(before.keys() | now.keys())
        return [s for name in names for s in differences(before.get(name), now.get(name), f"{path}.{name}".lstrip("."))]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [s for i, (a, b) in enumerate(zip(before, now, strict=True)) for s in differences(a, b, f"{path}[{i}]")]
    return [] if before == now else [f"{path} was {before!r}, is {now!r}"]


def schedule_difference(known: Sequence[Sequence[int | float]], schedule: Schedule) -> list[str]:
    """A sentence if the schedule gives another factor than was written down, at the first such update."""
    for update, factor in known:
        now = float(schedule(int(update)))
        if now != factor:
            return [f"the schedule's factor at update {int(update)} was {factor:.6g}, is {now:.6g}"]
    return []


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | type(None)):
        return value
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return repr(value) if not callable(value) else getattr(value, "__qualname__", type(value).__qualname__)
