"""The children of the root, kept: the widest node of all, and where every search begins.

Post: 8802. 128 rows at the root of a Chinese catalogue have 128 times some thousands of children: seven megabytes, the
same ones at every start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int64

MOST_BYTES = 2**26
MOST_SIZES = 4

Children = tuple[Any, Any, Any]
"""(row_ptr [n + 1], token [m], state [m, ...])."""


class RootChildren:
    """What `allowed` gives for n rows at the root, for the last few n; the arrays are read-only, being shared."""

    def __init__(self, compute: Callable[[np.ndarray], Children]) -> None:
        self._compute = compute
        self._kept: dict[int, Children] = {}

    def of(self, state: Int64[np.ndarray, " n *parts"]) -> Children:
        """The children of `state`, all of whose rows are the root."""
        kept = self._kept.get(len(state))
        if kept is not None:
            return kept
        children = self._compute(state)
        if sum(array.nbytes for array in children) > MOST_BYTES:
            return children
        for array in children:
            array.flags.writeable = False
        kept = dict(list(self._kept.items())[1 - MOST_SIZES :])  # a new dict: other threads may be reading the old one
        kept[len(state)] = children
        self._kept = kept
        return children


def own(state: Int64[np.ndarray, " n *parts"]) -> Int64[np.ndarray, " n *parts"]:
    """The states as the kernels take them: contiguous and writable, as a copy only where they are not."""
    return state if state.flags.c_contiguous and state.flags.writeable else np.array(state, order="C")
