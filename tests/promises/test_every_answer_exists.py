"""Every answer exists: whatever the facts, the model and the question, what is answered is a live fact.

Black box: facts go in through `KnowledgeBase`, answers come out of `Asker.ask`, and are compared with a plain list. The
model's weights are random, so it wants to say anything; only the tree keeps it from doing so.
"""

from __future__ import annotations

import tempfile
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ask.small import FACTS, built, same_answers, tiny_asker
from tianwen.ask.asker import Asker, AskOptions
from tianwen.ask.facts import Fact
from tianwen.errors import InputError
from tianwen.text import Tokenizer
from tianwen.vocabulary import BYTE_PIECES, SPECIAL_PIECES

BYTES = Tokenizer([*SPECIAL_PIECES, *BYTE_PIECES])  # every text is bytes: many forks, shared prefixes, no luck
ASKER = tiny_asker(BYTES)
ALL = {"scoring": "path", "search": "exact", "top": 100_000}
"""Every entry of the knowledge base, best first."""

NAMES = ["a", "ab", "abc", "b", "A", "白", "白蛇", "白蛇传", "🚀", "🚀🚀", "\u00e9", "e\u0301", "a b", "|||", "[SEP]"]
NAMES += ["</s>", "（", "a\tb", "'", "\u202e反", "½", "ﬃ", "Ⅷ", "x" * 60, "\u0001", "%s{}"]
names = st.sampled_from(NAMES) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=3)
facts = st.builds(Fact, names, names, names, sense=st.just("") | names, source=st.just("") | names)
sound = facts.filter(lambda fact: all(text.strip() for text in (fact.subject, fact.predicate, fact.object)))
QUESTIONS = ["a", "ab的abc是什么", "白蛇传", "🚀", "[SEP][SEP]", "\ud800", "\x00\x00"]


def key(fact):
    """What the tokenizer sees of a path."""
    return tuple(BYTES.canonical(text) for text in (fact.subject, fact.predicate, fact.sense))


def exist(answers, live: list[Fact], question: str = "") -> None:
    """Each answer is a path of the list, with that path's objects and their sources, in order; no path comes twice."""
    paths = [key(answer) for answer in answers]
    assert len(set(paths)) == len(paths)
    for answer in answers:
        of_path = [fact for fact in live if key(fact) == key(answer)]
        spelt = [fact for fact in of_path if fact.subject in question] or of_path
        assert spelt
        assert list(zip(answer.objects, answer.sources, strict=True)) == [(f.object, f.source) for f in spelt]
        assert any((f.subject, f.predicate, f.sense) == (answer.subject, answer.predicate, answer.sense) for f in spelt)
        assert 0 <= answer.probability <= 1 + 1e-9


@settings(max_examples=6)
@given(st.lists(sound, min_size=1, max_size=14), st.sampled_from(QUESTIONS), st.data())
def test_whatever_the_facts(given_facts, question, data):
    live = list(dict.fromkeys(given_facts))
    with tempfile.TemporaryDirectory() as folder, built(live, Path(folder) / "kb", BYTES) as kb:
        exist(ASKER.ask(question, kb, top=9), live, question)
        everything = ASKER.ask(question, kb, **ALL)
        exist(everything, live, question)
        assert {key(answer) for answer in everything} == {key(fact) for fact in live}, "every fact can be reached"
        gone = data.draw(st.sampled_from(live))
        added = data.draw(st.lists(sound, max_size=3))
        kb.remove(gone.subject, gone.predicate, gone.object)
        live = [f for f in live if (f.subject, f.predicate, f.object) != (gone.subject, gone.predicate, gone.object)]
        kb.add(added)
        live = list(dict.fromkeys(live + added))
        exist(ASKER.ask(question, kb, top=9), live, question)
        changed = ASKER.ask(question, kb, **ALL)
        exist(changed, live, question)
        assert {key(answer) for answer in changed} == {key(fact) for fact in live}


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    return built(FACTS, tmp_path_factory.mktemp("promise") / "kb", BYTES)


@pytest.mark.parametrize("options", [{}, {"search": "beam", "beams": 2}, {"scoring": "path"}, {"prior_weight": 2.0}])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_model(kb, seed, options):
    asker = tiny_asker(BYTES, seed=seed, loud=30.0)
    for question, answers in zip(QUESTIONS, asker.ask(QUESTIONS, kb, top=5, **options), strict=True):
        assert answers
        exist(answers, FACTS, question)


