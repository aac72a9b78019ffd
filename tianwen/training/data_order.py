"""The order of the data as a pure function: which examples make batch i, with nothing to remember between batches.

Because batch i follows from the seed and i alone, a resumed run needs no iterator state, a run on more processes sees
the same global batches, and any batch can be made again for a look at it.

Notation
    i  index of the global batch, counted over the whole run      N  number of examples
    r  rank of the process, R  number of processes: process r takes every R-th example of the global batch, from r
    e  epoch (one pass over the examples); the permutation of epoch e follows from (seed, e)

Use: `fit(model, loss_fn, in_batches(examples, collate, size=32, seed=1), ...)`, where `collate(examples, random)` makes
one batch from a list; `random` is a numpy Generator of its own for every batch (for masking, cropping, noise).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from tianwen.errors import InputError
from tianwen.training.randomness import seed_from

Example = TypeVar("Example")
Collate = Callable[[list[Example], np.random.Generator], Any]
"""From a list of examples, and a generator that is this batch's own, to a batch."""


@runtime_checkable
class BatchSource(Protocol):
    """Whatever `fit` can take batches from. `batch` must give the same answer every time it is asked."""

    def batch(self, index: int, rank: int, world: int) -> Any:
        """The part of process `rank` of `world` in global batch `index`; None if nothing is left for this process."""
        ...

    def describe(self) -> dict[str, Any]:
        """What decides the data and its order, as plain values; compared when a run is resumed."""
        ...


@dataclass(frozen=True)
class FromFunction:
    """Batches from a pure function (index, rank, world) -> batch; `name` tells one such source from another."""

    make: Callable[[int, int, int], Any]
    name: str = "function"

    def batch(self, index: int, rank: int, world: int) -> Any:
        """See BatchSource."""
        return self.make(index, rank, world)

    def describe(self) -> dict[str, Any]:
        """See BatchSource."""
        return {"kind": "function", "name": self.name}


@runtime_checkable
class Order(Protocol):
    """Where each global batch finds its examples."""

    def members(self, index: int) -> np.ndarray:
        """The numbers of the examples in global batch `index`: int64 [examples of this batch]."""
        ...

    def describe(self) -> dict[str, Any]:
        """As in BatchSource."""
        ...


@dataclass(frozen=True)
class Ordered:
    """A sequence of examples, an order and a collate function, together a BatchSource."""

    examples: Sequence[Any]
    collate: Collate[Any]
    order: Order
    seed: int

    def batch(self, index: int, rank: int, world: int) -> Any:
        """See BatchSource."""
        mine = self.order.members(index)[rank::world]
        if not len(mine):
            return None
        random = np.random.default_rng(seed_from("collate", self.seed, index, rank, world))
        return self.collate([self.examples[int(i)] for i in mine], random)

    def describe(self) -> dict[str, Any]:
        """See BatchSource."""
        return {"seed": self.seed, **self.order.describe()}


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
        return np.concatenate(
            [
                _permutation(self.seed, int(epoch), self.count)[places[epochs == epoch] % self.count]
                for epoch in np.unique(epochs)
            ]
        )

    def describe(self) -> dict[str, Any]:
        """See Order."""
        return {"kind": "epochs", "examples": self.count, "size": self.size}


@dataclass(frozen=True)
class TokenBudget:
    """Batches of similar length that hold at most `budget` tokens, padding included, in a new order each epoch.

    Lengths are rounded up to a multiple of `rounding` and sorted; cutting the sorted list at the budget gives the same
    cuts in every epoch, so batch i is found without walking through the batches before it. Each epoch shuffles the
    examples of equal rounded length among themselves, and then the batches.
    """

    lengths: np.ndarray  # int64 [N], tokens of each example
    budget: int
    seed: int
    rounding: int = 8
    _cuts: np.ndarray = field(init=False, repr=False, compare=False)  # int64 [batches + 1]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cuts", _cuts_of(np.sort(self._rounded()), self.budget))

    @property
    def batches(self) -> int:
        """Number of batches in an epoch."""
        return len(self._cuts) - 1

    def members(self, index: int) -> np.ndarray:
        """See Order."""
        epoch, place = divmod(index, self.batches)
        which = _permutation(self.seed, epoch, self.batches)[place]
        shuffled = _permutation(self.seed, ~epoch, len(self.lengths))
        by_length = shuffled[np.argsort(self._rounded()[shuffled], kind="stable")]
        return by_length[self._cuts[which] : self._cuts[which + 1]]

    def describe(self) -> dict[str, Any]:
        """See Order."""
        known = sha256(np.ascontiguousarray(self.lengths, dtype=np.int64).tobytes()).hexdigest()[:16]
        kind = {"kind": "token budget", "examples": len(self.lengths), "budget": self.budget}
        return {**kind, "rounding": self.rounding, "lengths": known}

    def _rounded(self) -> np.ndarray:
        return -(-self.lengths // self.rounding) * self.rounding


def in_batches(examples: Sequence[Example], collate: Collate[Example], *, size: int, seed: int = 0) -> Ordered:
    """Batches of `size` examples (over all processes together), a new permutation each epoch.

    Raises InputError if there are no examples or `size` is not positive.
    """
    if not len(examples) or size < 1:
        raise InputError(f"{len(examples)} examples in batches of {size}: there must be at least one of each.")
    return Ordered(examples, collate, Epochs(len(examples), size, seed), seed)


def in_token_budget(
    examples: Sequence[Example],
    lengths: Sequence[int] | np.ndarray,
    collate: Collate[Example],
    *,
    budget: int,
    seed: int = 0,
    rounding: int = 8,
) -> Ordered:
    """Batches of examples of similar length, at most `budget` tokens each, padding included (see TokenBudget).

    Raises InputError if an example alone exceeds the budget, or lengths and examples differ in number.
    """
    known = np.asarray(lengths, dtype=np.int64)  # [N]
    if not len(examples) or known.shape != (len(examples),) or known.min() < 0 or rounding < 1:
        raise InputError(f"{len(examples)} examples, {len(known)} lengths: give one length >= 0 for each example.")
    longest = int(-(-known.max() // rounding) * rounding)
    if longest > budget:
        raise InputError(
            f"The longest example has {known.max()} tokens, rounded up {longest}, and the budget is {budget}: "
            "raise the budget or cut the example."
        )
    return Ordered(examples, collate, TokenBudget(known, budget, seed, rounding), seed)


@lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    order = np.random.default_rng(seed_from("order", seed, epoch)).permutation(count)
    order.setflags(write=False)
    return order


def _cuts_of(ascending: np.ndarray, budget: int) -> np.ndarray:
    """Greedy cuts of ascending lengths so that (number * largest) of each run is at most `budget`."""
    cuts = [0]
    for place, length in enumerate(ascending.tolist()):
        if (place + 1 - cuts[-1]) * length > budget:
            cuts.append(place)
    return np.array([*cuts, len(ascending)], dtype=np.int64)
