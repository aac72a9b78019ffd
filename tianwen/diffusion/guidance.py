"""Classes: a network that takes labels as a model of one class, with guidance, and labels dropped in training.

Post: 9152 (the network)
Paper: Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.

Notation
    labels   long [batch], -1: no label         weight   0: no label, 1: the label as it is, above 1: exaggerated
    prediction = without + weight (with - without), for eps, x0 and v alike
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import torch
from jaxtyping import Int
from torch import Tensor

from tianwen.diffusion.targets import Model
from tianwen.errors import InputError

LabelledModel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x [batch, *shape], t long [batch], labels long [batch] -> prediction [batch, *shape]."""


def guided(model: LabelledModel, labels: Int[Tensor, " batch"], *, weight: float = 1.0) -> Model:
    """The model of these labels, one a picture, for `sample` and its like.

    Weights other than 0 and 1 need both predictions, which are asked for in one batch of twice the size.
    """
    if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
        raise InputError(f"The guidance weight must be a finite number, such as 1 or 2.5; given was {weight!r}.")
    if labels.dim() != 1 or labels.is_floating_point():
        raise InputError(f"Labels are whole numbers, one a picture; given was {labels.dtype} of {list(labels.shape)}.")

    def called(x: Tensor, t: Tensor) -> Tensor:
        if x.shape[0] != labels.shape[0]:
            raise InputError(f"{x.shape[0]} pictures need as many labels, one each; given were {labels.shape[0]}.")
        given = labels.to(x.device)
        nothing = torch.full_like(given, -1)
        if weight in (0, 1):
            return model(x, t, given if weight else nothing)
        both = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([given, nothing]))
        with_label, without = both.chunk(2)
        return without + weight * (with_label - without)

    return called


def drop_labels(
    labels: Int[Tensor, " batch"], rate: float = 0.1, *, generator: torch.Generator | None = None
) -> Int[Tensor, " batch"]:
    """Labels for a training step, about `rate` of them replaced by -1, so that the network learns to do without."""
    if not 0 <= rate <= 1:
        raise InputError(f"The rate of dropped labels lies from 0 to 1; given was {rate!r}.")
    dropped = torch.rand(labels.shape, generator=generator).to(labels.device) < rate
    return torch.where(dropped, -1, labels)
