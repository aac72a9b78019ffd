"""Fill in a part of a picture: the known part is put back, with the right noise, after every step.

Post: 9181 (the chain)
Paper: Lugmayr et al., RePaint, 2022.

Notation
    known   [batch, *shape]   picture whose part under the mask counts
    mask    broadcast to it   1 (true): known, 0: to be filled in
    x'      state at the next time: known part A' known + B' z, filled part from the chain
    rounds  how often each step is taken: going back up by fresh noise lets both parts come to agree
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from tianwen.diffusion.ddim import checked_eta, ddim_step
from tianwen.diffusion.grids import Grid, times_of
from tianwen.diffusion.noise import checked_seeds, normal
from tianwen.diffusion.sampling import at_least_float32, look, transition
from tianwen.diffusion.schedule import Schedule
from tianwen.diffusion.steps import Transition, apply
from tianwen.diffusion.targets import Model, Target, checked_target
from tianwen.errors import InputError


@torch.no_grad()
def inpaint(
    eps_model: Model,
    known: Float[Tensor, " batch *shape"],
    mask: Tensor,
    *,
    schedule: Schedule,
    grid: Grid = "logsnr",
    steps: int | None = None,
    eta: float = 1.0,
    rounds: int = 4,
    target: Target = "eps",
    seeds: int | Iterable[int],
) -> Float[Tensor, " batch *shape"]:
    """Pictures that equal `known` where the mask is 1 and are made up elsewhere, to match: [batch, *shape].

    A model call for each of `steps` times `rounds`; one round is fast, but the parts hardly know of each other.
    """
    checked_target(target, schedule)
    checked_eta(eta)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise InputError(f"rounds must be a whole number of at least 1; given was {rounds!r}.")
    numbers = checked_seeds(seeds)
    if len(numbers) != known.shape[0]:
        raise InputError(f"{known.shape[0]} pictures need as many seeds, one each; given were {len(numbers)}.")
    kind = at_least_float32(known.dtype)
    kept = _checked_mask(mask, known).to(known.device)
    clean = known.to(kind)
    times = times_of(schedule, grid, steps)
    shape, calls = known.shape[1:], 0
    x = arrived = normal(numbers, shape, stream="start").to(clean)
    for t, following in pairwise([*times, -1]):
        move = transition(schedule, t, following)
        step = ddim_step(move, eta=eta)
        last = 1 if following < 0 else rounds
        for turn in range(last):
            x0, eps = look(eps_model, x, t, move, target=target, dtype=known.dtype)
            z = normal(numbers, shape, stream="step", draw=calls).to(x)
            arrived = apply(step, x0, eps, z=z)
            noise = normal(numbers, shape, stream="known", draw=calls).to(x)
            arrived = torch.where(kept, move.A_next * clean + move.B_next * noise, arrived)
            if turn + 1 < last:
                x = _back_up(arrived, move, normal(numbers, shape, stream="again", draw=calls).to(x))
            calls += 1
        x = arrived
    return x.to(known.dtype)


def _back_up(x: Tensor, move: Transition, z: Tensor) -> Tensor:
    """From the next time back to this one, by the chain's own noise: x <- a x + b z."""
    a = move.A / move.A_next
    return a * x + math.sqrt((1 - a) * (1 + a)) * z


def _checked_mask(mask: Tensor, known: Tensor) -> Tensor:
    if mask.is_floating_point() and bool(((mask != 0) & (mask != 1)).any()):
        raise InputError("The mask must be 1 where the picture is known and 0 elsewhere, nothing between.")
    try:
        return torch.broadcast_to(mask, known.shape).bool()
    except RuntimeError:
        raise InputError(
            f"The mask of shape {list(mask.shape)} does not fit pictures of {list(known.shape)}; give [height, width], "
            "or one mask a picture."
        ) from None
