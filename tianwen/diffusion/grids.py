"""Which times a sampler visits: named grids of any number of steps, and lists of one's own.

Post: 9181 (subsequences of times)

Notation
    T        times of the schedule, 0 .. T-1        S      steps, 1 .. T
    times    [S], strictly falling, from T-1; the transition after times[i] goes to times[i+1], the last one to the
             clean picture. The previous time is always read from this list, never computed as t - T // S.

The grid matters more than the solver at few steps: what counts is the change of log(A/B), and an even spread over t
spends nearly all of its steps where it hardly changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tianwen.diffusion.schedule import Schedule
from tianwen.errors import InputError

GridName = Literal["logsnr", "uniform", "trailing", "quadratic"]
Grid = GridName | Iterable[int]

DEFAULT_STEPS = 20
DEEPEST = -6.0  # log(A/B) below which a grid no longer counts steps: A < 0.0025 is noise for every picture
WEIGHT = 0.1  # density of the log-SNR grid: A^0.1, a little sparser where the picture is not seen yet


def times_of(schedule: Schedule, grid: Grid = "logsnr", steps: int | None = None) -> list[int]:
    """The S times of a named grid, or a list of one's own after checking it.

    logsnr     even steps of log(A/B), slightly longer ones in the noise; from T-1 to 0
    uniform    even steps of t from T-1 to 0
    trailing   every (T/S)-th time counted back from T-1 (what others call trailing); 0 is not visited
    quadratic  even steps of sqrt(t) from T-1 to 0

    `steps` is 20 unless given (T, if there are fewer); for a list it is the list's length and may be left out.
    Raises InputError for steps outside 1 .. T, and for lists with repeated, unordered or foreign times.
    """
    T = schedule.T
    if not isinstance(grid, str):
        return _checked_list(grid, T, steps)
    if grid not in get_args(GridName):
        raise InputError(f"There is no grid {grid!r}; there are {', '.join(get_args(GridName))}, or a list of times.")
    S = min(DEFAULT_STEPS, T) if steps is None else _checked_steps(steps, T)
    if S == 1:
        return [T - 1]
    match grid:
        case "logsnr":
            wanted = _even_in_log_snr(schedule, S)
        case "uniform":
            wanted = np.linspace(T - 1, 0, S)
        case "trailing":
            wanted = np.arange(S, 0, -1) * (T / S) - 1
        case _:
            wanted = np.linspace(np.sqrt(T - 1), 0, S) ** 2
    return _distinct(wanted, T)


def _even_in_log_snr(schedule: Schedule, S: int) -> NDArray[np.float64]:
    """Times at which the integral of A^WEIGHT over log(A/B) takes S evenly spaced values, both ends included."""
    depth = np.maximum(schedule.log_snr.numpy(), DEEPEST)[::-1]  # [T], rising, from noise to picture
    weight = (1 + np.exp(-2 * depth)) ** (-WEIGHT / 2)  # A^WEIGHT with A from log(A/B), no less than at DEEPEST
    pieces = np.diff(depth) * (weight[1:] + weight[:-1]) / 2 + 1e-12  # never flat, so that it can be inverted
    way = np.concatenate([[0.0], np.cumsum(pieces)])  # [T]
    return schedule.T - 1 - np.interp(np.linspace(0, way[-1], S), way, np.arange(schedule.T))


def _distinct(wanted: NDArray[np.floating], T: int) -> list[int]:
    """Whole times close to those wanted, strictly falling from T-1; always possible because S <= T."""
    times = np.rint(wanted).astype(np.int64)
    back = np.arange(len(times))[::-1]
    # times + i must not rise: push up from the end, then down from the start; both keep what is in order already.
    times = np.maximum.accumulate((times - back)[::-1])[::-1] + back
    times[0] = T - 1
    times = np.minimum.accumulate(times - back) + back
    return times.tolist()


def _checked_steps(steps: int, T: int) -> int:
    if not isinstance(steps, int | np.integer) or isinstance(steps, bool) or not 1 <= steps <= T:
        raise InputError(
            f"The number of steps must be a whole number from 1 to T = {T}, the number of times that the schedule "
            f"has; given was {steps!r}."
        )
    return int(steps)


def _checked_list(grid: Iterable[int], T: int, steps: int | None) -> list[int]:
    if not isinstance(grid, Iterable):
        raise InputError(f"A grid is a name ({', '.join(get_args(GridName))}) or a list of times; given was {grid!r}.")
    plain: Iterable[Any] = grid.tolist() if hasattr(grid, "tolist") else grid  # type: ignore[attr-defined] - arrays
    times = [t.tolist() if hasattr(t, "tolist") else t for t in (plain if isinstance(plain, Iterable) else [])]
    shown = f"{times[:8]}{' …' if len(times) > 8 else ''}"
    if not times or not all(isinstance(t, int) and not isinstance(t, bool) for t in times):
        raise InputError(f"A grid must be a name or a list of at least one whole number; given was {shown}.")
    if min(times) < 0 or max(times) >= T:
        raise InputError(f"The times of a grid lie from 0 to T-1 = {T - 1}; given was {shown}.")
    if len(set(times)) < len(times):
        raise InputError(f"A grid visits each time once at most; {shown} repeats a time.")
    if any(now < after for now, after in pairwise(times)):
        raise InputError(f"The times of a grid fall, from noise to picture; sort {shown} the other way round.")
    if times[0] != T - 1:
        raise InputError(
            f"A grid starts at T-1 = {T - 1}, where pure noise is; {shown} starts at {times[0]}, and noise fed there "
            "is not what the model was trained on. Put T-1 first, or start from a noised picture with `edit`."
        )
    if steps is not None and steps != len(times):
        raise InputError(f"The grid has {len(times)} times but steps={steps!r}; leave steps out with a list.")
    return times
