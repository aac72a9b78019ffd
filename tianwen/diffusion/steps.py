"""One step of a sampler as four numbers: every solver here is the same sum with its own coefficients.

Post: 9152, 9181

Notation
    A, B      amplitudes at the time now                 A', B'   at the next time (1 and 0: the clean picture)
    x0, eps   picture and noise that the model sees in x, x = A x0 + B eps
    x0_       the x0 of the step before                  z        fresh noise
    x' = signal x0 + noise eps + history (x0 - x0_) + fresh z

`ddim.py`, `ddpm.py` and `dpm_solver.py` compute the numbers, in float64 and once; this file applies them.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Transition:
    """Amplitudes on both sides of a step: from (A, B) to (A_next, B_next)."""

    A: float
    B: float
    A_next: float
    B_next: float


@dataclass(frozen=True, slots=True)
class Step:
    """Coefficients of one step."""

    signal: float
    noise: float
    fresh: float = 0.0
    history: float = 0.0


def apply(
    step: Step,
    x0: Float[Tensor, " batch *shape"],
    eps: Float[Tensor, " batch *shape"],
    *,
    before: Float[Tensor, " batch *shape"] | None = None,
    z: Float[Tensor, " batch *shape"] | None = None,
) -> Float[Tensor, " batch *shape"]:
    """x' of the step. `before` (the x0 of the step before) and `z` are needed only where their coefficient is not 0.

    No fused operations (`alpha=`, addcmul, lerp): see `targets.split`.
    """
    x = step.signal * x0 + step.noise * eps
    if step.history and before is not None:
        x = x + step.history * (x0 - before)
    if step.fresh and z is not None:
        x = x + step.fresh * z
    return x
