"""The numbers of `tianwen eval ask`: right by hand, for every question, whatever may be wrong with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.ask.small import FACTS, QUESTIONS, built, tiny_asker
from tianwen.ask.asker import Answer, AskOptions
from tianwen.ask.evaluation import evaluate_ask
from tianwen.ask.facts import Fact
from tianwen.ask.questions import Question

RIGHT = [
    Question(QUESTIONS[0], "白蛇", "导演", "电影", ("黄家康",)),
    Question("天问一号何时上天", "天问一号", "发射时间", "", ("2021年 7月23日",)),  # one of ten characters is wrong
    Question(QUESTIONS[2], "mars", "Moons", "", ("Deimos", "PHOBOS")),
    Question("How many are they?", "Mars", "moon count", "", ("3",)),
]


class Scripted:
    """Answers from a list, to every batch anew."""

    question_ids = staticmethod(len)
    script = (
        Answer("白蛇", "导演", "电影", ["黄家康"], 0.8, [""]),
        Answer("天问一号", "发射时间", "", ["2020年7月23日"], 0.5, [""]),
        Answer("Mars", "moons", "", ["Phobos", "Deimos"], 1.0, ["", ""]),
        Answer("Mars", "moons", "", ["Phobos", "Deimos"], 0.3, ["", ""], known=False),
    )

    def answers(self, questions, snapshot, how, *, batch, trace):
        assert how.top == 1
        trace.questions, trace.model_calls = len(questions), 10
        return ([answer] for answer in self.script)


@pytest.fixture(scope="module")
def asker():
    return tiny_asker()


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    return built(FACTS, tmp_path_factory.mktemp("small") / "kb")


def test_numbers_by_hand(kb):
    seen = []
    numbers = evaluate_ask(Scripted(), kb, RIGHT, progress=lambda done, of: seen.append((done, of)))
    assert numbers["em"] == 50.0
    assert numbers["f1"] == pytest.approx(100 * (1 + 2 * 9 / 20 + 1 + 0) / 4), "of the first object"
    assert numbers["score"] == pytest.approx((numbers["em"] + numbers["f1"]) / 2)
    assert numbers["subject_accuracy"] == 100.0, "whatever the case"
    assert numbers["predicate_accuracy"] == 75.0
    assert numbers["in_knowledge_base"] == 1.0
    assert (numbers["questions"], numbers["answered"]) == (4, 75.0)
    assert numbers["em_answered"] == pytest.approx(200 / 3)
    assert numbers["calibration_error"] == pytest.approx((0.2 + 0.5 + 0.0 + 0.3) / 4)
    assert numbers["model_calls_per_question"] == 2.5
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    at = {row["threshold"]: (row["answered"], row["em"]) for row in numbers["thresholds"]}
    assert (at[0.1], at[0.5], at[0.8], at[0.9]) == ((100, 50), (75, pytest.approx(200 / 3)), (50, 100), (25, 100))


def test_a_question_that_cannot_be_asked_is_wrong_and_the_others_are_asked(asker, kb):
    odd = [replace(RIGHT[0], text=text) for text in ("", " \n", "长" * 300, "天" * 1_000_000)]
    numbers = evaluate_ask(asker, kb, [odd[0], RIGHT[0], *odd[1:], RIGHT[2]], batch=2)
    assert numbers["questions"] == 6
    assert numbers["em"] == pytest.approx(100 * 2 / 6)
    assert numbers["answered"] == pytest.approx(100 * 2 / 6)
    assert numbers["em_answered"] == 100.0
    assert numbers["in_knowledge_base"] == 1.0


def test_the_batch_size_changes_no_number(asker, kb):
    timing = {"questions_per_second"}
    some, other = (evaluate_ask(asker, kb, RIGHT, batch=size) for size in (1, 32))
    for name in some.keys() - timing - {"thresholds"}:
        assert some[name] == pytest.approx(other[name], abs=1e-4), name


def test_no_questions_and_no_facts(asker, kb, tmp_path):
    assert evaluate_ask(asker, kb, [])["em"] == 0.0
    with built([], tmp_path / "kb") as empty:
        numbers = evaluate_ask(asker, empty, RIGHT)
        assert (numbers["em"], numbers["answered"]) == (0.0, 0.0)


def test_a_threshold_separates_answered_from_not(asker, kb):
    numbers = evaluate_ask(asker, kb, RIGHT, options=AskOptions(threshold=0.9))
    at = {row["threshold"]: row for row in numbers["thresholds"]}
    assert numbers["answered"] == at[0.9]["answered"]
    assert numbers["em_answered"] == at[0.9]["em"]
    assert evaluate_ask(asker, kb, RIGHT[:1], options=AskOptions(threshold=1.0))["answered"] == 0.0


@pytest.mark.parametrize(
    "change",
    [{"objects": ["黄家康", "谁"]}, {"objects": []}, {"subject": "黑蛇"}, {"sense": ""}, {"predicate": "导"}],
    ids=lambda change: next(iter(change)),
)
def test_an_invented_answer_would_be_seen(kb, change):
    class Liar:
        def __init__(self):
            self.honest = tiny_asker()

        def __getattr__(self, name):
            return getattr(self.honest, name)

        def answers(self, questions, *args, **options):
            for answers in self.honest.answers(questions, *args, **options):
                yield [replace(answers[0], **change)]

    assert evaluate_ask(Liar(), kb, RIGHT[:1])["in_knowledge_base"] == 0.0


def test_an_answer_that_was_removed_meanwhile_is_none_of_the_knowledge_base(asker, tmp_path):
    with built([Fact("白蛇", "导演", "甲"), Fact("白蛇", "导演", "乙")], tmp_path / "kb") as kb:
        kb.remove("白蛇", "导演", "甲")
        numbers = evaluate_ask(asker, kb, [Question("白蛇的导演是谁", "白蛇", "导演", "", ("甲",))])
        assert (numbers["em"], numbers["in_knowledge_base"]) == (0.0, 1.0)
