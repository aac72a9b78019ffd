from __future__ import annotations

import numpy as np

from tianwen.extract.decode import Facts, Mentions
from tianwen.extract.verifier import without_crossings


def mentions_of(*spans: tuple[int, int], labels: tuple[int, ...] | None = None) -> Mentions:
    first, last = np.array(spans).T
    return Mentions(np.array(labels or [0] * len(spans)), first, last, np.ones(len(spans)))


def facts_of(*rows: tuple[int, int, int, float, float]) -> Facts:
    """Rows (subject, predicate, object, head, tail)."""
    s, p, o, head, tail = map(np.array, zip(*rows, strict=True))
    return Facts(s, p, o, head.astype(float), tail.astype(float))


def kept(mentions: Mentions, facts: Facts) -> set[tuple[int, int, int]]:
    left = without_crossings(mentions, facts)
    return set(zip(left.subject.tolist(), left.predicate.tolist(), left.object.tolist(), strict=True))


# 中国 / 中国航天 share their first token, 发射中心 / 中心 their last.
SQUARE = mentions_of((0, 1), (0, 3), (8, 11), (10, 11))


def square(sure: float, doubtful: float, predicate: int = 0) -> list[tuple[int, int, int, float, float]]:
    """(0, 2) and (1, 3) were stated, the one surely, the other less so; the links also allow (0, 3) and (1, 2)."""
    head, tail = {2: sure, 3: doubtful}, {0: sure, 1: doubtful}  # by object, by subject
    return [(s, predicate, o, head[o], tail[s]) for s in (0, 1) for o in (2, 3)]


def test_four_facts_of_a_square_become_the_two_with_matching_scores():
    assert kept(SQUARE, facts_of(*square(6.0, 1.5))) == {(0, 0, 2), (1, 0, 3)}
    assert kept(SQUARE, facts_of(*square(1.5, 6.0))) == {(0, 0, 2), (1, 0, 3)}


def test_the_mirrored_square_too():
    mirrored = mentions_of((0, 3), (2, 3), (8, 9), (8, 11))  # subjects share their last token, objects their first
    head, tail = {0: 6.0, 1: 1.5}, {2: 6.1, 3: 1.4}
    rows = [(s, 0, o, head[s], tail[o]) for s in (0, 1) for o in (2, 3)]
    assert kept(mirrored, facts_of(*rows)) == {(0, 0, 2), (1, 0, 3)}


def test_predicates_do_not_mix():
    one, other = square(6.0, 1.5), square(1.5, 6.0, predicate=1)
    assert len(kept(SQUARE, facts_of(*one[:2], *other[2:]))) == 4


def test_every_link_stays_explained_when_scores_are_equal():
    left = kept(SQUARE, facts_of(*square(3.0, 3.0)))
    assert left in ({(0, 0, 2), (1, 0, 3)}, {(0, 0, 3), (1, 0, 2)})


def test_facts_that_merely_share_a_mention_stay():
    far = mentions_of((0, 1), (4, 5), (8, 9), (12, 13))
    rows = [(s, 0, o, 1.0, 5.0) for s in (0, 1) for o in (2, 3)]  # four stated facts, four heads, four tails
    assert len(kept(far, facts_of(*rows))) == 4
    nested = mentions_of((0, 1), (0, 3), (8, 9), (12, 13))  # subjects share a head, the objects nothing
    assert len(kept(nested, facts_of(*rows))) == 4


def test_a_span_of_two_types_is_one_span():
    twice = mentions_of((0, 1), (0, 1), (8, 9), (12, 13), labels=(0, 1, 0, 0))
    rows = [(s, 0, o, 1.0, 5.0) for s in (0, 1) for o in (2, 3)]
    assert len(kept(twice, facts_of(*rows))) == 4


def test_three_by_three_keeps_a_matching():
    mentions = mentions_of((0, 0), (0, 1), (0, 2), (5, 9), (6, 9), (7, 9))
    score = {0: 8.0, 1: 5.0, 2: 2.0}
    rows = [(i, 0, 3 + j, score[j] + 0.1, score[i]) for i in range(3) for j in range(3)]
    assert kept(mentions, facts_of(*rows)) == {(0, 0, 3), (1, 0, 4), (2, 0, 5)}
