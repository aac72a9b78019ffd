"""Learning-rate schedules: pure functions from the number of the update to a factor on the learning rate.

Post: 9736 (the piecewise-linear schedule as a dict of points).

Notation
    t  number of the update, 1 for the first        f(t)  factor; learning rate of update t = base rate * f(t)

Use: `fit(..., schedule=cosine(10_000, warmup=500))`. A schedule is any callable int -> float; it must give the same
answer every time, because a resumed run asks it again.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping

from tianwen.errors import InputError

Schedule = Callable[[int], float]
"""From the number of the update (first = 1) to a factor on the base learning rate."""


def piecewise_linear(points: Mapping[int, float | int]) -> Schedule:
    """Straight lines between points {update: factor}: from 0 at 0 unless 0 is given, constant after the last point.

    `piecewise_linear({1000: 1, 10000: 0.1})` warms up for 1000 updates and falls to a tenth at 10000.
    Raises InputError for no points, a negative update or a factor that is not a finite number >= 0.
    """
    if not points:
        raise InputError("A piecewise-linear schedule needs at least one point, for example {1000: 1.0, 10000: 0.1}.")
    for update, factor in points.items():
        if update < 0 or not (math.isfinite(factor) and factor >= 0):
            raise InputError(f"Point {update}: {factor} of the schedule: updates are >= 0, factors finite and >= 0.")
    known = sorted({0: 0.0, **points}.items())
    updates = [update for update, _ in known]

    def factor_at(t: int) -> float:
        right = bisect_right(updates, t)
        if right == len(known):
            return float(known[-1][1])
        (t0, f0), (t1, f1) = known[right - 1], known[right]
        return f0 + (f1 - f0) * (t - t0) / (t1 - t0)

    return factor_at


def constant(*, warmup: int = 0) -> Schedule:
    """A straight line from 0 to 1 over `warmup` updates, then 1."""
    _check(warmup=warmup)
    return lambda t: _rise(t, warmup)


def linear(steps: int, *, warmup: int = 0, floor: float | int = 0.0) -> Schedule:
    """Rise over `warmup` updates, then a straight line from 1 down to `floor` at update `steps`, constant after it."""
    _check(steps=steps, warmup=warmup, floor=floor)
    return lambda t: _rise(t, warmup) * (floor + (1 - floor) * (1 - _part_done(t, steps, warmup)))


def cosine(steps: int, *, warmup: int = 0, floor: float | int = 0.0) -> Schedule:
    """Rise over `warmup` updates, then half a cosine from 1 down to `floor` at update `steps`, constant after it."""
    _check(steps=steps, warmup=warmup, floor=floor)
    return lambda t: (
        _rise(t, warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * _part_done(t, steps, warmup))))
    )


def _rise(t: int, warmup: int) -> float:
    return min(1.0, t / warmup) if warmup else 1.0


def _part_done(t: int, steps: int, warmup: int) -> float:
    """0 up to the end of the warm-up, 1 from `steps` on."""
    return min(1.0, max(0.0, (t - warmup) / (steps - warmup)))


def _check(*, steps: int | None = None, warmup: int = 0, floor: float | int = 0.0) -> None:
    if warmup < 0 or (steps is not None and steps <= warmup):
        raise InputError(f"warmup={warmup}, steps={steps}: a schedule needs 0 <= warmup < steps.")
    if not 0 <= floor <= 1:
        raise InputError(f"floor={floor}: the lowest factor lies between 0 and 1.")
