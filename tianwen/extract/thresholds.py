"""Thresholds learned on development texts: one for all, and where there are examples enough one for each label.

Post: 8888 (whose threshold is the score 0, a probability of .5)

Notation
    n items found (facts, entities or arguments), L labels, K thresholds of GRID
    right, found [L, K]   items of label l above threshold k that gold has, and all of them;    gold [L]
    F  micro F1 = 2 sum right / (sum found + sum gold)

F grows with 2 right - F found summed over labels, so with F fixed every label is on its own (Dinkelbach's iteration).
A label with three examples would follow each of them: PRIOR imagined ones that behave like all labels together hold it
near the common threshold. Whether any of this is kept is decided where it was not fitted: five parts of the texts are
measured with thresholds from the other four.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from tianwen.extract.annotation import Annotation, Event
from tianwen.extract.evaluation import evaluate_extract
from tianwen.extract.protocols import Item, items_of

if TYPE_CHECKING:
    from tianwen.extract.extractor import Extractor

GRID = np.round(np.arange(0.15, 0.86, 0.05), 2)
"""From what nobody would miss to what few labels need; the least is what the texts are read with."""

PRIOR = 50.0
"""Imagined examples of each label."""

FOLDS = 5
LEAST_GAIN = 0.001
"""F1 by which thresholds must be better on texts that they were not fitted on."""

_EXACT = {"duie": "triples", "duee": "events-exact", "whole-events": "events-exact"}
"""Protocols whose items cannot be counted one by one, and those that stand for them while fitting."""


@dataclass(frozen=True)
class Choice:
    """A threshold for all, and those of single labels."""

    threshold: float
    own: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Learned:
    """The thresholds to use, and the F1 on texts that they were not fitted on: as before, one for all, own ones."""

    choice: Choice
    fixed: float
    common: float
    own: float

    def to_json(self) -> dict[str, Any]:
        """Everything as a dict for `json.dumps`."""
        held = {"fixed": self.fixed, "common": self.common, "own": self.own}
        return {"threshold": self.choice.threshold, "own": self.choice.own, "cross_validated_f1": held}


@dataclass(frozen=True)
class Items:
    """What was found at the lowest threshold, and how many items gold has in each text."""

    names: tuple[str, ...]
    text: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    floor: Float[np.ndarray, " n"]  # of a fact the least score of its mentions, which have the common threshold; else 1
    right: Bool[np.ndarray, " n"]
    gold: Int[np.ndarray, " texts labels"]


@dataclass(frozen=True)
class Counts:
    """See the notation."""

    right: Int[np.ndarray, " labels grid"]
    found: Int[np.ndarray, " labels grid"]
    gold: Int[np.ndarray, " labels"]


def learn_thresholds(extractor: Extractor, gold: Sequence[Annotation], protocol: str) -> Learned:
    """Thresholds for this extractor by its F1 on `gold`; those that it has where others do not help.

    Facts are counted as they are found at the lowest threshold, without the verifier and with the best place of each:
    an estimate, which measuring with the thresholds confirms or not.
    """
    fixed = extractor.settings.threshold
    items = found_items(extractor, gold, protocol)
    fold = np.arange(len(gold)) % FOLDS
    held = {"fixed": [0, 0], "common": [0, 0], "own": [0, 0]}
    for part in range(FOLDS):
        common, own = fitted(items, fold != part)
        for name, choice in (("fixed", Choice(fixed)), ("common", common), ("own", own)):
            right, all_ = count_choice(items, choice, fold == part)
            held[name] = [held[name][0] + right, held[name][1] + all_]
    f1 = {name: 2 * right / all_ if all_ else 0.0 for name, (right, all_) in held.items()}
    common, own = fitted(items, np.ones(len(gold), bool))
    best = Choice(fixed, dict(extractor.settings.thresholds))
    if f1["common"] > f1["fixed"] + LEAST_GAIN:
        best = common
    if f1["own"] > max(f1["common"], f1["fixed"]) + LEAST_GAIN:
        best = own
    return Learned(best, f1["fixed"], f1["common"], f1["own"])


def found_items(extractor: Extractor, gold: Sequence[Annotation], protocol: str) -> Items:
    """Extract from the texts at the lowest threshold, and tell of each item whether gold has it."""
    exact = items_of(_EXACT.get(protocol, protocol))  # type: ignore[arg-type]
    known = (*extractor.labels.predicates, *extractor.labels.types, *extractor.labels.classes)
    names = {name: at for at, name in enumerate(dict.fromkeys(filter(None, known)))}
    other = len(names)  # what has no threshold of its own: entities without a type, labels that the model lacks
    rows: list[tuple[int, int, float, float, bool]] = []
    counts = np.zeros((len(gold), other + 1), np.int64)
    stream = extractor.stream((one.text for one in gold), threshold=float(GRID[0]), verify=False)
    for text, (right, found) in enumerate(zip(gold, stream, strict=True)):
        wanted = {item: name for name, item, _, _ in _scored(right, exact)}
        for name in wanted.values():
            counts[text, names.get(name, other)] += 1
        best: dict[Item, tuple[str, float, float]] = {}
        for name, item, score, floor in _scored(found, exact):
            if item not in best or best[item][1] < score:
                best[item] = name, score, floor
        rows += [
            (text, names.get(name, other), score, floor, item in wanted) for item, (name, score, floor) in best.items()
        ]
    columns = zip(*rows, strict=True) if rows else [[]] * 5
    kinds = (np.int64, np.int64, np.float64, np.float64, np.bool_)
    at, label, score, floor, hit = (np.array(column, kind) for column, kind in zip(columns, kinds, strict=True))
    return Items((*names, ""), at, label, score, floor, hit, counts)


def _scored(annotation: Annotation, exact: Any) -> Iterator[tuple[str, Item, float, float]]:
    """(label, item, score, floor) of everything that the protocol compares, with repetitions."""
    text = annotation.text
    for fact in annotation.relations:
        for item in exact(Annotation(text, relations=(fact,))):
            yield fact.predicate, item, fact.score, min(fact.subject.score, fact.object.score)
    for mention in annotation.entities:
        for item in exact(Annotation(text, entities=(mention,))):
            yield mention.label, item, mention.score, 1.0
    for event in annotation.events:
        for argument in event.arguments:
            score = argument.mention.score
            for item in exact(Annotation(text, events=(Event(event.type, (argument,)),))):
                yield event.type, item, score, 1.0


def fitted(items: Items, texts: Bool[np.ndarray, " texts"]) -> tuple[Choice, Choice]:
    """The best threshold for all on some of the texts, and thresholds of single labels beside it."""
    uniform = [_micro(_uniform(items, texts, threshold)) for threshold in GRID]
    # Of equal ones the one nearest to the post's.
    common = max(range(len(GRID)), key=lambda k: (uniform[k], -abs(GRID[k] - 0.5)))
    counts = count(items, texts, GRID[common])
    chosen = np.full(len(items.names), common)
    everything = Counts(*(x.sum(0, keepdims=True) for x in (counts.right, counts.found, counts.gold)))
    examples = max(1, int(everything.gold[0]))
    for _ in range(8):
        f1 = _micro(_at(counts, chosen))
        gain = 2.0 * counts.right - f1 * counts.found  # [L, K]
        shared = 2.0 * everything.right - f1 * everything.found  # [1, K]
        value = gain + PRIOR / examples * shared - 1e-9 * np.abs(np.arange(len(GRID)) - common)
        new = value.argmax(1)
        new[-1] = common
        if (new == chosen).all():
            break
        chosen = new
    own = {
        name: float(GRID[k])
        for name, k, gold, found in zip(items.names, chosen, counts.gold, counts.found.max(1), strict=True)
        if name and k != common and (gold or found)
    }
    return Choice(float(GRID[common])), Choice(float(GRID[common]), own)


def count(items: Items, texts: Bool[np.ndarray, " texts"], threshold: float) -> Counts:
    """Counts at all thresholds of the labels, those of the mentions being `threshold`."""
    shape = len(items.names), len(GRID)
    right, found = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    here = texts[items.text] & (items.floor > threshold)
    for k, own in enumerate(GRID):
        above = here & (items.score > own)
        found[:, k] = np.bincount(items.label[above], minlength=shape[0])
        right[:, k] = np.bincount(items.label[above & items.right], minlength=shape[0])
    return Counts(right, found, items.gold[texts].sum(0))


def count_choice(items: Items, choice: Choice, texts: Bool[np.ndarray, " texts"]) -> tuple[int, int]:
    """(right, found + gold) of these texts with these thresholds."""
    own = np.array([choice.own.get(name, choice.threshold) for name in items.names])
    above = texts[items.text] & (items.score > own[items.label])
    above &= items.floor > choice.threshold
    return int((above & items.right).sum()), int(above.sum() + items.gold[texts].sum())


def _uniform(items: Items, texts: np.ndarray, threshold: float) -> tuple[int, int]:
    return count_choice(items, Choice(float(threshold)), texts)


def _at(counts: Counts, chosen: np.ndarray) -> tuple[int, int]:
    rows = np.arange(len(chosen))
    return int(counts.right[rows, chosen].sum()), int(counts.found[rows, chosen].sum() + counts.gold.sum())


def _micro(counted: tuple[int, int]) -> float:
    right, all_ = counted
    return 2 * right / all_ if all_ else 0.0


def better_thresholds(
    extractor: Extractor, gold: Sequence[Annotation], protocol: str, scores: dict[str, Any]
) -> tuple[Extractor, dict[str, Any], dict[str, Any]]:
    """The extractor with learned thresholds, its scores, and what was learned; as it was where they do not help.

    `scores` are those of `evaluate_extract` with the thresholds that it has. What was estimated is measured before it
    is believed.
    """
    learned = learn_thresholds(extractor, gold, protocol)
    told = {**learned.to_json(), "f1_fixed": scores["f1"], "f1_learned": scores["f1"], "kept": False}
    choice = learned.choice
    settings = replace(extractor.settings, threshold=choice.threshold, thresholds=choice.own)
    if settings == extractor.settings:
        return extractor, scores, told
    changed = type(extractor)(extractor.model, extractor.tokenizer, extractor.schema, settings)
    measured = evaluate_extract(changed, gold, protocol)
    told["f1_learned"] = measured["f1"]
    if measured["f1"] <= scores["f1"]:
        return extractor, scores, told
    return changed, measured, {**told, "kept": True}
