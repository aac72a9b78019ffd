from __future__ import annotations

import json

import pytest

from tests.ask.small import TOKENIZER
from tianwen.ask.fact_files import Report, facts_of, read_facts
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase

TEXT = "昨天有雾。白蛇（电影）的导演\n是黄家康。片长99分钟。"


def mention(words: str, text: str = TEXT) -> dict:
    start = text.index(words)
    return {"start": start, "end": start + len(words), "label": "", "score": 0.9, "text": words}


def line(*facts: dict, text: str = TEXT, source: str = "page.txt") -> str:
    return json.dumps({"text": text, "facts": list(facts), "source": source}, ensure_ascii=False)


def fact(subject: object, object: object, predicate: str = "导演") -> dict:
    return {"subject": subject, "predicate": predicate, "object": object, "score": 0.8}


GOOD = fact(mention("白蛇（电影）"), mention("黄家康"))


def read(tmp_path, *lines: str) -> tuple[list[Fact], Report]:
    file, report = tmp_path / "found.jsonl", Report()
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [one for frame in read_facts(file, report=report) for one in facts_of(frame)], report


def test_a_fact_keeps_the_sentence_it_stands_in_and_its_place(tmp_path):
    (found,), report = read(tmp_path, line(GOOD))
    assert found == Fact("白蛇", "导演", "黄家康", sense="电影", source="page.txt:5-20: 白蛇（电影）的导演 是黄家康。")
    assert TEXT[5:20] == "白蛇（电影）的导演\n是黄家康。"
    assert (report.rows, report.skipped) == (1, 0)


def test_mentions_of_neighbouring_sentences_are_both_shown(tmp_path):
    (found,), _ = read(tmp_path, line(fact(mention("有雾"), mention("99分钟"), "片长"), source=""))
    assert found.source.startswith("0-27: 昨天有雾。")
    assert found.source.endswith("99分钟。")


def test_a_long_sentence_is_shown_around_its_mentions(tmp_path):
    text = "长" * 3000 + "白蛇的导演黄家康" + "长" * 3000
    (found,), _ = read(tmp_path, line(fact(mention("白蛇", text), mention("黄家康", text)), text=text))
    assert "白蛇的导演黄家康" in found.source
    assert len(found.source) < 500


def test_the_same_fact_comes_once_a_place_and_from_the_narrower_of_two(tmp_path):
    text = "白蛇\n白蛇由黄家康导演。很久以后，白蛇又由黄家康导演。"
    subjects = [{"start": at, "end": at + 2} for at in (0, 3, 17)]
    objects = [{"start": at, "end": at + 3} for at in (6, 21)]
    pairs = [(0, 0), (1, 0), (1, 0), (2, 1), (1, 1), (0, 1)]  # the title's mention, twice the same, across sentences
    found, report = read(tmp_path, line(*(fact(subjects[s], objects[o]) for s, o in pairs), text=text))
    assert [one.source for one in found] == [
        "page.txt:3-12: 白蛇由黄家康导演。",
        "page.txt:12-27: 很久以后，白蛇又由黄家康导演。",
    ]
    assert report.skipped == 0


def test_of_a_mere_string_the_first_place_is_meant(tmp_path):
    text = "天问一号升空。后来天问一号着陆。"
    (found,), _ = read(tmp_path, line(fact("天问一号", "升空", "状态"), text=text))
    assert found.source == "page.txt:0-7: 天问一号升空。"


def test_0_facts_are_no_error(tmp_path):
    found, report = read(tmp_path, line(), line())
    assert found == []
    assert (report.rows, report.skipped) == (0, 0)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (fact({"start": 5, "end": 99}, mention("黄家康")), "outside of the text"),
        (fact({"start": 5, "end": 5}, mention("黄家康")), "outside of the text"),
        (fact({"start": -3, "end": 2}, mention("黄家康")), "no place"),
        (fact({"start": 1.5, "end": 2}, mention("黄家康")), "no place"),
        (fact(None, mention("黄家康")), "no place"),
        (fact("火星", mention("黄家康")), "does not stand in its text"),
        (fact(mention("白蛇"), mention("黄家康"), predicate=None), "without a predicate"),  # type: ignore[arg-type]
        (fact(mention("白蛇"), mention("黄家康"), predicate=" "), "the predicate is empty"),
        ("白蛇", "no object"),
    ],
)
def test_a_broken_fact_does_not_take_its_neighbours_along(tmp_path, broken, reason):
    found, report = read(tmp_path, line(GOOD, broken, fact("片长", "99分钟", "值")), line(GOOD))
    assert [one.predicate for one in found] == ["导演", "值", "导演"]
    assert report.skipped == 1
    assert reason in report.problems[0].reason
    assert report.problems[0].line == 1


def test_half_a_surrogate_pair(tmp_path):
    text = "😀\ud83d白蛇的导演黄家康"
    record = {"text": text, "facts": [fact("\ud83d白蛇", "黄家康"), fact("白蛇", "黄家康")]}
    found, report = read(tmp_path, json.dumps(record))
    assert found == [Fact("白蛇", "导演", "黄家康", source="0-10: 😀\ufffd白蛇的导演黄家康")]
    assert "surrogate" in report.problems[0].reason


def test_nul_and_right_to_left_text(tmp_path):
    text = "אילת\0 היא\x1b[31m עיר"
    (found,), _ = read(tmp_path, line(fact("אילת", "עיר", "סוג"), text=text, source="a\tb"))
    assert found == Fact("אילת", "סוג", "עיר", source="a\tb:0-18: אילת היא [31m עיר")


def test_a_table_of_facts_is_not_taken_for_an_extraction(tmp_path):
    row = {"subject": "白蛇", "predicate": "导演", "object": "黄家康", "text": "…", "source": "片尾"}
    (found,), _ = read(tmp_path, json.dumps(row, ensure_ascii=False))
    assert found == Fact("白蛇", "导演", "黄家康", source="片尾")


def test_extracted_facts_can_be_built_and_added(tmp_path):
    file = tmp_path / "found.jsonl"
    file.write_text(line(GOOD) + "\n", encoding="utf-8")
    with KnowledgeBase.build(file, tmp_path / "a.kb", tokenizer=TOKENIZER) as kb:
        other = line(fact(mention("片长"), mention("99分钟"), "值"))
        file.write_text(other + "\n", encoding="utf-8")
        assert kb.add(read_facts(file)) == 1
        assert kb.info()["facts"] == 2
