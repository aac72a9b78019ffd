"""All entries below subjects, or those of a wide beam where there are too many."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.ask.mock_session import MockSession
from tests.ask.small import TOKENIZER, built, tiny_asker
from tianwen.ask.beam import Paths, Search, search
from tianwen.ask.entries import WIDE, entries_below
from tianwen.ask.facts import Fact
from tianwen.ask.fielded import FieldedTrie


def trie_of(rows):
    subjects, predicates, senses = map(list, zip(*rows, strict=True))
    return FieldedTrie.build(subjects, predicates, senses, TOKENIZER)[0]


def subjects_of(session, trie, *, keep=9):
    return search(session, trie, Paths.start(session, trie), Search(beams=keep, keep=keep, until_field=1))


def listed(entries):
    parts = [entries.tokens[a:b].tolist() for a, b in pairwise(entries.token_ptr)]
    return [parts[a:b] for a, b in pairwise(entries.owner_ptr)]


ROWS = [("a", "p" * (1 + n % 3) + str(n // 3), "m" * (n % 2)) for n in range(12)] + [("b", "p", ""), ("ab", "q", "")]


@pytest.mark.parametrize("most", [1, 5, 11])
def test_a_beam_that_is_wide_enough_lists_what_the_tree_lists(most):
    session, trie = MockSession(3, vocabulary=TOKENIZER.size), trie_of(ROWS)
    found = subjects_of(session, trie)
    assert np.bincount(found.owner).tolist() == [3, 3, 3]
    everything = trie.completions(found.state, limit=1000)
    entries = entries_below(session, trie, found, most=most)
    assert listed(entries) == listed(everything), "the same entries, in key order, under the same paths"
    assert (entries.terminal == everything.terminal).all()
    assert trie.is_terminal(entries.terminal).all()
    assert not entries.cut.any()


def test_what_is_not_too_much_costs_no_model_call():
    session, trie = MockSession(2, vocabulary=TOKENIZER.size), trie_of(ROWS)
    found = subjects_of(session, trie)
    rounds = session.rounds
    assert listed(entries_below(session, trie, found, most=12)) == listed(trie.completions(found.state, limit=1000))
    assert session.rounds == rounds


def test_a_thousand_predicates_leave_the_best_of_a_wide_beam():
    rows = [("a", f"{n // 10} {n % 10}", "") for n in range(1000)]
    session, trie = MockSession(2, vocabulary=TOKENIZER.size), trie_of(rows)
    found = subjects_of(session, trie)
    entries = entries_below(session, trie, found, most=256)
    assert np.diff(entries.owner_ptr).tolist() == [WIDE, WIDE]
    known = {tuple(tail) for tail in listed(trie.completions(found.state[:1], limit=1000))[0]}
    for tails in listed(entries):
        assert tails == sorted(tails)
        assert len({tuple(tail) for tail in tails} & known) == WIDE


def test_several_large_subjects_are_searched_together():
    """One search for the k-th large subject of every question, not one for each: the session grows with every step."""
    rows = [(subject, f"{n}", "") for subject in ("a", "b") for n in range(60)]
    rounds = {}
    for questions in (1, 8):
        session, trie = MockSession(questions, vocabulary=TOKENIZER.size), trie_of(rows)
        found = subjects_of(session, trie)
        before = session.rounds
        entries_below(session, trie, found, most=10)
        rounds[questions] = session.rounds - before
    assert rounds[8] <= rounds[1] + 2


def test_a_question_about_a_subject_with_a_thousand_predicates(tmp_path):
    facts = [Fact("Mars", f"{n // 10} {n % 10}", str(n)) for n in range(1000)] + [Fact("白蛇", "导演", "甲")]
    asker = tiny_asker()
    with built(facts, tmp_path / "kb") as kb:
        answers, others = asker.ask(["What is 42 7 of Mars?", "白蛇的导演"], kb, top=100)
        live = set(facts)
        for answer in answers:
            assert Fact(answer.subject, answer.predicate, answer.objects[0]) in live
        assert len({(a.subject, a.predicate) for a in answers}) == len(answers) >= WIDE
        assert sum(a.probability for a in answers) <= 1 + 1e-9
        assert others[0].subject in {"白蛇", "Mars"}
