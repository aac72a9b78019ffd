"""The base made for questions: their facts are in it, what tempts stands beside them, and chance is a seed's."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest

from benchmarks.closed_base import MORE, closed_base
from tianwen.ask.questions import Question

PREDICATES = [a + b for a in "出生死亡发射" for b in ("日期", "地点", "原因", "时间")]
QUESTIONS = [
    Question(f"请问天体{number}的{predicate}是什么", f"天体{number}", predicate, "", (f"答{number}",))
    for number, predicate in enumerate(PREDICATES)
]


@pytest.fixture(scope="module")
def rows():
    return closed_base(QUESTIONS[:12], QUESTIONS, random.Random(3))


def test_each_question_has_its_fact_and_ten_more_predicates_half_of_them_alike(rows):
    of = defaultdict(dict)
    for subject, predicate, text, sense in rows:
        of[subject, sense].setdefault(predicate, []).append(text)
    for question in QUESTIONS[:12]:
        held = of[question.subject, ""]
        assert held[question.predicate] == [*question.objects]
        assert len(held) == 1 + MORE
        alike = [one for one in held if one != question.predicate and set(one) & set(question.predicate)]
        assert len(alike) >= MORE // 2
    twins = [subject for subject, sense in of if sense]
    assert 0 < len(twins) < 12
    assert all(len(of[key]) == MORE // 2 for key in of if key[1])


def test_false_subjects_are_pieces_of_the_questions_and_some_have_what_is_asked(rows):
    names = {question.subject for question in QUESTIONS}
    false = {subject for subject, *_ in rows} - names
    assert len(false) > 20
    assert all(any(piece in question.text for question in QUESTIONS[:12]) for piece in false)
    asked = {question.predicate for question in QUESTIONS[:12]}
    facts_of = Counter(subject for subject, *_ in rows)
    assert max(facts_of[subject] for subject in false) <= 5, "a piece of several questions is taken once"
    assert any(subject in false and predicate in asked for subject, predicate, *_ in rows)


def test_no_row_stands_twice_and_the_seed_decides(rows):
    assert len(set(rows)) == len(rows)
    assert closed_base(QUESTIONS[:12], QUESTIONS, random.Random(3)) == rows
    assert closed_base(QUESTIONS[:12], QUESTIONS, random.Random(4)) != rows
