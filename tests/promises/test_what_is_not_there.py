"""The bundled asker says so when a small table lacks what is asked for, and still answers what it has."""

from __future__ import annotations

import pytest

from tianwen.ask.asker import Asker
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase

FACTS = [
    ("西湖", "面积", "6.39平方公里"),
    ("西湖", "所在城市", "杭州"),
    ("布洛芬", "类别", "非甾体抗炎药"),
    ("布洛芬", "化学式", "C13H18O2"),
    ("大熊猫", "食物", "竹子"),
    ("大熊猫", "体重", "80到120千克"),
    ("大熊猫", "学名", "Ailuropoda melanoleuca"),
    ("Rust", "first release", "2012"),
    ("Rust", "designed by", "Graydon Hoare"),
    ("Rust", "typing discipline", "static"),
    ("天问一号", "发射日期", "2020年7月23日"),
    ("天问一号", "发射地点", "文昌"),
]
THERE = {
    "西湖有多大": "6.39平方公里",
    "西湖在哪个城市": "杭州",
    "布洛芬属于什么药": "非甾体抗炎药",
    "布洛芬的化学式是什么": "C13H18O2",
    "大熊猫吃什么": "竹子",
    "大熊猫有多重": "80到120千克",
    "Who designed Rust?": "Graydon Hoare",
    "When was Rust released?": "2012",
    "天问一号什么时候发射的": "2020年7月23日",
    "天问一号从哪里发射": "文昌",
}
MISSING = [
    *("西湖的海拔是多少", "西湖的门票多少钱", "布洛芬是谁发明的", "布洛芬的副作用", "大熊猫住在哪里", "大熊猫寿命多长"),
    *("天问一号有多重", "天问一号花了多少钱", "长江有多长", "What is the capital of France?"),
    *("Who is the CEO of Rust?", "How many people use Rust?"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    asker = Asker.load()
    facts = [Fact(*fact) for fact in FACTS]
    with KnowledgeBase.build(facts, tmp_path_factory.mktemp("there") / "kb", tokenizer=asker.tokenizer) as kb:
        return {question: asker.ask(question, kb)[0] for question in [*THERE, *MISSING]}


def test_what_is_there_is_answered(answers):
    for question, wanted in THERE.items():
        assert answers[question].objects == [wanted], question
        assert answers[question].known, question


def test_what_is_missing_is_mostly_not(answers):
    taken = [question for question in MISSING if answers[question].known]
    assert len(taken) <= 3, taken
