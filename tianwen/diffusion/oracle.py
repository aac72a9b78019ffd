"""A data set whose best possible network is known exactly, so that every error left is the sampler's.

Post: 9152, 9181

Notation
    data    every component independent, N(mean, deviation^2)
    x0 given x = A x0 + B eps is normal with
        mean       m + A d^2 (x - A m) / v,   v = A^2 d^2 + B^2
        variance   d^2 B^2 / v
    best eps = (x - A E[x0 | x]) / B = B (x - A m) / v     (no division that could fail)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tianwen.diffusion.schedule import Schedule
from tianwen.diffusion.targets import Target


@dataclass(frozen=True)
class GaussianOracle:
    """The best model of data N(mean, deviation^2), for any of the three targets; called as a network is."""

    schedule: Schedule
    mean: float = 0.5
    deviation: float = 0.2
    target: Target = "eps"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        wide = x.to(torch.float64)
        A, B = self.schedule.at(t, wide)
        spread = A * A * self.deviation**2 + B * B  # v
        eps = B * (wide - A * self.mean) / spread
        x0 = self.mean + A * self.deviation**2 * (wide - A * self.mean) / spread
        match self.target:
            case "eps":
                return eps.to(x.dtype)
            case "x0":
                return x0.to(x.dtype)
            case "v":
                return (A * eps - B * x0).to(x.dtype)

    def unexplained(self) -> list[float]:
        """Variance of x0 given x at every time: what Analytic-DPM estimates."""
        A, B = self.schedule.A, self.schedule.B
        return (self.deviation**2 * B * B / (A * A * self.deviation**2 + B * B)).tolist()
