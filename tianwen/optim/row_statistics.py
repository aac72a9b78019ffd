"""What the rows of a table look like, in one pass over chunks of rows: size, shape, saturation, broken values.

Notation
    w     a row: [dim]                          W   1/wd, the wall: the fixed point of theta -= lr (sign(m) + wd theta)
    rms   sqrt(mean w^2)                        flatness   mean |w| / rms, in (0, 1]
    A row of normal noise has flatness sqrt(2/pi) = 0.798 (uniform noise 0.866, heavy tails less). A row that moved
    along a fixed sign vector tends to flatness 1, because all its components move at the same speed. That tells drift
    from mere size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tianwen.optim.stored_tensors import StoredTensor

NORMAL_FLATNESS = (2 / np.pi) ** 0.5
NEAR = 0.9
"""A component beyond this share of the wall counts as saturated."""
_CHUNK = 1_000_000  # components at a time: 4 MB as fp32, a few copies of it at once


@dataclass(frozen=True)
class RowStatistics:
    """One number a row; `nan` where the row holds a value that is not finite."""

    rms: Float[np.ndarray, " rows"]
    flatness: Float[np.ndarray, " rows"]
    """0 for a row of zeros."""
    largest: Float[np.ndarray, " rows"]
    """max |w| over the finite components."""
    broken: Int[np.ndarray, " rows"]
    """Number of components that are NaN or infinite."""
    saturated: Int[np.ndarray, " rows"]
    """Number of components beyond 0.9 W (0 without a wall)."""
    at_wall: Int[np.ndarray, " rows"]
    """Number of components that are W to one part in a thousand, or W rounded to the table's type."""
    dim: int

    @property
    def finite(self) -> Bool[np.ndarray, " rows"]:
        """Rows without a broken value."""
        return self.broken == 0


def row_statistics(
    table: StoredTensor, *, wall: float | int | None = None, progress: Callable[[int, int], None] | None = None
) -> RowStatistics:
    """Read the table once, some million components at a time. progress is told (rows done, rows)."""
    rows, dim = table.shape
    step = max(1, _CHUNK // max(dim, 1))
    out = np.zeros((6, rows))  # rms, flatness, largest, broken, saturated, at the wall
    for first in range(0, rows, step):
        end = min(rows, first + step)
        out[:, first:end] = _of_chunk(table.read(first, end), wall)
        if progress is not None:
            progress(end, rows)
    return RowStatistics(out[0], out[1], out[2], *out[3:].astype(np.int64), dim=dim)


def _of_chunk(chunk: Float[Tensor, " rows dim"], wall: float | int | None) -> Float[np.ndarray, " 6 rows"]:
    # fp32 holds every value of the smaller types; squares are summed in fp64, because 1e30 squared is no fp32.
    size = (chunk if chunk.dtype in (torch.float32, torch.float64) else chunk.float()).abs()  # [rows, dim]
    bad = ~torch.isfinite(size)
    broken = bad.sum(1)
    if bool(broken.any()):
        size = size.masked_fill(bad, 0.0)
    largest = size.amax(1).double()
    # Where a square could leave the range of fp64's or fp32's exponents, the row is divided by its largest value first.
    extreme = bool(((largest > 1e15) | ((largest < 1e-15) & (largest > 0))).any())
    unit = torch.where(largest > 0, largest, torch.ones_like(largest)) if extreme else torch.ones_like(largest)
    scaled = size / unit.to(size.dtype)[:, None] if extreme else size
    rms = torch.linalg.vector_norm(scaled, dim=1, dtype=torch.float64) * size.shape[1] ** -0.5 * unit
    mean = scaled.mean(1, dtype=torch.float64) * unit
    flatness = torch.where(rms > 0, mean / rms, torch.zeros_like(rms)).clamp(max=1)
    rms = torch.where(broken > 0, torch.nan, rms)
    flatness = torch.where(broken > 0, torch.nan, flatness)
    saturated = at_wall = torch.zeros_like(broken)
    if wall is not None and bool((largest > NEAR * wall).any()):
        rounded = torch.tensor(wall).to(chunk.dtype).to(size.dtype)
        saturated = (size > NEAR * wall).sum(1)
        at_wall = (((size - wall).abs() <= 1e-3 * wall) | (size == rounded)).sum(1)
    return torch.stack([t.double() for t in (rms, flatness, largest, broken, saturated, at_wall)]).numpy()
