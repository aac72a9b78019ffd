"""Batches as a pure function of their index, with nothing to remember between them.

Because batch i follows from the seed and i alone, a resumed run needs no iterator state, a run on more processes sees
the same global batches, and any batch can be made again for a look at it.

Notation
    i  index of the global batch, counted over the whole run (updates times `accumulate`)
    r  rank of the process, R  number of processes: process r takes every R-th example of the global batch, from r on

Use: `fit(model, loss_fn, in_batches(examples, collate, size=32, seed=1), ...)`, where `collate(examples, random)` makes
one batch from a list; `random` is a numpy Generator of its own for every batch (for masking, cropping, noise).
    in_batches        equal numbers of examples
    in_token_budget   examples of similar length, at most so many tokens with padding
    in_packs          examples of any length, at most so many tokens, for models without padding
    mixture           several sources, one a batch, in given proportions
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from tianwen.errors import InputError
from tianwen.training.orders import Epochs, Order, Packs, TokenBudget
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
class Mixture:
    """Batches of several sources in fixed proportions; see `mixture`."""

    sources: Mapping[str, BatchSource]
    period: tuple[str, ...]
    """Names of the sources for one round of batches; each round shuffles them anew."""
    seed: int

    def batch(self, index: int, rank: int, world: int) -> Any:
        """See BatchSource."""
        turn, place = divmod(index, len(self.period))
        names = _shuffled(self.period, self.seed, turn)
        name = names[place]
        earlier = turn * self.period.count(name) + names[:place].count(name)  # batches this source has given before
        return self.sources[name].batch(earlier, rank, world)

    def describe(self) -> dict[str, Any]:
        """See BatchSource."""
        shares = {name: self.period.count(name) for name in self.sources}
        told = {name: source.describe() for name, source in self.sources.items()}
        return {"kind": "mixture", "seed": self.seed, "shares": shares, "sources": told}


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
    if rounding < 1:
        raise InputError(f"rounding={rounding}: lengths are rounded up to a multiple of it, so the least is 1.")
    known = _checked(examples, lengths, budget, rounding)
    return Ordered(examples, collate, TokenBudget(known, budget, seed, rounding), seed)


def in_packs(
    examples: Sequence[Example],
    lengths: Sequence[int] | np.ndarray,
    collate: Collate[Example],
    *,
    budget: int,
    seed: int = 0,
) -> Ordered:
    """Batches of examples of any length, together at most `budget` tokens, for models without padding (see Packs).

    Raises InputError if an example alone exceeds the budget, or lengths and examples differ in number.
    """
    known = _checked(examples, lengths, budget, 1)
    return Ordered(examples, collate, Packs(known, budget, seed), seed)


def mixture(sources: Mapping[str, BatchSource], shares: Mapping[str, int], *, seed: int = 0) -> Mixture:
    """Each batch from one of the named sources; in every round of sum(shares) batches a source gives its share.

    `mixture({"real": a, "made": b}, {"real": 3, "made": 1})`: three batches in four are real, in random order.
    Raises InputError if the names differ or a share is not a positive whole number.
    """
    if sources.keys() != shares.keys() or not sources or any(share < 1 for share in shares.values()):
        raise InputError(
            f"Sources {sorted(sources)}, shares {dict(shares)}: give each source a whole share of 1 or more."
        )
    period = tuple(name for name in sources for _ in range(shares[name]))
    return Mixture(dict(sources), period, seed)


def _checked(examples: Sequence[Any], lengths: Sequence[int] | np.ndarray, budget: int, rounding: int) -> np.ndarray:
    known = np.asarray(lengths, dtype=np.int64)  # [N]
    if not len(examples) or known.shape != (len(examples),) or known.min() < 1:
        raise InputError(f"{len(examples)} examples, {len(known)} lengths: give one length >= 1 for each example.")
    longest = int(-(-known.max() // rounding) * rounding)
    if longest > budget:
        raise InputError(
            f"The longest example has {known.max()} tokens, rounded up {longest}, and the budget is {budget}: "
            "raise the budget or cut the example."
        )
    return known


@lru_cache(maxsize=4)
def _shuffled(period: tuple[str, ...], seed: int, turn: int) -> tuple[str, ...]:
    order = np.random.default_rng(seed_from("mixture", seed, turn)).permutation(len(period))
    return tuple(period[int(i)] for i in order)
