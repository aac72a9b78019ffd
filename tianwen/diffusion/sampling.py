"""From noise to pictures: the loop that walks a grid of times with a solver.

Post: 9152 (DDPM), 9181 (DDIM, fewer steps)

Notation
    x       [batch, *shape]   state, at least float32; its first value is the noise of each picture's seed
    times   [S]               the grid, falling from T-1; the next time is always the next entry of this list
    model   (x, t long [batch], from 0) -> eps, x0 or v
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tianwen.diffusion.ddim import checked_eta, ddim_step
from tianwen.diffusion.ddpm import Variance, analytic_step, ddpm_step
from tianwen.diffusion.dpm_solver import two_m_step
from tianwen.diffusion.grids import Grid, times_of
from tianwen.diffusion.noise import checked_seeds, normal
from tianwen.diffusion.schedule import Schedule
from tianwen.diffusion.steps import Step, Transition, apply
from tianwen.diffusion.targets import Model, Target, checked_target, split
from tianwen.errors import InputError

Solver = Literal["2m", "ddim", "ddpm"]
Watch = Callable[[Tensor, int], Tensor | None]
"""Called after each step with x and the time it now has (-1: clean); what it returns, if anything, replaces x."""


@dataclass(frozen=True)
class Options:
    """How a chain is walked; the settings that do not change from step to step."""

    solver: Solver = "2m"
    eta: float | None = None  # None: 0 for ddim and 2m, 1 for ddpm
    target: Target = "eps"
    variance: Variance = "small"  # of ddpm
    unexplained: Sequence[float] | None = None  # per time, from `analytic.py`; overrides `variance`

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver):
            raise InputError(f"There is no solver {self.solver!r}; there are {', '.join(get_args(Solver))}.")
        if self.eta is not None:
            checked_eta(self.eta)
        if self.solver != "ddpm" and (self.variance != "small" or self.unexplained is not None):
            raise InputError("A choice of variance belongs to solver='ddpm'; leave it out with the others.")

    @property
    def noisiness(self) -> float:
        """eta, with the solver's own default."""
        return (1.0 if self.solver == "ddpm" else 0.0) if self.eta is None else float(self.eta)


@torch.no_grad()
def sample(
    eps_model: Model,
    shape: Sequence[int],
    *,
    schedule: Schedule,
    solver: Solver = "2m",
    grid: Grid = "logsnr",
    steps: int | None = None,
    eta: float | None = None,
    seeds: int | Iterable[int],
    target: Target = "eps",
    variance: Variance = "small",
    unexplained: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    watch: Watch | None = None,
) -> Float[Tensor, " batch *shape"]:
    """New pictures from noise: one per seed, [batch, *shape], not clipped.

    `eps_model(x [batch, *shape], t long [batch])` gives the noise in x at the times t = 0 .. T-1, or x0 or v if
    `target` says so. `solver`: 2m (best at few steps), ddim, ddpm. `grid` and `steps` (20): see `grids.times_of`.
    `eta`: amount of fresh noise, 0 for ddim and 2m and 1 for ddpm unless given. `dtype` is what the model is fed and
    what comes back; the chain itself is at least float32. `watch(x, t)` sees the state after every step.

    Picture k depends on seeds[k] alone. A model whose own results depend on the batch size, as convolutions on some
    devices do, can be wrapped by `one_by_one`. Raises InputError for options that cannot be used.
    """
    options = Options(solver, eta, checked_target(target, schedule), variance, unexplained)
    times = times_of(schedule, grid, steps)
    numbers = checked_seeds(seeds)
    x = normal(numbers, checked_shape(shape), stream="start").to(device, at_least_float32(dtype))
    return walk(eps_model, x, times, schedule=schedule, options=options, seeds=numbers, dtype=dtype, watch=watch)


