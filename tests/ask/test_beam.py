"""Beam and best-first search against brute force over all entries, with a mock model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ask.mock_session import MockSession
from tianwen.ask.beam import Paths, Search, _likely, renormalise, search
from tianwen.ask.ragged import ragged
from tianwen.ask.trie import CatalogueTrie

END = 1
KEYS = st.lists(st.lists(st.integers(2, 6), min_size=1, max_size=6).map(tuple), min_size=1, max_size=30, unique=True)


def built(keys):
    return CatalogueTrie.build(*ragged(keys), end_id=END)[0]


def truth(session: MockSession, keys, owner: int) -> list[tuple[float, tuple[int, ...]]]:
    """Every entry with its renormalised score, best first."""
    closed = [(*key, END) for key in keys]
    scored = []
    for key in closed:
        total = 0.0
        for depth in range(len(key)):
            children = sorted({other[depth] for other in closed if other[:depth] == key[:depth] and len(other) > depth})
            log_p = session.scores(owner, key[:depth])[children]
            total += log_p[children.index(key[depth])] - np.log(np.exp(log_p - log_p.max()).sum()) - log_p.max()
        scored.append((total, key))
    return sorted(scored, reverse=True)


def found(session, keys, how):
    trie = built(keys)
    result = search(session, trie, Paths.start(session, trie), how)
    out = [[] for _ in session.source_length]
    for row in range(len(result)):
        out[result.owner[row]].append((float(result.score[row]), tuple(result.chain(row).tolist())))
    return out


@given(KEYS, st.integers(1, 5), st.booleans(), st.integers(1, 3))
def test_exact_search_finds_the_true_best_k(keys, keep, forced, beams):
    session = MockSession(2)
    answers = found(session, keys, Search(beams=beams, keep=keep, exact=True, forced_chains=forced))
    for owner, answer in enumerate(answers):
        best = truth(session, keys, owner)[:keep]
        assert [key for _, key in answer] == [key for _, key in best]
        np.testing.assert_allclose([s for s, _ in answer], [s for s, _ in best], atol=1e-9)


@given(KEYS, st.integers(1, 4))
def test_forced_chains_change_nothing_but_the_calls(keys, beams):
    fast, slow = MockSession(3), MockSession(3)
    chained = found(fast, keys, Search(beams=beams, keep=beams))
    stepwise = found(slow, keys, Search(beams=beams, keep=beams, forced_chains=False))
    assert [[key for _, key in answer] for answer in chained] == [[key for _, key in answer] for answer in stepwise]
    assert fast.rounds <= slow.rounds


@given(KEYS)
def test_a_beam_as_wide_as_the_catalogue_is_exact(keys):
    session = MockSession(1)
    answer = found(session, keys, Search(beams=len(keys), keep=len(keys)))[0]
    best = truth(session, keys, 0)
    assert {key for _, key in answer} == {key for _, key in best}
    np.testing.assert_allclose([s for s, _ in answer], [s for s, _ in best], atol=1e-9)


@given(KEYS, st.integers(1, 6))
def test_no_filler_and_no_duplicate_when_entries_are_few(keys, beams):
    answer = found(MockSession(1), keys, Search(beams=beams, keep=beams))[0]
    entries = [key for _, key in answer]
    assert len(set(entries)) == len(entries)
    assert set(entries) <= {(*key, END) for key in keys}
    assert answer, "some entry is always found"


def test_a_key_that_is_a_prefix_of_another_is_found():
    keys = [(2,), (2, 3), (2, 3, 4)]
    answer = found(MockSession(1), keys, Search(beams=3, keep=3))[0]
    assert {key for _, key in answer} == {(2, END), (2, 3, END), (2, 3, 4, END)}


def test_a_finished_path_that_was_not_the_best_is_kept():
    """An entry that ends early with second rank must not be forgotten while the others go on."""

    class Fixed(MockSession):
        def scores(self, owner, path):
            table = {(): {2: 0.6, 3: 0.4}, (2,): {2: 0.5, 3: 0.5}, (3,): {END: 0.9, 2: 0.1}}
            out = np.full(8, 1e-9)
            for token, p in table.get(path, {}).items():
                out[token] = p
            return np.log(out)

    keys = [(3,), (3, 2), (2, 2, 4), (2, 2, 5), (2, 3, 4), (2, 3, 5)]
    answer = found(Fixed(1), keys, Search(beams=2, keep=1))[0]
    assert answer[0][1] == (3, END)


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_tokens_too_unlikely_for_a_float_do_not_break_the_search(scale):
    keys = [(2, 3, 4), (2, 5), (6, 2)]
    answer = found(MockSession(2, scale=scale), keys, Search(beams=2, keep=3))
    for entries in answer:
        assert entries
        assert all(np.isfinite(score) for score, _ in entries)


def test_renormalise_survives_underflow():
    log_p = renormalise(np.array([0, 2, 2, 3]), np.array([-1e6, -1e6 - 1, -1e9]))
    np.testing.assert_allclose(np.exp(log_p), [1 / (1 + np.exp(-1)), 1 / (1 + np.e), 1.0])


def test_until_field_stops_after_the_end_of_the_first_field():
    trie = built([(2, 3), (2, 4), (5,)])
    session = MockSession(1)
    result = search(session, trie, Paths.start(session, trie), Search(beams=4, keep=4, until_field=1))
    assert {tuple(result.chain(i).tolist()) for i in range(len(result))} == {(2, 3, END), (2, 4, END), (5, END)}


@pytest.mark.parametrize("most", [1, 2, 4])
def test_the_likely_ones_are_the_best_of_each_owner_and_their_equals(most):
    rng = np.random.default_rng(most)
    owner, score = rng.integers(0, 4, 60), rng.integers(0, 8, 60).astype(float)  # many ties; owners in any order
    expected = [sum(score[owner == one] > own) < most for one, own in zip(owner, score, strict=True)]
    np.testing.assert_array_equal(_likely(owner, score, most), expected)
