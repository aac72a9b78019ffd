"""The DDPM step: the chain as the post derives it, with either of its variances or one computed from data.

Post: 9119, 9152, 9245
Paper: Ho et al., 2020; Bao et al., Analytic-DPM, 2022.

    here        post                               paper
    b           beta_t = sqrt(1 - alpha_t^2)       sqrt(beta_t)
    mean        (x - b^2 / B eps) / a              the same
    small       s = b B' / B                       sqrt(tilde beta_t): exact if the data is one point
    large       s = b                              sqrt(beta_t): exact if the data is white noise
    given       s of Analytic-DPM, see `analytic.py`

Unlike in the DDIM formula, the mean does not depend on s here, so s = b is harmless.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

from tianwen.diffusion.ddim import ddim_step
from tianwen.diffusion.steps import Step, Transition
from tianwen.errors import InputError

Variance = Literal["small", "large"]


def ddpm_step(move: Transition, *, eta: float = 1.0, variance: Variance = "small") -> Step:
    """One DDPM step over any subsequence. The last one, to the clean picture, adds no noise."""
    mean = ddim_step(move, eta=eta)  # at eta = 1 its mean is (x - b^2 / B eps) / a
    match variance:
        case "small":
            return mean
        case "large":
            a = move.A / move.A_next
            return replace(mean, fresh=eta * math.sqrt((1 - a) * (1 + a)) if move.B_next else 0.0)
    raise InputError(f"There is no variance {variance!r}; there are {', '.join(get_args(Variance))}.")


def analytic_step(move: Transition, *, eta: float, unexplained: float) -> Step:
    """The step whose variance adds what the model cannot know about x0 (Analytic-DPM, post 9245).

    `unexplained` is the mean variance of x0 given x (per component), from `analytic.py`; the step's variance is
    s^2 + (A' - A sqrt(B'^2 - s^2) / B)^2 unexplained: q(x' | x, x0) plus what x0's spread moves its mean by.
    """
    step = ddim_step(move, eta=eta)
    moved = step.signal - move.A * step.noise / move.B
    return replace(step, fresh=math.sqrt(step.fresh**2 + moved**2 * unexplained) if move.B_next else 0.0)
