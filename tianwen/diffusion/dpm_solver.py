"""The 2M step: DDIM with a second-order correction from the picture seen one step earlier, at no extra model call.

Post: 9181 (DDIM as Euler's method on an ODE; higher orders apply)
Paper: Lu et al., DPM-Solver++, 2022 (multistep, data prediction).

    l = log(A / B), the half log-SNR; h = l' - l, the length of the step; h_ that of the step before
    x' = (B' / B) x + (A' - A B' / B) (x0 + h / (2 h_) (x0 - x0_))

The first step (no x0_ yet), the last one (h is infinite) and one after A = 0 (h_ is infinite) are DDIM steps. With
eta > 0 the noise's coefficient is DDIM's sqrt(B'^2 - s^2) instead of B': at eta = 1 the SDE form of the same paper.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tianwen.diffusion.ddim import ddim_step
from tianwen.diffusion.steps import Step, Transition


def log_snr(A: float, B: float) -> float:
    """log(A / B); -inf for pure noise, inf for a clean picture."""
    if A <= 0.0:
        return -math.inf
    return math.inf if B <= 0.0 else math.log(A / B)


def two_m_step(move: Transition, *, eta: float = 0.0, before: Transition | None = None) -> Step:
    """One 2M step; `before` is the transition that led here, None for the first."""
    step = ddim_step(move, eta=eta)
    if before is None:
        return step
    here = log_snr(move.A, move.B)
    h, h_before = log_snr(move.A_next, move.B_next) - here, here - log_snr(before.A, before.B)
    if not (math.isfinite(h) and math.isfinite(h_before)) or h_before <= 0.0:
        return step
    reach = step.signal - move.A * step.noise / move.B  # A' - A B' / B without fresh noise
    return replace(step, history=reach * h / (2 * h_before))
