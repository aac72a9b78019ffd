"""What may come out of a model: thresholds, which types a predicate may join, and how much at most.

Post: 8888

Notation
    E, P  classes of the entity map, predicates
    margin = log(p / (1 - p)) of a threshold p: .5, the post's, is 0

A threshold class of score 0 stands in the loss, so sigmoid(score) is the probability against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from tianwen.errors import InputError

if TYPE_CHECKING:
    from tianwen.extract.schema import Schema

UNTYPED = ("subject", "object")
"""The classes of the entity map where the data knows no types."""

MOST_MENTIONS = 256
"""Mentions of one window that are looked at: a trained model finds a tenth of that, a new one half of all spans."""

MOST_FACTS = 4096
"""Facts of one window that are kept."""


@dataclass(frozen=True)
class Rules:
    """The rules of one extraction. `allowed[p, a, b]`: predicate p may join a subject of class a to an object of b."""

    mention_margin: Float[np.ndarray, " classes"]
    link_margin: Float[np.ndarray, " predicates"]
    allowed: Bool[np.ndarray, " predicates classes classes"]
    most_mentions: int | None = MOST_MENTIONS
    most_facts: int | None = MOST_FACTS
    longest: Int[np.ndarray, " classes"] | None = None  # tokens of a mention at most
    event_of: Int[np.ndarray, " classes"] | None = None  # events: number of the type that each (type, role) belongs to

    @cached_property
    def typed(self) -> bool:
        """Whether a pair that may be looked at may still be forbidden for a predicate."""
        both = self.subject_classes[:, None] & self.object_classes[None]
        return not bool((self.allowed == both).all())

    @cached_property
    def uniform(self) -> bool:
        """Whether no predicate asks more of a fact's mentions than their own thresholds do."""
        return bool(self.link_margin.max(initial=-np.inf) <= self.mention_margin.min(initial=np.inf))

    @cached_property
    def subject_classes(self) -> Bool[np.ndarray, " classes"]:
        """Classes that some predicate takes as subject."""
        return self.allowed.max((0, 2), initial=False)

    @cached_property
    def object_classes(self) -> Bool[np.ndarray, " classes"]:
        """Classes that some predicate takes as object."""
        return self.allowed.max((0, 1), initial=False)

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        predicates: Sequence[str],
        *,
        schema: Schema | None = None,
        threshold: float = 0.5,
        thresholds: Mapping[str, float] | None = None,
    ) -> Rules:
        """The rules for a model with these classes and predicates.

        `schema` restricts facts to its predicates and their types (a type "" is any type). `thresholds` are for single
        predicates (of their facts' scores) or entity types, `threshold` for all others; all are probabilities. Raises
        InputError for names that the model does not know and thresholds outside of 0 to 1.
        """
        own = dict(thresholds or {})
        known = {*classes, *predicates}
        if unknown := sorted(own.keys() - known):
            raise InputError(f"A threshold is given for {unknown[0]!r}; this model knows {_list(known)}.")
        margins = [
            np.array([margin(own.get(name, threshold)) for name in names], np.float32)
            for names in (classes, predicates)
        ]
        return cls(*margins, allowed=_allowed(classes, predicates, schema))

    @classmethod
    def of_events(
        cls,
        roles: Sequence[tuple[str, str]],
        *,
        threshold: float = 0.5,
        thresholds: Mapping[str, float] | None = None,
    ) -> Rules:
        """The rules for a model of events, whose classes are (type, role); `thresholds` are for types."""
        types = list(dict.fromkeys(type for type, _ in roles))
        own = dict(thresholds or {})
        if unknown := sorted(own.keys() - set(types)):
            raise InputError(f"A threshold is given for {unknown[0]!r}; this model knows {_list(types)}.")
        margins = np.array([margin(own.get(type, threshold)) for type, _ in roles], np.float32)
        event_of = np.array([types.index(type) for type, _ in roles])
        same = event_of[:, None] == event_of[None]
        return cls(margins, np.array([margin(threshold)], np.float32), same[None], event_of=event_of)


def _allowed(classes: Sequence[str], predicates: Sequence[str], schema: Schema | None) -> np.ndarray:
    table = np.zeros((len(predicates), len(classes), len(classes)), bool)
    untyped = tuple(classes) == UNTYPED
    if schema is None and not untyped:
        return ~table
    if schema is None:
        table[:, 0, 1] = True
        return table
    row, column = {name: i for i, name in enumerate(predicates)}, {name: i for i, name in enumerate(classes)}
    for relation in schema.relations:
        if relation.predicate not in row:
            raise InputError(
                f"The schema has the predicate {relation.predicate!r}; this model knows {_list(predicates)}. "
                "Take it out of the schema, or train a model on texts where it is labelled."
            )
        if untyped:
            table[row[relation.predicate], 0, 1] = True
            continue
        subject, object = (_places(name, column) for name in (relation.subject_type, relation.object_type))
        table[row[relation.predicate], subject, object] = True
    return table


def _places(name: str, column: Mapping[str, int]) -> int | slice:
    """Where a type stands on an axis of classes; every class for ""."""
    if name and name not in column:
        raise InputError(f"The schema has the type {name!r}; this model knows {_list(column)}.")
    return column[name] if name else slice(None)


def margin(probability: float) -> float:
    """log(p / (1 - p)): the score that a probability stands for."""
    if not 0 < probability < 1:
        raise InputError(f"A threshold is a probability between 0 and 1, without the ends, not {probability}.")
    return math.log(probability / (1 - probability))


def probability(score: Float[np.ndarray, " *any"]) -> Float[np.ndarray, " *any"]:
    """1 / (1 + exp(-score)), without overflow."""
    small = np.exp(-np.abs(score))
    return np.where(score >= 0, 1, small) / (1 + small)


def _list(names: object, most: int = 12) -> str:
    names = sorted(filter(None, map(str, names)))  # type: ignore[call-overload]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
