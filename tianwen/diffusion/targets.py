"""What a network predicts - the noise, the picture or the velocity - and how one is turned into another.

Post: 9119, 9152
Paper: Salimans and Ho, Progressive Distillation, 2022 (v).

Notation
    x = A x0 + B eps      v = A eps - B x0      hence x0 = A x - B v, eps = B x + A v
    x, x0, eps, v: [batch, *shape]; A, B: numbers, or [batch, 1, ..]

Only eps needs a division by A to find x0: it cannot be the target where A is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from tianwen.diffusion.schedule import Schedule
from tianwen.errors import InputError

Target = Literal["eps", "x0", "v"]
Model = Callable[[Tensor, Tensor], Tensor]
"""x [batch, *shape], t long [batch] (from 0) -> prediction [batch, *shape]."""

Amplitude = float | Tensor


def checked_target(target: str, schedule: Schedule) -> Target:
    """`target`, if there is such a target and the schedule allows it."""
    if not isinstance(schedule, Schedule):
        raise InputError(
            f"The schedule is one such as Schedule.post() or Schedule.named('paper'); given was {schedule!r}."
        )
    if target not in get_args(Target):
        raise InputError(f"There is no target {target!r}; a model predicts eps (the noise), x0 (the picture) or v.")
    if target == "eps" and schedule.ends_in_pure_noise:
        raise InputError(
            f"At its last time this schedule ({schedule.name}) leaves nothing of the picture (A = "
            f"{float(schedule.A[-1]):g}, zero terminal SNR): there x is the noise itself, and a model that predicts "
            "eps says nothing about the picture. Train and sample with target='v' or 'x0', or use a schedule that "
            "keeps a little signal."
        )
    return target  # type: ignore[return-value]


def split(prediction: Tensor, x: Tensor, A: Amplitude, B: Amplitude, *, target: Target) -> tuple[Tensor, Tensor]:
    """The picture and the noise (x0, eps) that a prediction stands for, each [batch, *shape].

    Products and sums stand apart on purpose: a fused multiply-add rounds differently in the vector and in the scalar
    part of a loop, and a picture's bits would depend on its place in the batch.
    """
    match target:
        case "eps":
            return (x - B * prediction) * (1 / A), prediction
        case "x0":
            return prediction, (x - A * prediction) * (1 / B)
        case "v":
            return A * x - B * prediction, B * x + A * prediction


def goal(x0: Tensor, eps: Tensor, A: Amplitude, B: Amplitude, *, target: Target) -> Tensor:
    """What the network should predict for this picture and noise: [batch, *shape]."""
    match target:
        case "eps":
            return eps
        case "x0":
            return x0
        case "v":
            return A * eps - B * x0


def predicting(model: Model, schedule: Schedule, *, source: Target, target: Target) -> Model:
    """A model that predicts `source`, as one that predicts `target`; at least in float32."""
    checked_target(source, schedule)
    checked_target(target, schedule)

    def converted(x: Tensor, t: Tensor) -> Tensor:
        A, B = schedule.at(t, x)
        prediction = model(x, t).to(torch.promote_types(x.dtype, torch.float32))
        return goal(*split(prediction, x, A, B, target=source), A, B, target=target)

    return model if source == target else converted
