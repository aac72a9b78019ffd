"""Replacing facts: the old go and the new come in one commit, and what is in both stays where it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tianwen.ask import open_folder
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.errors import InputError

from .few_facts import FACTS, TOKENIZER, agree, answers


@pytest.fixture
def kb(tmp_path: Path) -> Iterator[KnowledgeBase]:
    with KnowledgeBase.build(FACTS, tmp_path / "test.kb", tokenizer=TOKENIZER) as kb:
        yield kb


def test_the_keys_of_the_new_facts_have_the_new_objects_and_no_others(kb):
    new = [Fact("火星", "卫星", "火卫二"), Fact("火星", "卫星", "火卫三"), Fact("白蛇", "导演", "赵霁", "电影")]
    before = kb.snapshot()
    assert kb.replace(new) == (2, 2)
    truth = [FACTS[1], FACTS[2], *FACTS[4:], *new[1:]]
    agree(kb.snapshot(), truth)
    assert answers(kb.snapshot(), "火星", "卫星") == new[:2]
    agree(before, FACTS)
    assert kb.replace(new) == (0, 0)
    with KnowledgeBase.open(kb.folder) as again:
        agree(again.snapshot(), truth)


def test_a_name_that_the_tokenizer_takes_for_the_same_is_another_name(kb):
    assert kb.replace([("NASA", "founded", "29.7.1958")]) == (1, 1)
    assert kb.snapshot().find(predicate="founded") == [FACTS[6], Fact("NASA", "founded", "29.7.1958")]


def test_a_source_is_part_of_a_fact(kb):
    assert kb.replace([("火星", "卫星", "火卫一", "a book")]) == (2, 1)
    assert kb.snapshot().find("火星", "卫星") == [Fact("火星", "卫星", "火卫一", source="a book")]


def test_facts_of_certain_texts_are_replaced_by_any_others(kb):
    assert kb.replace([("火星", "卫星", "福波斯")], subject="火星", object="火卫一") == (1, 1)
    assert kb.replace([("Mars", "moon", "Deimos"), FACTS[2]], subject="火星") == (2, 1)
    agree(kb.snapshot(), [FACTS[2], *FACTS[3:], Fact("Mars", "moon", "Deimos")])


def test_nothing_is_changed_where_nothing_is_there_to_be_replaced(kb):
    commit = kb.info()["commit"]
    with pytest.raises(InputError, match=r"No fact has subject '白蛇'.*no sense.*nothing to replace.*'电视剧', '电影'"):
        kb.replace([("白蛇", "导演", "赵霁")], subject="白蛇", predicate="导演", sense="")
    with pytest.raises(InputError, match=r"object '火卫9'.*Nothing was changed"):
        kb.replace([("火星", "卫星", "火卫一")], subject="火星", object="火卫9")
    with pytest.raises(InputError, match="No fact was given"):
        kb.replace([], subject="火星")
    with pytest.raises(InputError, match="must be a text"):
        kb.replace(FACTS, subject=5)  # pyright: ignore[reportArgumentType]
    agree(kb.snapshot(), FACTS)
    assert kb.info()["commit"] == commit


def test_a_key_that_was_not_there_is_added(kb):
    assert kb.replace([("木星", "卫星", "木卫一")]) == (0, 1)
    agree(kb.snapshot(), [*FACTS, Fact("木星", "卫星", "木卫一")])


def test_added_facts_can_be_replaced_while_they_become_a_segment(kb, monkeypatch):
    monkeypatch.setattr(open_folder, "MOST_ADDED", 4)
    kb.add([("s", "p", str(number)) for number in range(4)])
    assert kb.replace([*(("s", "p", str(number)) for number in range(3, 9)), ("火星", "卫星", "x")]) == (5, 6)
    assert kb.info()["segments"] == 2
    assert kb.info()["added"] == 0
    agree(
        kb.snapshot(), [*FACTS[2:], *(Fact("s", "p", str(number)) for number in range(3, 9)), Fact("火星", "卫星", "x")]
    )


def test_a_replacement_that_fails_changes_nothing(kb, monkeypatch):
    with contextlib.suppress(InputError):
        kb.replace([("火星", "卫星", "x"), ("火星", "", "y")])
    monkeypatch.setattr(open_folder.store, "insert_facts", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kb.replace([("火星", "卫星", "x")])
    agree(kb.snapshot(), FACTS)


def test_a_table_replaces(kb, tmp_path):
    (tmp_path / "new.tsv").write_text("火星\t卫星\t甲\n火星\t卫星\t乙\n木星\t卫星\t丙\n", encoding="utf-8")
    assert kb.replace(tmp_path / "new.tsv") == (2, 3)
    agree(
        kb.snapshot(), [*FACTS[2:], Fact("火星", "卫星", "甲"), Fact("火星", "卫星", "乙"), Fact("木星", "卫星", "丙")]
    )
    assert kb.info()["sources"][-1]["facts"] == 3
