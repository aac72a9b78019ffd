"""Pictures to latents and back, paths between latents, and starting from a noised picture instead of noise.

Post: 9152 (interpolation of noised pictures), 9181 (latents of the deterministic chain)

Notation
    x0   [batch, *shape]   picture          z   [batch, *shape]   its latent: the noise that eta = 0 turns into it
    t    time to start from, 0 .. T-1       times   [S], falling from t
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from tianwen.diffusion.grids import Grid, times_of
from tianwen.diffusion.noise import checked_seeds, normal
from tianwen.diffusion.sampling import Options, Watch, at_least_float32, look, transition, walk
from tianwen.diffusion.schedule import Schedule
from tianwen.diffusion.steps import Transition
from tianwen.diffusion.targets import Model, Target, checked_target
from tianwen.errors import InputError


@torch.no_grad()
def encode(
    eps_model: Model,
    x0: Float[Tensor, " batch *shape"],
    *,
    schedule: Schedule,
    grid: Grid = "logsnr",
    steps: int | None = None,
    target: Target = "eps",
    refinements: int = 2,
) -> Float[Tensor, " batch *shape"]:
    """The latent that `decode` with solver="ddim" and the same grid turns into x0 (inversion of the ODE).

    A step backwards needs the noise at the point it leads to, x = g(x) with g = kept x' + shift eps(x): plain inversion
    takes x' for x in g and is far off at few steps. Each of the `refinements` costs one model call and goes on from
    there, by the secant through the last two points (Anderson's method of depth one).
    """
    checked_target(target, schedule)
    if schedule.ends_in_pure_noise:
        raise InputError(
            "With zero terminal SNR the last time holds nothing of the picture, so no latent leads back to it. Encode "
            "with a schedule that keeps a little signal."
        )
    x = x0.to(at_least_float32(x0.dtype))
    times = times_of(schedule, grid, steps)
    for t, following in reversed(list(pairwise([*times, -1]))):
        move = transition(schedule, t, following)
        x = _step_back(
            lambda x, t=t, move=move: look(eps_model, x, t, move, target=target, dtype=x0.dtype)[1],
            x,
            move,
            refinements,
        )
    return x.to(x0.dtype)


def _step_back(noise_at: Callable[[Tensor], Tensor], arrived: Tensor, move: Transition, refinements: int) -> Tensor:
    """The x whose DDIM step leads to `arrived`: x' = A'/A x + (B' - A' B / A) eps(x), solved for x."""
    kept = move.A / move.A_next
    shift = move.B - kept * move.B_next
    known = kept * arrived
    x = known if move.B_next == 0 else arrived
    image = known + shift * noise_at(x)
    before: tuple[Tensor, Tensor] | None = None  # image and residual of the point before
    for _ in range(refinements):
        residual = image - x
        following = image if before is None else _secant(image, residual, *before)
        before, x = (image, residual), following
        image = known + shift * noise_at(x)
    return image


def _secant(image: Tensor, residual: Tensor, image_before: Tensor, residual_before: Tensor) -> Tensor:
    """The point where the line through two residuals comes closest to zero, picture by picture."""
    points = []
    for now, rest, then, rest_then in zip(image, residual, image_before, residual_before, strict=True):
        change = (rest - rest_then).double()
        length = float((change * change).sum())
        share = float((rest.double() * change).sum()) / length if length > 0 else 0.0
        share = min(max(share, -10.0), 10.0)  # a model that is no contraction must not throw the chain away
        points.append((1 - share) * now + share * then)
    return torch.stack(points) if points else image


@torch.no_grad()
def decode(
    eps_model: Model,
    z: Float[Tensor, " batch *shape"],
    *,
    schedule: Schedule,
    grid: Grid = "logsnr",
    steps: int | None = None,
    options: Options | None = None,
    seeds: int | Iterable[int] | None = None,
    watch: Watch | None = None,
) -> Float[Tensor, " batch *shape"]:
    """Pictures of the latents: the chain from `z` at T-1. `seeds` are needed only with eta > 0.

    The default solver is ddim, whose inverse `encode` is; pass `Options(solver="2m")` for latents that were drawn.
    """
    options = Options(solver="ddim") if options is None else options
    checked_target(options.target, schedule)
    times = times_of(schedule, grid, steps)
    numbers = _seeds_for(seeds, z.shape[0], needed=options.noisiness > 0)
    x = z.to(at_least_float32(z.dtype))
    return walk(eps_model, x, times, schedule=schedule, options=options, seeds=numbers, dtype=z.dtype, watch=watch)


@torch.no_grad()
def edit(
    eps_model: Model,
    x0: Float[Tensor, " batch *shape"],
    *,
    t: int,
    schedule: Schedule,
    grid: Grid = "logsnr",
    steps: int | None = None,
    options: Options | None = None,
    seeds: int | Iterable[int],
    watch: Watch | None = None,
) -> Float[Tensor, " batch *shape"]:
    """Noise the pictures up to time `t` and go back from there: near t = 0 they stay, near T-1 they are new.

    `grid` and `steps` count from `t` down; a list of times starts with `t`. The times used to noise and to start from
    are one and the same; the reference skips t steps and noises up to t as well, which agree at T / 2 only.
    """
    options = Options() if options is None else options
    checked_target(options.target, below(schedule, t))
    times = times_of(below(schedule, t), grid, steps)
    numbers = _seeds_for(seeds, x0.shape[0], needed=True)
    clean = x0.to(at_least_float32(x0.dtype))
    eps = normal(numbers, x0.shape[1:], stream="start").to(clean)
    x = float(schedule.A[t]) * clean + float(schedule.B[t]) * eps
    return walk(eps_model, x, times, schedule=schedule, options=options, seeds=numbers, dtype=x0.dtype, watch=watch)


def below(schedule: Schedule, t: int) -> Schedule:
    """The schedule up to and with time `t`, for grids that start there."""
    if isinstance(t, bool) or not isinstance(t, int) or not 0 <= t < schedule.T:
        raise InputError(f"The time to start from is a whole number from 0 to T-1 = {schedule.T - 1}; given was {t!r}.")
    return Schedule(schedule.A[: t + 1], schedule.B[: t + 1], schedule.name)


def slerp(
    z1: Float[Tensor, " batch *shape"], z2: Float[Tensor, " batch *shape"], fraction: float, *, measured: bool = True
) -> Float[Tensor, " batch *shape"]:
    """The latent `fraction` of the way from z1 (0) to z2 (1), on the sphere on which noise lies.

    The post: z1 cos(f pi/2) + z2 sin(f pi/2), right for independent noises, whose angle is pi/2. `measured` takes the
    angle that they have: latents of similar pictures are not independent, and the formula would make them too long.
    A straight line, in contrast, passes through noise of too small a deviation and gives blurred pictures.
    """
    if not isinstance(fraction, Real) or not math.isfinite(fraction):
        raise InputError(
            f"The fraction is a number, 0 for the first latent and 1 for the second; given was {fraction!r}."
        )
    if z1.shape != z2.shape or not z1.dim():
        raise InputError(
            f"Both latents must have the same shape, [batch, *shape]; given were {list(z1.shape)} and {list(z2.shape)}."
        )
    if not measured:
        angle = torch.full(z1.shape[:1], math.pi / 2, dtype=torch.float64)
    else:
        flat1, flat2 = (z.detach().to("cpu", torch.float64).reshape(len(z), -1) for z in (z1, z2))  # [batch, d]
        lengths = flat1.norm(dim=1) * flat2.norm(dim=1)
        angle = torch.arccos(((flat1 * flat2).sum(1) / lengths.clamp_min(1e-30)).clamp(-1, 1))  # [batch]
    # Nearly equal or opposite directions: there is no circle through them, or every one; a straight line will do.
    flat = angle.sin().abs() < 1e-4
    sine = torch.where(flat, 1.0, angle.sin())
    first = torch.where(flat, 1 - fraction, ((1 - fraction) * angle).sin() / sine)
    second = torch.where(flat, fraction, (fraction * angle).sin() / sine)
    ones = (-1, *[1] * (z1.dim() - 1))
    kind = at_least_float32(z1.dtype)
    first, second = (weight.to(z1.device, kind).view(ones) for weight in (first, second))
    return (first * z1.to(kind) + second * z2.to(kind)).to(z1.dtype)


def _seeds_for(seeds: int | Iterable[int] | None, batch: int, *, needed: bool) -> Sequence[int]:
    if seeds is None and not needed:
        return [0] * batch
    if seeds is None:
        raise InputError("A chain with fresh noise (eta > 0) needs seeds, one integer for each picture.")
    numbers = checked_seeds(seeds)
    if len(numbers) != batch:
        raise InputError(f"{batch} pictures need {batch} seeds, one each; given were {len(numbers)}.")
    return numbers
