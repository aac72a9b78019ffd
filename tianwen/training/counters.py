"""What a run remembers besides tensors: counters, and sums for the next line of the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tianwen.training.distributed import World
from tianwen.training.step import Parts, Sums, merge


@dataclass
class Counters:
    """Where the run stands; written into each checkpoint."""

    step: int = 0
    seconds: float = 0.0
    loss: float = float("nan")  # of the last line of the log
    skipped: int = 0
    skipped_in_row: int = 0
    rollbacks: int = 0
    rolled_to: int | None = None  # step of the checkpoint that the last roll-back loaded
    rate: float = 1.0  # halved at each roll-back
    evaluation: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    best_step: int | None = None
    stale: int = 0  # evaluations since the best one

    def take(self, values: Mapping[str, Any]) -> None:
        """Overwrite the fields named."""
        for name, value in values.items():
            setattr(self, name, value)


@dataclass
class Window:
    """Sums over the steps since the last line of the log."""

    steps: int = 0
    loss: float = 0.0
    norm: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    parts: Parts = field(default_factory=dict)  # of this process alone, until `gather`

    def add(self, sums: Sums, norm: float) -> None:
        """Count one update that was done."""
        self.steps += 1
        self.loss += sums.mean_loss
        self.norm += norm
        merge(self.parts, sums.parts)

    def gather(self, world: World) -> None:
        """Move the parts of all processes to rank 0; every process must call it."""
        everyones = world.gathered(self.parts)
        self.parts = {}
        for parts in everyones if world.writes else []:
            merge(self.parts, parts)

    def line(self) -> dict[str, float]:
        """The means, for the log; at least one update must have been counted."""
        told = {"loss": self.loss / self.steps, "grad_norm": self.norm / self.steps}
        if self.tokens and self.seconds:
            told["tokens_per_second"] = round(self.tokens / self.seconds, 1)
        return told | {name: value / weight for name, (value, weight) in self.parts.items()}
