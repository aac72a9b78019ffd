"""Questions made up for a knowledge base that has none: they name their subject and are answered by what is there."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tianwen.ask.cold_start import USUAL, ColdStart
from tianwen.ask.metrics import normalised
from tianwen.ask.paraphrases import read_paraphrases
from tianwen.ask.patterns import load_patterns

NAMES = [("白蛇", "电影"), ("白蛇", ""), ("天问一号", ""), ("Ares I-X", "rocket"), ("战神I-X", "")]
PREDICATES = ["导演", "发射时间", "launch site", "从未见过的谓语", "☃"]


@pytest.fixture(scope="module")
def own():
    return ColdStart(NAMES, PREDICATES, only_own=True)


@pytest.fixture(scope="module")
def drawn():
    return ColdStart(NAMES, PREDICATES)


def draw(start, count, seed=0):
    chance = random.Random(seed)
    return [start.question(chance) for _ in range(count)]


def test_of_one_knowledge_base_only_its_own_is_asked(own):
    questions = draw(own, 600)
    assert {(q.subject, q.sense) for q in questions} == set(NAMES)
    assert {q.predicate for q in questions} == set(PREDICATES), "letter by letter as the knowledge base has them"
    assert all(q.subject in q.text for q in questions)
    assert len({q.text for q in questions}) > 150


def test_a_predicate_that_no_table_knows_stands_in_its_questions(own):
    for question in draw(own, 300):
        if question.predicate in {"从未见过的谓语", "☃"}:
            assert question.predicate in question.text


def test_for_a_model_of_all_the_tables_are_drawn_too(drawn):
    questions = draw(drawn, 800)
    kinds = Counter(question.predicate in PREDICATES for question in questions)
    assert 0.2 < kinds[False] / len(questions) < 0.8
    english = [q for q in questions if q.subject.isascii() and q.predicate.isascii()]
    assert len(english) > 50
    assert len({q.subject for q in english}) > 2, "new names from the words of the few there are"
    assert all(question.subject in question.text for question in questions)
    assert all(question.text.strip() and question.predicate.strip() for question in questions)


def test_a_name_of_another_predicate_of_the_same_base_is_no_synonym():
    """Where 丈夫 and 配偶 are two predicates, "X的配偶是谁" must not be taught as a question for 丈夫."""
    table = read_paraphrases()
    entry = next(entry for entry in table.values() if entry.synonyms and not entry.templates[10:])
    other = entry.synonyms[0]
    taught = ColdStart([("甲", "")], [entry.predicate, other], only_own=True)
    assert other not in taught.table[normalised(entry.predicate)].synonyms
    free = ColdStart([("甲", "")], [entry.predicate], only_own=True)
    assert free.table[normalised(entry.predicate)] == entry


def test_the_same_numbers_draw_the_same_questions(drawn):
    again = ColdStart(NAMES, PREDICATES)
    assert draw(drawn, 50, seed=3) == draw(again, 50, seed=3) != draw(drawn, 50, seed=4)


def test_nothing_latin_is_no_obstacle():
    assert len({q.text for q in draw(ColdStart([("白蛇", "")], ["导演"]), 100)}) > 20


def test_the_usual_predicates_mean_different_things():
    usual, families = ColdStart([("天问", "")], ["作者"]).usual, load_patterns("en").families
    assert USUAL * 0.9 < len(usual) == len(set(usual)) <= USUAL
    for place, family in enumerate(families[:USUAL]):
        earlier = {name for other in families[:place] for name in other.names}
        assert (family.names[0] in usual) == (family.names[0] not in earlier)
    assert "birth date" in usual
    assert "date of birth" not in usual
