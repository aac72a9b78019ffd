"""Questions made from facts are natural, cover what a predicate can mean, and never lose the subject."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask.patterns import kind_of, load_patterns, normalise, paraphrases, synonyms, synthesise
from tianwen.errors import InputError

HAN_PREDICATES = [name for family in load_patterns("zh").families for name in family.names]
names = st.text(min_size=1, max_size=12).filter(lambda text: text.strip())


def many(subject: str, predicate: str, *, count: int = 400, seed: int = 0) -> Counter[str]:
    rng = random.Random(seed)
    return Counter(synthesise(subject, predicate, rng) for _ in range(count))


@pytest.mark.parametrize(
    ("subject", "predicate", "expected"),
    [
        ("李白", "出生日期", "李白是什么时候出生的"),
        ("李白", "出生地", "李白是哪里人"),
        ("天问", "作者", "天问是谁写的"),
        ("战神I-X", "发射地点", "战神I-X在哪里发射"),
        ("月球", "别名", "月球又叫什么"),
        ("三峡大坝", "竣工日期", "三峡大坝是什么时候竣工的"),
        ("某站", "改建年份", "某站是哪一年改建的"),  # by rule alone: no family names it
        ("某兵", "所属军区", "某兵属于哪个军区"),
        ("某船", "飞越木星时间", "某船什么时候飞越木星"),
        ("某灯", "产品颜色", "某灯是什么颜色的"),  # 产品 changes nothing
        ("某县", "• 人口（2010）[1]", "某县有多少人"),  # nor do bullets, years and notes
        ("Ares I-X", "launch site", "Where was Ares I-X launched"),
        ("Ada Lovelace", "birthDate", "When was Ada Lovelace born"),
        ("Mars", "number of moons", "How many moons does Mars have"),
    ],
)
def test_paraphrases_reach_the_natural_wording(subject: str, predicate: str, expected: str) -> None:
    assert any(expected in question for question in many(subject, predicate, count=1500)), expected


@pytest.mark.parametrize("predicate", ["出生地", "作者", "发射地点", "launch site", "launch date"])
def test_many_questions_do_not_name_the_predicate(predicate: str) -> None:
    asked = many("X", predicate)
    silent = sum(count for question, count in asked.items() if predicate not in question.lower())
    assert 0.4 < silent / asked.total() < 0.85
    assert len(asked) > 50, "the wording varies"


def test_unknown_predicates_are_named() -> None:
    for predicate in ("量子玄关度", "flux quotient"):
        assert not paraphrases(predicate)
        assert not synonyms(predicate)
        assert all(predicate in question for question in many("某物", predicate, count=100))


@pytest.mark.parametrize(
    ("predicate", "kind"),
    [
        ("检修日期", "time"),
        ("集合地点", "place"),
        ("总监督人", "person"),
        ("海绵容量", "measure"),
        ("职工人数", "count"),
        ("停车费", "money"),
        ("承印单位", "organisation"),
        ("是否免费", "whether"),
        ("排水方式", "way"),
        ("玄学", "any"),
        ("harvest date", "time"),
        ("crash site", "place"),
        ("shoe maker", "person"),
        ("river", "any"),
        ("corner", "any"),
    ],
)
def test_kinds_by_cue(predicate: str, kind: str) -> None:
    assert kind_of(predicate) == kind


def test_synonyms_go_both_ways_and_leave_out_the_word_itself() -> None:
    assert "籍贯" in synonyms("出生地")
    assert "出生地" in synonyms("籍贯")
    assert "出生地" not in synonyms("出生地")
    assert "launch place" in synonyms("launch site")
    assert "竣工时间" in synonyms("竣工年份")
    assert "修订时间" in synonyms("修订日期"), "by rule"
    # Different things of one subject must not be taught to be the same.
    for one, other in [
        ("监制", "制片人"),
        ("董事长", "秘书长"),
        ("近日点", "远日点"),
        ("父亲", "母亲"),
        ("作词", "作曲"),
    ]:
        assert other not in synonyms(one)


@pytest.mark.parametrize("predicate", ["始建于", "又称", "named by"])
def test_predicates_that_need_a_sentence_get_one(predicate: str) -> None:
    asked = many("X", predicate)
    clumsy = sum(
        count for question, count in asked.items() if "的" + predicate in question or predicate + " of" in question
    )
    assert clumsy / asked.total() < 0.1


def test_lookup_forgives_spelling() -> None:
    assert normalise(" birthDate ") == normalise("birth_date") == "birth date"
    assert normalise("出生 日期") == "出生日期"
    assert synonyms("ＣＰＵ", language="zh") == synonyms("cpu", language="zh") != ()


def test_language_is_guessed_by_predicate_then_subject() -> None:
    assert "天问" in (question := synthesise("天问", "isbn", random.Random(1)))
    assert any("一" <= character <= "鿿" for character in question.replace("天问", ""))
    assert not any("一" <= character <= "鿿" for character in synthesise("Ulysses", "isbn", random.Random(1)))
    english = synthesise("北京", "population", random.Random(1))
    assert english.replace("北京", "").isascii()


@settings(deadline=None, max_examples=300)
@given(names, names, st.integers(0, 2**32 - 1), st.sampled_from(["zh", "en", None]))
def test_any_text_makes_a_question_with_the_subject_in_it(subject: str, predicate: str, seed: int, language) -> None:
    question = synthesise(subject, predicate, random.Random(seed), language=language)
    assert subject in question
    assert question == synthesise(subject, predicate, random.Random(seed), language=language)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(HAN_PREDICATES), st.integers(0, 2**32 - 1))
def test_no_place_is_left_open(predicate: str, seed: int) -> None:
    question = synthesise("天宫", predicate, random.Random(seed), language="zh")
    assert "{" not in question
    assert "天宫" in question


def test_braces_in_names_are_data() -> None:
    assert "{p}{s}" in synthesise("{p}{s}", "作者", random.Random(3))


@pytest.mark.parametrize(("subject", "predicate"), [("", "作者"), ("天问", " ")])
def test_empty_names_are_refused(subject: str, predicate: str) -> None:
    with pytest.raises(InputError, match="needs a subject and a predicate"):
        synthesise(subject, predicate, random.Random(0))


def test_numpy_generators_serve_as_well() -> None:
    assert "天问" in synthesise("天问", "作者", np.random.default_rng(0))


@pytest.mark.parametrize(
    ("language", "patterns", "families", "predicates"), [("zh", 40, 300, 600), ("en", 30, 80, 300)]
)
def test_breadth_of_the_tables(language, patterns: int, families: int, predicates: int) -> None:
    tables = load_patterns(language)
    assert sum(map(len, tables.patterns.values())) >= patterns
    assert len(tables.families) >= families
    assert len(tables.families_of) >= predicates
    for kind, _ in tables.cues:
        assert kind in tables.patterns


@pytest.mark.parametrize("language", ["zh", "en"])
def test_tables_are_clean(language) -> None:
    tables = load_patterns(language)
    for family in tables.families:
        assert family.names
        assert len(set(family.names)) == len(family.names), family.names
        assert len(set(family.questions)) == len(family.questions), family.questions
        for name in family.names:
            assert name == normalise(name), "names are written as they are looked up"
        for question in family.questions:
            assert question.count("{s}") == 1, question
            assert question[-1] not in "？?。.", "the punctuation is added around it"
    for question in (*tables.sentences, *(text for items in tables.patterns.values() for text in items)):
        assert question.count("{s}") == 1, question
        assert "{p}" in question
    assert all(wrapper.count("{q}") == 1 for wrapper, _ in tables.wrappers)
