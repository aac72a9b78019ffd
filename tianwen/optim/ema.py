"""Exponential moving average of a model's weights, to evaluate and to release.

Post: 9736 (among the training settings of the same author).

Notation
    theta  parameters after the update        m  their average, fp32 at least        n  updates averaged so far
    m <- m + (1 - d_n) (theta - m)            d_n = min(decay, (1 + n) / (10 + n)), n = 1, 2, ... with warm-up
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tianwen.errors import InputError


def decay_at(updates: int, decay: float, *, warmup: bool = True) -> float:
    """The decay d_n of the n-th update: small at first, so that the initial weights are soon forgotten."""
    return min(decay, (1 + updates) / (10 + updates)) if warmup else decay


class Ema:
    """The moving average of the floating-point parameters of a model; buffers are not averaged.

    ema = Ema(model, 0.999)
    ...; optimiser.step(); ema.update()
    with ema.swapped(): evaluate(model)        # the average stands in the model, the parameters come back after it
    """

    def __init__(self, model: nn.Module, decay: float, *, warmup: bool = True) -> None:
        """Start from a copy of the parameters. Raises InputError unless 0 <= decay < 1."""
        if not 0 <= decay < 1:
            raise InputError(f"ema_decay={decay}: a decay lies in [0, 1), usually between 0.99 and 0.9999.")
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self._parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}
        self.average: dict[str, Tensor] = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in self._parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters as they are now into the average."""
        self.updates += 1
        weight = 1 - decay_at(self.updates, self.decay, warmup=self.warmup)
        groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        for name, parameter in self._parameters.items():
            average = self.average[name]
            averages, values = groups.setdefault((average.device, average.dtype), ([], []))
            averages.append(average)
            values.append(parameter.detach().to(average.dtype))
        for averages, values in groups.values():  # one kernel for all on a GPU
            torch._foreach_lerp_(averages, values, weight)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the model holds the average; afterwards, also after an error, its own parameters again."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    def copy_to_model(self) -> None:
        """Overwrite the model's parameters with the average."""
        self._write(self.average)

    def state_dict(self) -> dict[str, Any]:
        """{"updates": int, "average": {parameter name: tensor}}; the tensors are not copied."""
        return {"updates": self.updates, "average": dict(self.average)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises InputError if the parameters' names differ."""
        if state["average"].keys() != self.average.keys():
            odd = sorted(state["average"].keys() ^ self.average.keys())
            raise InputError(f"The saved average belongs to another model: {len(odd)} names differ, first {odd[0]!r}.")
        self.updates = int(state["updates"])
        for name, saved in state["average"].items():
            self.average[name].copy_(saved)

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
