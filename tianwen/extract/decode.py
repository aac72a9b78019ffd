"""From what the pointer heads say of one text to mentions and facts, scoring pairs of candidate spans only.

Post: 8888 (decoding), 8877 (the head whose classes share one product of queries and keys)

Notation
    n  tokens of the text      E  classes of the entity map      P  predicates      s  size of a query
    S, O  candidate subjects and objects (mentions)      scores as in `maps.py`

    term of the post          here
    S1(s_h, s_t)              score of the subject in the entity map (start <= end)
    S2(o_h, o_t)              score of the object there
    S3(s_h, o_h | p)          head map: first token of the subject, first token of the object
    S4(s_t, o_t | p)          tail map: last tokens

A fact is found when all four are above the predicate's threshold, and the mentions above those of their classes. Its
score is the least of the four: raising a threshold to t leaves exactly the facts with a score above t. As a probability
it is sigmoid of that, the threshold class of the loss having score 0.

The maps [P, n, n] are never built. Steps: (1) mentions from the entity map, O(n^2 s), the classes only where their
largest biases could lift a cell above the threshold; (2) one product [S, s] x [s, O] for heads and one for tails;
(3) the biases of each predicate on top, block by block of predicates: O(n^2 s + S O (s + P)).
`dense_decode.py` is the definition, written plainly, that this is checked against.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from tianwen.extract.maps import PointerMap, TextMaps
from tianwen.extract.rules import Rules

BLOCK = 1 << 18
"""Scores held at a time: 1 MB of float32, which stays in the cache."""

SLACK = 1e-4
"""How far a bound may lie below the threshold: thresholds other than .5 make it round differently than the scores."""


@dataclass(frozen=True, slots=True)
class Mentions:
    """Spans of tokens with their class; `last` is inclusive. Sorted by place, then class."""

    label: Int[np.ndarray, " mentions"]
    first: Int[np.ndarray, " mentions"]
    last: Int[np.ndarray, " mentions"]
    score: Float[np.ndarray, " mentions"]  # not yet a probability
    left_out: int = 0  # beyond the cap

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts between mentions, by their index, in order of predicate, subject and object.

    `head` and `tail` are the scores of the links.
    """

    subject: Int[np.ndarray, " facts"]
    predicate: Int[np.ndarray, " facts"]
    object: Int[np.ndarray, " facts"]
    head: Float[np.ndarray, " facts"]
    tail: Float[np.ndarray, " facts"]
    left_out: int = 0  # beyond the cap

    def __len__(self) -> int:
        return len(self.subject)

    def take(self, which: np.ndarray, *, left_out: int = 0) -> Facts:
        """Some of the facts, by index or mask."""
        fields = (self.subject, self.predicate, self.object, self.head, self.tail)
        subject, predicate, object, head, tail = (field[which] for field in fields)
        return Facts(subject, predicate, object, head, tail, self.left_out + left_out)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What one text says, in tokens."""

    mentions: Mentions
    facts: Facts

    @property
    def fact_score(self) -> Float[np.ndarray, " facts"]:
        """The least of the four scores."""
        return fact_scores(self.mentions, self.facts)


def fact_scores(mentions: Mentions, facts: Facts) -> Float[np.ndarray, " facts"]:
    """The least of the four scores of each fact."""
    spans = np.minimum(mentions.score[facts.subject], mentions.score[facts.object])
    return np.minimum(spans, np.minimum(facts.head, facts.tail))


def decode(maps: TextMaps, rules: Rules) -> Decoded:
    """Mentions and facts of one text."""
    mentions = find_mentions(maps.entity, rules)
    if maps.heads is None or maps.tails is None:
        return Decoded(mentions, NO_FACTS)
    find = find_facts if rules.event_of is None else find_links
    return Decoded(mentions, find(maps.heads, maps.tails, mentions, rules))


def find_mentions(entity: PointerMap, rules: Rules) -> Mentions:
    """Spans whose score is above the threshold of their class; the best `rules.most_mentions` if there are more."""
    classes, tokens = entity.starts.shape
    if not tokens:
        return NO_MENTIONS
    if entity.shared:
        found = _shared_cells(entity, rules)
    else:
        parts = [_own_cells(entity, rules, block) for block in _blocks(classes, tokens * tokens)]
        found = tuple(map(np.concatenate, zip(*parts, strict=True)))
    label, first, last, score = found
    return settle_mentions(label, first, last, score, rules)


def _shared_cells(entity: PointerMap, rules: Rules) -> tuple[np.ndarray, ...]:
    """(class, first, last, score) of all classes at once: the cells that the largest biases could lift, then those."""
    base = entity.products(slice(None), slice(None), slice(None))[0]  # [n, n]
    starts = entity.starts - rules.mention_margin[:, None]  # [E, n]: a span counts above 0
    bound = base + starts.max(0)[:, None]
    bound += entity.ends.max(0)[None]
    bound[_below_diagonal(len(base))] = -np.inf
    cells = np.flatnonzero(bound > -SLACK)
    first, last = np.divmod(cells, len(base))
    parts = [_at_cells(base, entity, rules, first[part], last[part]) for part in _blocks(len(cells), len(starts))]
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def _at_cells(
    base: np.ndarray, entity: PointerMap, rules: Rules, first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, ...]:
    scores = entity.starts[:, first] + entity.ends[:, last]  # [E, cells]
    scores += base[first, last]
    label, cell = np.nonzero(scores > rules.mention_margin[:, None])
    return label, first[cell], last[cell], scores[label, cell]


def _own_cells(entity: PointerMap, rules: Rules, block: slice) -> tuple[np.ndarray, ...]:
    """The same where each class of the block has its own products."""
    scores = entity.grid(slice(None), slice(None), block)  # [block, n, n]
    scores[:, _below_diagonal(scores.shape[1])] = -np.inf
    label, first, last = np.nonzero(scores > rules.mention_margin[block, None, None])
    return label + block.start, first, last, scores[label, first, last]


def settle_mentions(
    label: np.ndarray, first: np.ndarray, last: np.ndarray, score: np.ndarray, rules: Rules
) -> Mentions:
    """In order of place and class; none longer than its class may be, and only the best `rules.most_mentions`."""
    if rules.longest is not None:
        short = last - first < rules.longest[label]
        label, first, last, score = label[short], first[short], last[short], score[short]
    left_out, most = 0, rules.most_mentions
    if most is not None and len(score) > most:
        left_out = len(score) - most
        best = np.argsort(-score, kind="stable")[:most]
        label, first, last, score = label[best], first[best], last[best], score[best]
    order = np.lexsort((label, last, first))
    return Mentions(label[order], first[order], last[order], score[order], left_out)


def find_facts(heads: PointerMap, tails: PointerMap, mentions: Mentions, rules: Rules) -> Facts:
    """Facts between the mentions; the best `rules.most_facts` if there are more."""
    subjects, objects = (np.flatnonzero(able[mentions.label]) for able in (rules.subject_classes, rules.object_classes))
    if not len(subjects) or not len(objects):
        return NO_FACTS
    blocks = _blocks(len(rules.link_margin), len(subjects) * len(objects))
    found = [_facts_of_block(heads, tails, mentions, rules, (subjects, objects, block)) for block in blocks]
    subject, predicate, object, head, tail = map(np.concatenate, zip(*found, strict=True))
    facts = Facts(subject, predicate, object, head, tail)
    if rules.typed:
        facts = facts.take(rules.allowed[predicate, mentions.label[subject], mentions.label[object]])
    return settle_facts(mentions, facts, rules)


def _facts_of_block(
    heads: PointerMap,
    tails: PointerMap,
    mentions: Mentions,
    rules: Rules,
    where: tuple[np.ndarray, np.ndarray, slice],
) -> tuple[np.ndarray, ...]:
    """(subject, predicate, object, head, tail) of a block of predicates."""
    subjects, objects, block = where
    head = heads.grid(mentions.first[subjects], mentions.first[objects], block)  # [block, S, O]
    tail = tails.grid(mentions.last[subjects], mentions.last[objects], block)
    lesser = np.minimum(head, tail)
    cells = np.flatnonzero(lesser > rules.link_margin[block, None, None])
    predicate, pair = np.divmod(cells, len(subjects) * len(objects))
    subject, object = np.divmod(pair, len(objects))
    values = head.reshape(-1)[cells], tail.reshape(-1)[cells]
    return subjects[subject], predicate + block.start, objects[object], *values


def find_links(heads: PointerMap, tails: PointerMap, mentions: Mentions, rules: Rules) -> Facts:
    """Pairs of arguments of one event (subject < object by index): undirected, so each pair is one cell of each map."""
    one, other = same_event_pairs(mentions, rules)
    head, tail = (
        links.cells(np.minimum(at[one], at[other]), np.maximum(at[one], at[other]))[0]  # [pairs]
        for links, at in ((heads, mentions.first), (tails, mentions.last))
    )
    linked = np.minimum(head, tail) > rules.link_margin[0]
    return Facts(one, np.zeros_like(one), other, head, tail).take(linked)


def same_event_pairs(mentions: Mentions, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """Indices (i < j) of mentions that are arguments of the same type of event."""
    if rules.event_of is None:
        raise ValueError("Only the rules of events say which classes are arguments of the same event.")
    of = rules.event_of[mentions.label]
    one, other = np.nonzero(np.triu(of[:, None] == of[None], k=1))
    return one, other


def settle_facts(mentions: Mentions, facts: Facts, rules: Rules) -> Facts:
    """The facts whose mentions reach the predicate's threshold, too; only the best `rules.most_facts`, in order."""
    if not rules.uniform:
        facts = facts.take(fact_scores(mentions, facts) > rules.link_margin[facts.predicate])
    most = rules.most_facts
    if most is None or len(facts) <= most:
        return facts
    best = np.argsort(-fact_scores(mentions, facts), kind="stable")[:most]
    return facts.take(np.sort(best), left_out=len(facts) - most)


def _blocks(count: int, size: int) -> list[slice]:
    """Slices of `count` things of `size` scores each that stay below BLOCK; at least one slice."""
    step = max(1, BLOCK // max(1, size))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)] or [slice(0, 0)]


_TRIANGLES: dict[int, Bool[np.ndarray, " tokens tokens"]] = {}


def _below_diagonal(tokens: int) -> Bool[np.ndarray, " tokens tokens"]:
    """True where a span would end before it starts. Kept for the lengths of windows, which come again and again."""
    known = _TRIANGLES.get(tokens)
    if known is None:
        known = np.tri(tokens, k=-1, dtype=bool)
        if tokens <= 512:
            _TRIANGLES[tokens] = known
    return known


_NONE = np.zeros(0, np.int64)
NO_FACTS = Facts(_NONE, _NONE, _NONE, np.zeros(0, np.float32), np.zeros(0, np.float32))
NO_MENTIONS = Mentions(_NONE, _NONE, _NONE, np.zeros(0, np.float32))
