"""How an encoder is pretrained, and how long.

Post: 8998. Its own settings: batches of 512 x 512 tokens, LAMB at 1.76e-3, a million steps; the defaults are for a
processor of two cores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.errors import InputError
from tianwen.optim.lamb import Lamb
from tianwen.optim.param_groups import param_groups_for
from tianwen.optim.tiger import Tiger

Optimiser = Literal["adamw", "lamb", "tiger"]
RATES: dict[Optimiser, float] = {"adamw": 2e-3, "lamb": 1.76e-3, "tiger": 1.5e-3}
"""The highest learning rate of each, where none is given."""


@dataclass(frozen=True)
class PretrainSettings:
    """Shape of the encoder and course of its training.

    `length`: tokens of a sequence; `batch`: tokens of a micro-batch over all processes, `accumulate` of which make a
    step; `rate`: share of words to guess. One of `steps`, `tokens`, `minutes` says how long. `residual`: part of the
    steps in which the residual weight rises from 0 to 1, `warmup`: of those in which the learning rate does.
    `held_out`: sequences of each file kept apart. `attention_dropout` above 0 costs the fastest attention.
    """

    layers: int = 3
    width: int = 256
    heads: int | None = None
    feed_forward: int | None = None
    length: int = 128
    batch: int = 4096
    accumulate: int = 1
    steps: int | None = None
    tokens: float | None = None
    minutes: float | None = None
    optimiser: Optimiser = "adamw"
    learning_rate: float | None = None
    warmup: float = 0.05
    residual: float = 0.1
    rate: float = 0.15
    dropout: float = 0.1
    attention_dropout: float = 0.0
    held_out: int = 128
    precision: Literal["fp32", "bf16"] = "fp32"
    storage: Literal["fp32", "fp16", "int8"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        given = [value for value in (self.steps, self.tokens, self.minutes) if value is not None]
        if len(given) != 1 or not (math.isfinite(given[0]) and given[0] > 0):
            raise InputError(
                f"steps={self.steps}, tokens={self.tokens}, minutes={self.minutes}: give one of them, above 0."
            )
        if min(self.batch, self.accumulate, self.held_out + 1) < 1:
            raise InputError(
                f"batch={self.batch}, accumulate={self.accumulate}, held_out={self.held_out}: the first two are at "
                "least 1, the last at least 0."
            )
        if not all(0 <= part < 1 for part in (self.warmup, self.residual, self.dropout, self.attention_dropout)):
            raise InputError("warmup, residual and both dropouts are shares: from 0 to less than 1.")
        if self.learning_rate is not None and not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"The learning rate is {self.learning_rate}; it is a number above 0, such as .001.")

    @property
    def peak(self) -> float:
        """The highest learning rate."""
        return self.learning_rate if self.learning_rate is not None else RATES[self.optimiser]

    def shape(self, vocabulary: int) -> RoFormerV2Config:
        """The encoder's shape; heads are of size 64 unless their number is given."""
        return RoFormerV2Config(
            vocabulary=vocabulary,
            layers=self.layers,
            width=self.width,
            heads=self.heads or max(1, self.width // 64),
            feed_forward=self.feed_forward,
            max_length=max(512, self.length),
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )


def optimiser_for(model: nn.Module, how: PretrainSettings, *, peak: float | None = None) -> torch.optim.Optimizer:
    """The optimiser that the settings name, over all parameters of the model."""
    rate = how.peak if peak is None else peak
    match how.optimiser:
        case "adamw":
            return torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
        case "lamb":
            return Lamb(model.parameters(), lr=rate)
        case "tiger":
            return Tiger(param_groups_for(model), lr=rate, embedding_update="stale")
