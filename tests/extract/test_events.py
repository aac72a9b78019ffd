from __future__ import annotations

import time
from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.extract.random_maps import batch_of, random_text
from tianwen.extract.cliques import maximal_cliques
from tianwen.extract.decode import Decoded, Facts, Mentions, decode
from tianwen.extract.dense_decode import dense_map
from tianwen.extract.events import find_events
from tianwen.extract.rules import Rules
from tianwen.extract.torch_decode import decode_batch

ROLES = (("质押", "trigger"), ("质押", "质押方"), ("收购", "trigger"))


def graph(nodes: int, edges: set[tuple[int, int]]) -> list[set[int]]:
    return [{b for b in range(nodes) if a != b and ((a, b) in edges or (b, a) in edges)} for a in range(nodes)]


def by_trying_all(neighbours: list[set[int]]) -> list[tuple[int, ...]]:
    nodes = range(len(neighbours))
    cliques = [
        set(some)
        for size in range(1, len(neighbours) + 1)
        for some in combinations(nodes, size)
        if all(b in neighbours[a] for a, b in combinations(some, 2))
    ]
    return sorted(tuple(sorted(c)) for c in cliques if not any(c < other for other in cliques))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 8), st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=28))
def test_cliques_are_those_found_by_trying_all(nodes, edges):
    neighbours = graph(nodes, edges)
    found = maximal_cliques(neighbours)
    assert list(found) == by_trying_all(neighbours)
    assert not found.capped


def test_the_caps_are_kept_and_reported():
    nodes = 60
    worst = graph(nodes, {(a, b) for a in range(nodes) for b in range(nodes) if a // 3 != b // 3})  # 3^20 cliques
    start = time.perf_counter()
    found = maximal_cliques(worst, most=50)
    assert (len(found), found.capped) == (50, True)
    assert maximal_cliques(worst, most=10**9, most_steps=300).capped
    assert time.perf_counter() - start < 2.0
    few = graph(6, {(a, b) for a in range(6) for b in range(6) if a // 3 != b // 3})
    assert (len(maximal_cliques(few, most=9)), maximal_cliques(few, most=9).capped) == (9, False)


def test_events_are_cliques_within_a_type():
    mentions = Mentions(
        np.array([0, 1, 1, 2]), np.array([0, 2, 4, 6]), np.array([1, 3, 5, 7]), np.array([3.0, 2, 4, 5])
    )
    i, j = np.array([0, 0]), np.array([1, 2])
    links = Facts(i, np.zeros(2, int), j, np.array([1.0, 9.0]), np.array([8.0, 0.5]))
    events, capped = find_events(Decoded(mentions, links), np.array([0, 0, 1]))
    assert events == [(0, (0, 1), 1.0), (0, (0, 2), 0.5), (1, (3,), 5.0)]
    assert capped == 0
    nobody = Mentions(*np.zeros((3, 0), int), np.zeros(0))
    assert find_events(Decoded(nobody, links.take(np.zeros(0, int))), np.array([0])) == ([], 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_links_have_no_direction(seed, shared):
    texts = [random_text(seed + i, tokens=7, classes=3, predicates=1, shift=-1.0, shared=shared) for i in range(2)]
    rules = Rules.of_events(ROLES)
    batch = decode_batch(batch_of(texts, triangular_links=True), rules)
    for text, other in zip(texts, batch, strict=True):
        decoded = decode(text, rules)
        heads, tails, m = dense_map(text.heads)[0], dense_map(text.tails)[0], decoded.mentions
        wanted = {}
        for a, b in combinations(range(len(m)), 2):
            head = heads[min(m.first[a], m.first[b]), max(m.first[a], m.first[b])]
            tail = tails[min(m.last[a], m.last[b]), max(m.last[a], m.last[b])]
            if ROLES[m.label[a]][0] == ROLES[m.label[b]][0] and min(head, tail) > 0:
                wanted[a, b] = min(head, tail)
        for found in (decoded, other):
            pairs = zip(found.facts.subject.tolist(), found.facts.object.tolist(), strict=True)
            scores = np.minimum(found.facts.head, found.facts.tail)
            assert set(pairs) == wanted.keys()
            assert np.allclose(sorted(scores), sorted(wanted.values()), atol=2e-6)
