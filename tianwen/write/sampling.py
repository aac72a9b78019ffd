"""The next id from its logits: temperature, the k most likely, the most likely ones that hold a share p.

Post: 9554 (generation from the state)

Notation
    V  vocabulary      z  logits [V]      t  temperature: p = softmax(z / t); 0 takes the most likely one
    k  keep the k most likely      q  then keep the fewest most likely ones whose probabilities add up to q
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tianwen.errors import InputError, ModelError


@dataclass(frozen=True)
class SamplingSettings:
    """How to choose. Raises InputError for values that mean nothing."""

    temperature: float | int = 1.0
    top_k: int | None = None
    top_p: float | int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"The temperature is {self.temperature}; it is a number from 0 (always the likeliest) up.")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is {self.top_k}; at least 1 must be left to choose from.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it is a share above 0, up to 1.")

    def generator(self) -> torch.Generator:
        """A source of random numbers: the same for the same seed, another each time without one."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed % (1 << 63))
        return generator


def choose(logits: Float[Tensor, " vocabulary"], how: SamplingSettings, generator: torch.Generator) -> int:
    """One id, drawn from the logits; -inf is never drawn. Raises ModelError if they are not numbers."""
    logits = logits.detach().float().cpu()
    best = float(logits.max())
    if not math.isfinite(best):
        raise ModelError("The model gives no probabilities (not a number): its weights are broken. Train it anew.")
    if how.temperature == 0:
        return int(logits.argmax())
    scaled = (logits - best).double() / how.temperature
    places = None
    if how.top_k is not None and how.top_k < len(scaled):
        scaled, places = scaled.topk(how.top_k)  # likeliest first
    chances = scaled.softmax(dim=0)
    if how.top_p is not None and how.top_p < 1:
        chances, order = chances.sort(descending=True)
        places = order if places is None else places[order]
        kept = int((chances.cumsum(0) - chances < how.top_p).sum())  # as long as those before hold less than p
        chances, places = chances[:kept], places[:kept]
    drawn = _draw(chances, generator)
    return drawn if places is None else int(places[drawn])


def _draw(chances: Float[Tensor, " choices"], generator: torch.Generator) -> int:
    """A place, as often as its chance says: where a uniform number falls among the sums (torch.multinomial: 10 x)."""
    sums = chances.cumsum(0)
    point = torch.rand(1, generator=generator, dtype=torch.float64) * sums[-1]
    place = int(torch.searchsorted(sums, point, right=True))
    return place if place < len(sums) else int((sums < sums[-1]).sum())  # rounded up to the very end