def test_a_removed_fact_is_never_answered_and_an_added_one_at_once(kb, tmp_path):
    with built(FACTS, tmp_path / "kb", BYTES) as changing:
        live = list(FACTS)
        for fact in FACTS[::3]:
            changing.remove(fact.subject, fact.predicate, fact.object)
            live.remove(fact)
            new = Fact(fact.subject + "二", fact.predicate, fact.object)
            changing.add([new])
            live.append(new)
            answers = ASKER.ask([fact.subject, new.subject], changing, top=3)
            for question, found in zip((fact.subject, new.subject), answers, strict=True):
                exist(found, live, question)
        assert {key(answer) for answer in ASKER.ask("?", changing, **ALL)} == {key(fact) for fact in live}
        changing.compact()
        exist(ASKER.ask("?", changing, **ALL), live, "?")


def test_a_key_that_is_the_beginning_of_another_is_reachable(tmp_path):
    parts = ["a", "ab", "abc"]
    live = [Fact(s, p, s + p + m, sense=m) for s in parts for p in parts for m in ("", *parts)]
    with built(live, tmp_path / "kb", BYTES) as kb:
        assert {a.objects[0] for a in ASKER.ask("x", kb, **ALL)} == {fact.object for fact in live}
        best = set()
        for question in ("a", "ab", "abc", "a的ab", "abc ab a"):
            answers = ASKER.ask(question, kb, top=1000, beams=50)
            exist(answers, live, question)
            best |= {answer.objects[0] for answer in answers}
        assert best == {fact.object for fact in live}, "by the usual way of asking, too"


def test_a_forbidden_token_is_never_emitted(kb):
    """Every token of every path that a search puts out is one that the tree allowed there."""
    snapshot, end = kb.snapshot(), BYTES.sep_id
    whole = {tuple((*map(int, BYTES.ids(text)), end) for text in key(fact)) for fact in FACTS}
    complete = {tuple(token for field in fields for token in field) for fields in whole}
    for search in ("auto", "beam", "exact"):
        for scoring in ("prior", "path"):
            how = AskOptions(search=search, scoring=scoring, top=4)
            _, found = ASKER.candidates([ASKER.question_ids(q) for q in QUESTIONS], snapshot, how)
            assert snapshot.trie.is_terminal(found.state).all()
            paths = [snapshot.facts(state)[0] for state in found.state]
            assert {tuple(t for text in key(f) for t in (*map(int, BYTES.ids(text)), end)) for f in paths} <= complete
            assert np.isfinite(found.score).all()


def test_saved_and_loaded_answers_are_equal(kb, tmp_path):
    from tianwen.ask.knowledge_base import KnowledgeBase

    ASKER.save(tmp_path)
    with KnowledgeBase.open(kb.folder) as again:
        same_answers(Asker.load(tmp_path).ask(QUESTIONS, again, top=5), ASKER.ask(QUESTIONS, kb, top=5), atol=0.0)


def test_many_questions_are_answered_like_each_alone(kb):
    many = [*QUESTIONS, "", "b" * 190, " ", *QUESTIONS[::-1]]
    askable = [question for question in many if question.strip()]
    together = ASKER.ask(askable, kb, top=4)
    same_answers(together, [ASKER.ask(question, kb, top=4) for question in askable])


@pytest.mark.parametrize("question", ["", " \t\r\n\u3000", "🚀" * 250_000, "x" * 1_000_000, " " * 1_000_000])
def test_what_is_no_question_is_refused_with_a_sentence(kb, question):
    with pytest.raises(InputError, match="question"):
        ASKER.ask(question, kb)


ODD = ["🚀🧑\u200d🚀", "\ud800\udfff\udc80", "\x00", "\x1b]0;x\x07", "\u202e", "﷽", "'; DROP TABLE"]


@pytest.mark.parametrize("question", ODD)
def test_what_is_odd_is_answered(kb, question):
    answers = ASKER.ask(question, kb, top=3)
    assert answers
    exist(answers, FACTS, question)


def test_objects_of_one_path_come_together(kb):
    paths = groupby(sorted(FACTS, key=key), key=key)
    several = [[fact.object for fact in of_path] for _, of_path in paths]
    found = [answer.objects for answer in ASKER.ask("?", kb, **ALL)]
    assert sorted(several) == sorted(found)
    assert ["Phobos", "Deimos"] in found
