"""Both directions over one sequence: a mixer that reads forward, its twin that reads backward, and their sum.

Post: 9554

Each half has half the states, so that both together have as many weights as one mixer. The backward half begins at each
row's own end, and at the last step of each sequence of a packed row: padding and neighbours are not seen.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tianwen.errors import InputError


class Bidirectional(nn.Module):
    """`Bidirectional(LRU, width)`: [batch, length, width] -> the same shape; every step sees its whole sequence."""

    def __init__(self, mixer: Any, width: int, *, size: int | None = None, **options: Any) -> None:
        """`mixer` is LRU, SLRU or RWKV; `size` the states of each direction (default: half of what one mixer has)."""
        super().__init__()
        each = max(1, mixer.default_size(width) // 2) if size is None else size
        self.ahead = mixer(width, size=each, **options)
        self.behind = mixer(width, size=each, **options)

    def forward(
        self,
        x: Float[Tensor, " batch length width"],
        *,
        state: Any = None,
        reset: Bool[Tensor, " batch length"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, " batch length width"], None]:
        """The mixed sequence and None: there is no state to go on with, for the backward half begins at the end.

        `reset` is true at the first step of each sequence of a packed row, as for one direction.
        """
        if state is not None:
            raise InputError("A bidirectional layer reads whole sequences; it cannot go on from a state.")
        ends = (
            None
            if reset is None
            else torch.cat([reset[:, 1:], reset.new_ones(reset.shape[0], min(1, reset.shape[1]))], 1)
        )
        ahead, _ = self.ahead(x, reset=reset, lengths=lengths)
        behind, _ = self.behind(x, reset=ends, lengths=lengths, reverse=True)
        return ahead + behind, None

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Refused: a step forward would need the steps to come."""
        raise InputError("A bidirectional layer reads whole sequences; stream with LRU, SLRU or RWKV themselves.")

    def init_state(self, batch: int) -> None:
        """None: there is no state."""
        return
