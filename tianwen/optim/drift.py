"""Drift of embedding rows under sign optimisers: its law, and which rows of a table are drifting.

Post: 9736 (rare tokens' embeddings at exactly +-100 after a pretraining with Tiger, weight decay .01)

Notation
    m     momentum; with g = 0 it decays and never changes sign, so the row takes full steps along sign(m)
    W     1/wd, the wall: the fixed point of  theta -= lr (sign(m) + wd theta)
    R_t   RMS of the row after t silent steps        alpha   relative learning rate: lr_t = alpha R_t (Tiger)
    Tiger:  R_t = W / (1 + (W/R_0 - 1) e^(-alpha t)), the logistic law       Lion:  R_t = W + (R_0 - W) (1 - lr wd)^t
    R_ref   median RMS of the ordinary rows: not zero, finite, not flat
    B     the largest RMS that the ordinary rows' own spread lets expect among so many rows

A row is found drifting, from its values alone, if one of these holds (flatness: see `row_statistics`; s = its standard
deviation over rows of normal noise, .211 / sqrt(dim)):
    wall    more than half of its components are beyond .9 W
    reach   R >= max(.1 W, 5 R_ref): on its way to the wall, whatever the spread
    shape   R >= 2 R_ref and it is flatter than any noise: flatness >= max(.91, ordinary + 5 s)
    size    R >= max(5 R_ref, 1.6 B), in tables of few rows or few components 20 R_ref;
            or R >= max(2.5 R_ref, 1.15 B) and flatness >= ordinary + 2 s
but not because of a few large components: flatness >= .5 ordinary, or one beyond .9 W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from tianwen.optim.row_statistics import RowStatistics

WARN_RATIO, ERROR_RATIO = 5.0, 20.0
"""Size of rare rows against frequent ones: the signature long before the wall."""
_FLAT = 0.91  # uniform noise has .866
_FLATNESS_DEVIATION = 0.211  # times dim^-1/2, over rows of normal noise
_REACH = 0.1
_FEWEST_ROWS, _FEW_ROWS = 8, 32
_NARROW = 16  # rows of fewer components may be flat by chance
_MANY_ROWS = 200  # below this the tail's curvature cannot be estimated


def logistic_law(steps: float | int, start: float | int, *, lr: float, wall: float | int) -> float:
    """RMS of a silent row after `steps` updates of Tiger with relative learning rate `lr`."""
    return wall / (1 + (wall / start - 1) * math.exp(-lr * steps))


def steps_until_half(
    rms: Float[np.ndarray, " rows"], *, lr: float, wall: float | int, relative: bool = True
) -> Float[np.ndarray, " rows"]:
    """Silent steps until a row of this RMS stands at half the wall; 0 if it is there, infinite for a row of zeros.

    relative: the logistic law of a learning rate times RMS (Tiger); otherwise that of a constant rate (Lion).
    """
    rms = np.asarray(rms, dtype=np.float64)
    with np.errstate(divide="ignore"):
        if relative:
            steps = np.log(np.maximum(wall / rms - 1, 1.0)) / lr
        else:
            steps = np.log(np.maximum((wall - rms) / (0.5 * wall), 1.0)) / -math.log1p(-lr / wall)
    return np.ceil(np.where(rms >= 0.5 * wall, 0.0, steps))


@dataclass(frozen=True)
class Ordinary:
    """What the rows of a table are like that do not drift."""

    rms: float
    """Their median: R_ref."""
    flatness: float
    bound: float
    """B: the largest RMS expected among so many rows with this spread."""
    count: int


@dataclass(frozen=True)
class Drift:
    """Which rows drift, and by which of the four signs."""

    ordinary: Ordinary
    by_wall: Bool[np.ndarray, " rows"]
    by_reach: Bool[np.ndarray, " rows"]
    by_shape: Bool[np.ndarray, " rows"]
    by_size: Bool[np.ndarray, " rows"]

    @property
    def rows(self) -> Bool[np.ndarray, " rows"]:
        """All of them."""
        return self.by_wall | self.by_reach | self.by_shape | self.by_size


def find_drift(statistics: RowStatistics, *, wall: float | int | None = None) -> Drift:
    """The drifting rows of a table, see the rules above; without a wall, by shape and size alone."""
    rms, flatness, dim = statistics.rms, statistics.flatness, statistics.dim
    usable = statistics.finite & (rms > 0)
    noise = _FLATNESS_DEVIATION * dim**-0.5
    ordinary = ordinary_rows(rms[usable], flatness[usable], dim=dim)
    by_wall = 2 * statistics.saturated > dim
    if ordinary.count < _FEWEST_ROWS:
        nothing = np.zeros_like(by_wall)
        return Drift(ordinary, by_wall, nothing, nothing, nothing)
    wide, sure = dim >= _NARROW, dim >= _NARROW and ordinary.count >= _FEW_ROWS
    limit = math.inf if wall is None else _REACH * wall
    with np.errstate(invalid="ignore"):
        usable &= (flatness >= 0.5 * ordinary.flatness) | (statistics.saturated > 0)
        reach = rms >= max(limit, WARN_RATIO * ordinary.rms)
        shape = (rms >= 2 * ordinary.rms) & (flatness >= max(_FLAT, ordinary.flatness + 5 * noise)) & wide
        flatter = (flatness >= ordinary.flatness + 2 * noise) & wide
        size = rms >= max((WARN_RATIO if sure else ERROR_RATIO) * ordinary.rms, 1.6 * ordinary.bound)
        size |= flatter & (rms >= max(2.5 * ordinary.rms, 1.15 * ordinary.bound))
    return Drift(ordinary, by_wall, reach & usable, shape & usable, size & ~shape & usable)


def ordinary_rows(rms: Float[np.ndarray, " rows"], flatness: Float[np.ndarray, " rows"], *, dim: int) -> Ordinary:
    """Median, flatness and natural bound of the rows that are not flat, or of all where hardly any are not.

    The bound follows the rows' own spread: excess over the median of log RMS at tail probability p is taken as
    a (ln 1/2p)^b, with a and b from the quantiles .75 and .95 (b = 1: a power law of frequency, .74: log-normal), which
    a few per cent of drifting rows do not move; p = 1/rows gives the largest. Where one row in twenty or more stands
    apart (trained rows among unused ones), b is large and size alone says nothing.
    """
    plain = flatness < _FLAT
    chosen = plain if plain.sum() >= max(_FEWEST_ROWS, 0.005 * len(rms)) else np.ones_like(plain)
    rms, flatness = rms[chosen], flatness[chosen]
    if not len(rms):
        return Ordinary(0.0, 0.0, 0.0, 0)
    middle, q75, q95 = np.quantile(np.log(rms), [0.5, 0.75, 0.95])
    noise = 0.674 * (2 * dim) ** -0.5  # of the upper quartile, if all rows had the same distribution
    spread = max(q75 - middle, noise)
    curve = np.log(max(q95 - middle, spread) / spread) / math.log(math.log(10) / math.log(2))
    curve = float(np.clip(curve, 0.5, 6.0)) if len(rms) >= _MANY_ROWS else 1.0
    excess = spread * (math.log(max(len(rms), 4) / 2) / math.log(2)) ** curve
    bound = math.exp(min(middle + excess, 700.0))
    return Ordinary(float(np.exp(middle)), float(np.median(flatness)), bound, len(rms))
