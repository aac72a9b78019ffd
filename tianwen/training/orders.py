"""Which examples make batch i: permutations by epoch, in equal numbers, under a padded or a packed token budget.

Each order is a pure function of (seed, i): an epoch's order follows from (seed, epoch), so any batch is found without
walking through the ones before. What is computed once for an epoch is kept for the next call, nothing depends on it.

Notation
    i  index of the global batch, counted over the whole run      N  number of examples      n_e  batches in epoch e
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tianwen.training.randomness import seed_from


@runtime_checkable
class Order(Protocol):
    """Where each global batch finds its examples."""

    def members(self, index: int) -> np.ndarray:
        """The numbers of the examples in global batch `index`: int64 [examples of this batch]."""
        ...

    def describe(self) -> dict[str, Any]:
        """What decides the order, as plain values."""
        ...


@dataclass(frozen=True)
class Epochs:
    """Batches of `size` examples from a new permutation each epoch; a batch may span the end of an epoch."""

    count: int
    size: int
    seed: int

    def members(self, index: int) -> np.ndarray:
        """See Order."""
        places = np.arange(index * self.size, (index + 1) * self.size)
        epochs = places // self.count
        parts = [
            _permutation(self.seed, int(epoch), self.count)[places[epochs == epoch] % self.count]
            for epoch in np.unique(epochs)
        ]
        return np.concatenate(parts)

    def describe(self) -> dict[str, Any]:
        """See Order."""
        return {"kind": "epochs", "examples": self.count, "size": self.size}


@dataclass(frozen=True)
class TokenBudget:
    """Batches of similar length that hold at most `budget` tokens, padding included, in a new order each epoch.

    Lengths are rounded up to a multiple of `rounding` and sorted; cutting the sorted list at the budget gives the same
    cuts in every epoch, n_e is one number n, and batch i lies at place i mod n of epoch i div n. Each epoch shuffles
    the examples of equal rounded length among themselves, and then the batches.
    """

    lengths: np.ndarray  # int64 [N], tokens of each example
    budget: int
    seed: int
    rounding: int = 8
    _rounded: np.ndarray = field(init=False, repr=False, compare=False)  # int64 [N]
    _cuts: np.ndarray = field(init=False, repr=False, compare=False)  # int64 [n + 1]
    _latest: dict[int, np.ndarray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rounded = -(-self.lengths // self.rounding) * self.rounding
        object.__setattr__(self, "_rounded", rounded)
        object.__setattr__(self, "_cuts", _padded_cuts(np.sort(rounded), self.budget))
        object.__setattr__(self, "_latest", {})

    @property
    def batches(self) -> int:
        """Number of batches in an epoch."""
        return len(self._cuts) - 1

    def members(self, index: int) -> np.ndarray:
        """See Order."""
        epoch, place = divmod(index, self.batches)
        which = _permutation(self.seed, epoch, self.batches)[place]
        return self._by_length(epoch)[self._cuts[which] : self._cuts[which + 1]]

    def describe(self) -> dict[str, Any]:
        """See Order."""
        kind = {"kind": "token budget", "examples": len(self.lengths), "budget": self.budget}
        return {**kind, "rounding": self.rounding, "lengths": _digest(self.lengths)}

    def _by_length(self, epoch: int) -> np.ndarray:
        """The examples by rounded length, equal ones in this epoch's random order: int64 [N]."""
        if epoch not in self._latest:
            shuffled = _permutation(self.seed, ~epoch, len(self.lengths))
            order = shuffled[np.argsort(self._rounded[shuffled], kind="stable")]
            self._latest.clear()
            self._latest[epoch] = order
            return order
        return self._latest[epoch]


@dataclass(frozen=True)
class Packs:
    """Batches for a model that takes sequences without padding: a permutation cut where the budget is full.

    Long and short examples mix. The number of batches n_e differs a little between epochs; the first batch of epoch e
    is n_0 + ... + n_(e-1), so a run resumed in epoch e cuts e permutations once.
    """

    lengths: np.ndarray  # int64 [N], tokens of each example
    budget: int
    seed: int
    _first: list[int] = field(init=False, repr=False, compare=False)  # first batch of each epoch known so far
    _latest: dict[int, np.ndarray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_first", [0])
        object.__setattr__(self, "_latest", {})

    @property
    def batches(self) -> int:
        """Number of batches in the first epoch."""
        return len(self._cuts(0)) - 1

    def members(self, index: int) -> np.ndarray:
        """See Order."""
        while self._first[-1] <= index:
            self._first.append(self._first[-1] + len(self._cuts(len(self._first) - 1)) - 1)
        epoch = int(np.searchsorted(self._first, index, side="right")) - 1
        cuts, place = self._cuts(epoch), index - self._first[epoch]
        return _permutation(self.seed, epoch, len(self.lengths))[cuts[place] : cuts[place + 1]]

    def describe(self) -> dict[str, Any]:
        """See Order."""
        return {
            "kind": "packs",
            "examples": len(self.lengths),
            "budget": self.budget,
            "lengths": _digest(self.lengths),
        }

    def _cuts(self, epoch: int) -> np.ndarray:
        """Where the permutation of an epoch is cut: int64 [n_e + 1]."""
        if epoch not in self._latest:
            cuts = _packed_cuts(self.lengths[_permutation(self.seed, epoch, len(self.lengths))], self.budget)
            self._latest.clear()
            self._latest[epoch] = cuts
            return cuts
        return self._latest[epoch]


@lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    order = np.random.default_rng(seed_from("order", seed, epoch)).permutation(count)
    order.setflags(write=False)
    return order


def _padded_cuts(ascending: np.ndarray, budget: int) -> np.ndarray:
    """Greedy cuts of ascending lengths so that (number * largest) of each run is at most `budget`."""
    cuts = [0]
    for place, length in enumerate(ascending.tolist()):
        if (place + 1 - cuts[-1]) * length > budget:
            cuts.append(place)
    return np.array([*cuts, len(ascending)], dtype=np.int64)


def _packed_cuts(lengths: np.ndarray, budget: int) -> np.ndarray:
    """Greedy cuts so that the lengths of each run add up to at most `budget`."""
    ends = np.cumsum(lengths)  # int64 [N]
    cuts = [0]
    while cuts[-1] < len(lengths):
        filled = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
        cuts.append(int(np.searchsorted(ends, filled + budget, side="right")))
    return np.array(cuts, dtype=np.int64)


def _digest(lengths: np.ndarray) -> str:
    return sha256(np.ascontiguousarray(lengths, dtype=np.int64).tobytes()).hexdigest()[:16]
