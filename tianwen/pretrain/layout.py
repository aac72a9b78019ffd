"""A pack from ids that lie end to end already, without a list for each sequence; its size is a round number.

Post: 8998 (padding-free batches; see `tianwen.backbone.packing`).

The kernels for bfloat16 on a CPU are made anew for every size of a matrix and kept: packs of any size had filled two
gigabytes within 250 steps. So a pack is filled up to the next multiple of ROUND, by a sequence that nobody looks at.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64

from tianwen.backbone.packing import Pack, Runs

ROUND = 128


def laid_out(
    ids: Int64[np.ndarray, " tokens"], lengths: Int64[np.ndarray, " sequences"], order: tuple[int, ...]
) -> Pack:
    """The pack of sequences of ascending `lengths`, their `ids` end to end, and behind them what fills it up."""
    sizes, counts = np.unique(lengths, return_counts=True)
    shapes = tuple((int(count), int(size)) for size, count in zip(sizes, counts, strict=True))
    filler = -len(ids) % ROUND
    if filler:
        shapes = (*shapes, (1, filler))
        ids = np.concatenate([ids, np.zeros(filler, np.int64)])
        lengths = np.append(lengths, filler)
        order = (*order, len(order))
    positions = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = torch.from_numpy(ids)
    return Pack(tokens, torch.zeros_like(tokens), torch.from_numpy(positions), Runs(shapes), order)
