"""One update's gradients: the batches of all processes and micro-steps as if they were one batch.

Notation
    j  batch of this update: R processes times A micro-steps (`accumulate`)
    l_j  its loss, a mean over w_j things (tokens, examples); w_j = 1 where the loss gives no weight
    L  = sum_j w_j l_j / sum_j w_j,   the mean over all things, so parts of different size count rightly
    g  = gradient of L,   g <- g min(1, clip / |g|)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tianwen.errors import TrainingError
from tianwen.training.distributed import World

Loss = Tensor | tuple[Tensor, Mapping[str, Any]]
LossFunction = Callable[[Any, Any], Any]
"""loss_fn(model, batch) -> Loss: a mean, or (mean, values). The value "weight" is the number of things in the mean,
"tokens" is for the speed in the log; the others are averaged, by weight, over the batches that give them and logged.
Give numbers rather than GPU tensors where you can, the weight above all: reading a tensor waits for the GPU."""

Parts = dict[str, tuple[float, float]]
"""name -> (sum of w times the value, sum of w) over the batches that gave a value of this name."""


@dataclass
class Sums:
    """What one update's batches add up to, over micro-steps and processes."""

    loss: float = 0.0  # sum of w l
    weight: float = 0.0  # sum of w
    tokens: float = 0.0
    stop: float = 0.0  # number of processes that were asked to stop
    parts: Parts = field(default_factory=dict)  # of this process alone

    def add(self, weight: float, loss: float, values: Mapping[str, float]) -> None:
        """Count one batch."""
        self.loss += weight * loss
        self.weight += weight
        self.tokens += values.get("tokens", 0.0)
        for name, value in values.items():
            if name not in ("weight", "tokens"):
                merge(self.parts, {name: (weight * value, weight)})

    @property
    def mean_loss(self) -> float:
        """Mean over all things; nan if there were none."""
        return self.loss / self.weight if self.weight else float("nan")


def accumulate(
    model: nn.Module,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    autocast: Callable[[], AbstractContextManager[Any]],
    alone: bool,
) -> Sums:
    """Run forward and backward on each batch, adding the gradients of w_j l_j (of l_j itself if `alone`)."""
    sums = Sums()
    waiting: list[tuple[float, Tensor, Mapping[str, Any]]] = []
    for batch in batches:
        if batch is None:  # a short global batch leaves nothing for this process
            continue
        with autocast():
            out = loss_fn(model, batch)
        loss, values = out if isinstance(out, tuple) else (out, {})
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TrainingError(
                f"The loss function gave {_kind(loss)}; it must give one number, a tensor of one element."
            )
        weight = _number(values.get("weight", 1.0))
        if weight == 0:
            continue  # the mean over nothing is no number; it has no part in the whole
        (loss if alone else loss * weight).backward()
        waiting.append((weight, loss.detach(), values))
    for weight, loss, values in waiting:  # read at the end: reading a number waits for the GPU
        sums.add(weight, float(loss), {name: _number(value) for name, value in values.items()})
    return sums


def merge(parts: Parts, more: Mapping[str, Sequence[float]]) -> None:
    """Add `more` to `parts`."""
    for name, (value, weight) in more.items():
        known = parts.get(name, (0.0, 0.0))
        parts[name] = (known[0] + value, known[1] + weight)


def combine(sums: Sums, parameters: list[Tensor], world: World) -> None:
    """Add up the sums (not `parts`) and the gradients of all processes, in place; all then hold the same."""
    if world.size == 1:
        return
    device = parameters[0].device
    present = [0.0 if p.grad is None else 1.0 for p in parameters]
    numbers = [sums.loss, sums.weight, sums.tokens, sums.stop, *present]
    table = torch.tensor(numbers, dtype=torch.float64, device=device)  # [4 + parameters]
    world.sum([table])
    total = table.tolist()
    sums.loss, sums.weight, sums.tokens, sums.stop = total[:4]
    somewhere = [p for p, count in zip(parameters, total[4:], strict=True) if count]
    for parameter in somewhere:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        elif parameter.grad.is_sparse:
            parameter.grad = parameter.grad.to_dense()
    world.sum([p.grad for p in somewhere if p.grad is not None])


@torch.no_grad()
def scale_and_clip(parameters: list[Tensor], *, divisor: float, clip_norm: float | None) -> float:
    """Divide the gradients by `divisor` and shorten them to `clip_norm`; gives their length before the shortening."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # every row once
    gradients = [p.grad._values() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    norms = torch.stack([torch.linalg.vector_norm(g, dtype=_wide(g)).to(gradients[0].device) for g in gradients])
    norm = float(torch.linalg.vector_norm(norms)) / divisor
    factor = 1 / divisor
    if clip_norm is not None and clip_norm < norm < math.inf:
        factor *= clip_norm / norm
    if factor != 1:
        for gradient in gradients:
            gradient.mul_(factor)
    return norm


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on `device`: tensors, dicts, lists, tuples, dataclasses, objects with `.to`."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        moved = {f.name: to_device(getattr(batch, f.name), device) for f in dataclasses.fields(batch) if f.init}
        return dataclasses.replace(batch, **moved)
    move = getattr(batch, "to", None)
    return move(device) if callable(move) else batch


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def _wide(gradient: Tensor) -> torch.dtype | None:
    return torch.float32 if gradient.dtype in (torch.bfloat16, torch.float16) else None


def _kind(loss: object) -> str:
    return f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{type(loss).__name__}"
