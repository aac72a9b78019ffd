"""The DDIM step: any amount of fresh noise, down to none, on any subsequence of the times.

Post: 9181
Paper: Song et al., Denoising Diffusion Implicit Models, 2020.

    here             post                               paper
    A, A'            bar alpha_t, bar alpha_{t-1}       sqrt(alpha_t), sqrt(alpha_{t-1})
    B, B'            bar beta_t, bar beta_{t-1}         sqrt(1 - alpha_t), ...
    a = A / A'       alpha_t                            of the subsequence, not of the chain of all T times
    s                sigma_t                            sigma_t

The post:  x' = (x - (B - a sqrt(B'^2 - s^2)) eps) / a + s z.  With x = A x0 + B eps this is
           x' = A' x0 + sqrt(B'^2 - s^2) eps + s z,
which divides by nothing. s = eta B' sqrt(1 - a^2) / B: eta = 1 gives DDPM's variance, 0 a deterministic chain.
"""

from __future__ import annotations

import math
from numbers import Real

from tianwen.diffusion.steps import Step, Transition
from tianwen.errors import InputError


def posterior_deviation(move: Transition) -> float:
    """s at eta = 1: the standard deviation of q(x' | x, x0), B' sqrt(1 - a^2) / B."""
    a = move.A / move.A_next
    return move.B_next * math.sqrt((1 - a) * (1 + a)) / move.B


def step_with_deviation(move: Transition, s: float) -> Step:
    """The step that adds fresh noise of deviation `s`, held to 0 .. B' so that no root of less than 0 is taken.

    With s = b_t, which the post offers as a choice, B'^2 - s^2 is negative in the last few steps: not-a-number there.
    """
    s = min(max(s, 0.0), move.B_next)
    return Step(signal=move.A_next, noise=math.sqrt((move.B_next - s) * (move.B_next + s)), fresh=s)


def ddim_step(move: Transition, *, eta: float = 0.0) -> Step:
    """One DDIM step; eta >= 0 (above 1 it is noisier than DDPM, as far as B' allows)."""
    return step_with_deviation(move, checked_eta(eta) * posterior_deviation(move))


def checked_eta(eta: float) -> float:
    """`eta`, if it is a finite number of at least 0."""
    if isinstance(eta, bool) or not isinstance(eta, Real) or not math.isfinite(eta) or eta < 0:
        raise InputError(
            f"eta must be a number of at least 0: 0 is DDIM's deterministic chain, 1 is DDPM's; given was {eta!r}."
        )
    return float(eta)
