"""A pack from ids that lie end to end already, without a list for each sequence.

Post: 8998 (padding-free batches; see `tianwen.backbone.packing`).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64

from tianwen.backbone.packing import Pack, Runs


def laid_out(
    ids: Int64[np.ndarray, " tokens"], lengths: Int64[np.ndarray, " sequences"], order: tuple[int, ...]
) -> Pack:
    """The pack of sequences of ascending `lengths`, their `ids` end to end."""
    sizes, counts = np.unique(lengths, return_counts=True)
    shapes = tuple((int(count), int(size)) for size, count in zip(sizes, counts, strict=True))
    positions = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = torch.from_numpy(ids)
    return Pack(tokens, torch.zeros_like(tokens), torch.from_numpy(positions), Runs(shapes), order)
