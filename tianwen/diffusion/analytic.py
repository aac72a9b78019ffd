"""How much of the picture the model cannot know at each time: the variance that Analytic-DPM adds to each step.

Post: 9245
Paper: Bao et al., Analytic-DPM, 2022; Estimating the Optimal Covariance with Imperfect Mean, 2022.

Notation
    u[t]      mean over components of Var(x0 | x_t), "unexplained"; [T] float64
    factor    u = B^2 / A^2 factor; the post's "variance correction": 1 - mean eps(x)^2, between 0 and 1

The post's estimate from the length of eps is a difference of nearly equal numbers at late times; the mean squared
error of x0, which has the same expectation for the best model and is right for any other too, is not. The result
belongs into the model's file: the reference runs 5,000 batches each time it samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tianwen.diffusion.grids import times_of
from tianwen.diffusion.noise import normal
from tianwen.diffusion.sampling import at_least_float32, look, transition
from tianwen.diffusion.schedule import Schedule
from tianwen.diffusion.targets import Model, Target, checked_target
from tianwen.errors import InputError


@torch.no_grad()
def unexplained_variance(
    eps_model: Model,
    batches: Iterable[Float[Tensor, " batch *shape"]],
    *,
    schedule: Schedule,
    target: Target = "eps",
    times: Sequence[int] | int = 50,
    seed: int = 0,
) -> list[float]:
    """u[t] for all T times, to be stored and given to `sample(solver="ddpm", unexplained=...)`.

    Measured on the pictures of `batches` (some hundred suffice) at so many times of the log-SNR grid, or at the times
    given, and interpolated over log(A/B) between them: it is a smooth curve. Pictures are expected in [-1, 1], so that
    no variance exceeds 1.
    """
    checked_target(target, schedule)
    chosen = times_of(schedule, "logsnr", min(times, schedule.T)) if isinstance(times, int) else sorted(times)[::-1]
    if not chosen or chosen[0] >= schedule.T or chosen[-1] < 0:
        raise InputError(f"Times to measure at lie from 0 to T-1 = {schedule.T - 1}; given was {list(chosen)[:8]}.")
    sums, count = np.zeros(len(chosen)), 0
    for number, batch in enumerate(batches):
        x0 = batch.to(at_least_float32(batch.dtype))
        seeds = [(seed + 1_000_003 * number + row) % 2**63 for row in range(x0.shape[0])]
        for index, t in enumerate(chosen):
            move = transition(schedule, t, -1)
            eps = normal(seeds, x0.shape[1:], stream="known", draw=t).to(x0)
            x = move.A * x0 + move.B * eps
            seen = look(eps_model, x, t, move, target=target, dtype=batch.dtype)[0]
            sums[index] += float(((x0 - seen) ** 2).mean(dtype=torch.float64)) * x0.shape[0]
        count += x0.shape[0]
    if not count:
        raise InputError("No pictures were given to measure on.")
    return _interpolated(schedule, chosen, np.clip(sums / count, 0.0, 1.0)).tolist()


def _interpolated(schedule: Schedule, chosen: Sequence[int], measured: np.ndarray) -> np.ndarray:
    """log u at every time, on straight lines over log(A/B); beyond the ends, the ends."""
    depth = np.maximum(schedule.log_snr.numpy(), -40.0)
    return np.exp(np.interp(depth, depth[list(chosen)], np.log(np.maximum(measured, 1e-12))))
