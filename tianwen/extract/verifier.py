"""Leave out facts that nobody stated: those that come out only because links of other facts cross.

Post: 8888 (which takes it that such cases do not occur)

Notation
    s = (s_h, s_t), o = (o_h, o_t)   spans of a subject and an object, first and last token
    head link (s_h, o_h), tail link (s_t, o_t)   what the maps say of a predicate; a fact needs both

Two facts (s1, o1), (s2, o2) of one predicate whose subjects share their first token and whose objects share their last
have head links (a, c1), (a, c2) and tail links (b1, d), (b2, d). These also allow (s1, o2) and (s2, o1): four facts out
of two, and the same with first and last exchanged. The links cannot tell which two were meant. Two things can help:
(1) a link is there because of SOME fact, so a fact is superfluous when other facts explain both its links; of 17,000
labelled texts with triples four have two such facts, and none has all four of the square: superfluous facts go;
(2) the links of one stated fact are about equally sure, so of the two ways to explain a square, the one whose facts
have heads and tails of similar score is kept: facts go in order of |head - tail|, the largest first, while both their
links stay explained.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from tianwen.extract.decode import Facts, Mentions


def without_crossings(mentions: Mentions, facts: Facts) -> Facts:
    """The facts without those whose head link and tail link are explained by others."""
    if len(facts) < 3:
        return facts
    spans = [(int(first), int(last)) for first, last in zip(mentions.first, mentions.last, strict=True)]
    pairs = [
        (int(predicate), spans[subject], spans[object])
        for subject, predicate, object in zip(facts.subject, facts.predicate, facts.object, strict=True)
    ]  # a span of two types makes two facts with the same links: they stand or fall together
    unlike = dict(zip(pairs, np.abs(facts.head - facts.tail).tolist(), strict=True))
    heads, tails = (Counter(_link(pair, end) for pair in unlike) for end in (0, 1))
    gone = set()
    for pair in sorted(unlike, key=lambda pair: (-unlike[pair], pair)):
        head, tail = _link(pair, 0), _link(pair, 1)
        if heads[head] > 1 and tails[tail] > 1:
            heads[head] -= 1
            tails[tail] -= 1
            gone.add(pair)
    return facts.take(np.array([pair not in gone for pair in pairs])) if gone else facts


def _link(pair: tuple[int, tuple[int, int], tuple[int, int]], end: int) -> tuple[int, int, int]:
    predicate, subject, object = pair
    return predicate, subject[end], object[end]