@torch.no_grad()
def walk(
    model: Model,
    x: Float[Tensor, " batch *shape"],
    times: Sequence[int],
    *,
    schedule: Schedule,
    options: Options,
    seeds: Sequence[int],
    dtype: torch.dtype = torch.float32,
    watch: Watch | None = None,
) -> Float[Tensor, " batch *shape"]:
    """The chain from `x`, which has the noise of times[0], through `times` to the clean picture."""
    _check_unexplained(options.unexplained, schedule)
    before_x0: Tensor | None = None
    before: Transition | None = None
    for t, following in pairwise([*times, -1]):
        move = transition(schedule, t, following)
        step = coefficients(options, move, before, t)
        x0, eps = look(model, x, t, move, target=options.target, dtype=dtype)
        z = normal(seeds, x.shape[1:], stream="step", draw=t).to(x) if step.fresh else None
        x = apply(step, x0, eps, before=before_x0, z=z)
        before_x0, before = x0, move
        if watch is not None and (replaced := watch(x, following)) is not None:
            x = replaced.to(x)
    return x.to(dtype)


def _check_unexplained(unexplained: Sequence[float] | None, schedule: Schedule) -> None:
    if unexplained is None:
        return
    if len(unexplained) != schedule.T or not all(math.isfinite(value) and value >= 0 for value in unexplained):
        raise InputError(
            f"`unexplained` holds a variance, finite and not below 0, for each of the {schedule.T} times; given were "
            f"{len(unexplained)} values. `analytic.unexplained_variance` measures them."
        )


def transition(schedule: Schedule, t: int, following: int) -> Transition:
    """Amplitudes at `t` and at the time that follows; -1 is the clean picture."""
    clean = following < 0
    return Transition(
        A=float(schedule.A[t]),
        B=float(schedule.B[t]),
        A_next=1.0 if clean else float(schedule.A[following]),
        B_next=0.0 if clean else float(schedule.B[following]),
    )


def coefficients(options: Options, move: Transition, before: Transition | None, t: int) -> Step:
    """The solver's step for this transition, in float64."""
    match options.solver:
        case "ddim":
            return ddim_step(move, eta=options.noisiness)
        case "2m":
            return two_m_step(move, eta=options.noisiness, before=before)
        case "ddpm":
            if options.unexplained is not None:
                return analytic_step(move, eta=options.noisiness, unexplained=float(options.unexplained[t]))
            return ddpm_step(move, eta=options.noisiness, variance=options.variance)


def look(
    model: Model, x: Tensor, t: int, move: Transition, *, target: Target, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The picture and the noise that the model sees in x at time t, each [batch, *shape], in the type of x."""
    # A copy: a model may work in place, but the state is still needed.
    prediction = model(x.to(dtype, copy=True), torch.full((x.shape[0],), t, dtype=torch.long, device=x.device))
    if not isinstance(prediction, Tensor):
        raise InputError(
            f"The model answered with {type(prediction).__name__}; its answer must be a tensor of its input's shape. "
            "Of a network that wraps its answer, give `lambda x, t: net(x, t).sample`, or whatever the name is there."
        )
    if prediction.shape != x.shape:
        raise InputError(
            f"The model was given {list(x.shape)} and answered {list(prediction.shape)}; its answer must have the "
            "shape of its input, [batch, *shape]."
        )
    return split(prediction.to(x.dtype), x, move.A, move.B, target=target)


def one_by_one(model: Model) -> Model:
    """The model, called for each picture alone: equal bits in any batch, where its kernels do not promise that."""

    def called(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([model(x[k : k + 1], t[k : k + 1]) for k in range(x.shape[0])])

    return called


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one picture as a tuple of whole numbers of at least 1."""
    if not isinstance(shape, Iterable):
        raise InputError(f"The shape is a list of sizes, such as (3, 64, 64) or (5,); given was {shape!r}.")
    sizes = tuple(size if isinstance(size, bool) or not hasattr(size, "__index__") else index(size) for size in shape)
    if not all(type(size) is int and size >= 1 for size in sizes):
        raise InputError(f"The shape is that of one picture, such as (3, 64, 64), no batch; given was {shape!r}.")
    return sizes


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The type in which the chain is computed for pictures of this type."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise InputError(f"Pictures are computed in a floating type such as torch.float32; given was {dtype}.")
    return torch.promote_types(dtype, torch.float32)
