"""The recurrence as it is written in the post, one step and one number at a time: slow, and the truth for the tests.

Post: 9554

Notation (-> name in the post)
    u      [batch, length, channels]   inputs, complex or real
    lam    [channels]                  the diagonal of the state matrix
    gamma  [channels]                  scale of the inputs
    x      [batch, length, channels]   x_t = lam x_{t-1} + gamma u_t
Everything is computed in complex128 (or float64) by numpy, without a word about speed.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, Num


def scan_oracle(
    u: Num[np.ndarray, " batch length channels"],
    lam: Num[np.ndarray, " channels"],
    gamma: Num[np.ndarray, " channels"] | None = None,
    *,
    h0: Num[np.ndarray, " batch channels"] | None = None,
    reset: Bool[np.ndarray, " batch length"] | None = None,
    lengths: Int[np.ndarray, " batch"] | None = None,
    reverse: bool = False,
) -> tuple[Num[np.ndarray, " batch length channels"], Num[np.ndarray, " batch channels"]]:
    """States at every step and the last state; the meaning of each argument is that of `linear_scan`."""
    batch, length, channels = u.shape
    wide = np.result_type(u, lam, np.float64)
    x = np.zeros((batch, length, channels), wide)
    last = np.zeros((batch, channels), wide)
    for row in range(batch):
        h = np.zeros(channels, wide) if h0 is None else h0[row].astype(wide)
        steps = range(length if lengths is None else int(lengths[row]))
        for t in reversed(steps) if reverse else steps:
            if reset is not None and reset[row, t]:
                h = np.zeros(channels, wide)
            h = lam * h + (1 if gamma is None else gamma) * u[row, t]
            x[row, t] = h
        last[row] = h
    return x, last


def complex_of(planar: Num[np.ndarray, " *axes doubled"]) -> Num[np.ndarray, " *axes channels"]:
    """[Re | Im] along the last axis as one complex number a channel."""
    re, im = np.split(planar.astype(np.float64), 2, axis=-1)
    return re + 1j * im


def planar_of(numbers: Num[np.ndarray, " *axes channels"]) -> Num[np.ndarray, " *axes doubled"]:
    """The opposite of `complex_of`."""
    return np.concatenate([np.real(numbers), np.imag(numbers)], axis=-1)
