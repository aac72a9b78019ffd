"""The table of other words for predicates: every line of the bundled one is sound, and broken ones are named."""

from __future__ import annotations

import random

import pytest

from tianwen.ask.metrics import normalised
from tianwen.ask.paraphrases import BUNDLED, Paraphrase, ask_in_other_words, predicates_of, read_paraphrases
from tianwen.errors import InputError


@pytest.fixture(scope="module")
def table():
    return read_paraphrases()


def test_the_bundled_table_is_sound(table):
    assert len(table) > 2000
    lines = [line for line in BUNDLED.read_text(encoding="utf-8").split("\n") if line]
    assert len(lines) == len(table), "no predicate twice"
    assert all(len(line.split("\t")) <= 3 for line in lines)
    for key, entry in table.items():
        assert key == normalised(entry.predicate)
        assert key, "no predicate is empty"
        assert entry.synonyms or entry.templates, f"{entry.predicate}: a line that says nothing"
        assert all(name == name.strip() and "{" not in name for name in entry.synonyms)
        assert all(template.replace("{s}", "", 1).strip() and "{}" not in template for template in entry.templates)


def test_predicates_are_found_whatever_their_case_and_spacing(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_text("Ｆull Name\t全名|本名\t{s}叫什么|{s}的全名\n导演\n\n", encoding="utf-8")
    table = read_paraphrases(path)
    assert table == {
        "fullname": Paraphrase("Ｆull Name", ("全名", "本名"), ("{s}叫什么", "{s}的全名")),
        "导演": Paraphrase("导演"),
    }
    assert predicates_of(table.values()) == ["Ｆull Name", "全名", "本名", "导演"]


@pytest.mark.parametrize("template", ["谁导演的", "{s}和{s}", "{}的导演", "{S}的导演"])
def test_a_template_without_its_subject_is_named_by_line(tmp_path, template):
    path = tmp_path / "p.tsv"
    path.write_text(f"作者\t\t谁写了{{s}}\n导演\t\t{{s}}谁导的|{template}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"p\.tsv, line 2: .*\{s\} once"):
        read_paraphrases(path)


NASTY_SUBJECTS = ["白蛇", "{s}", "{}", "a|b", "\\1", "%s", "$&"]


@pytest.mark.parametrize("subject", NASTY_SUBJECTS)
def test_the_subject_stands_in_every_question(subject):
    entry = Paraphrase("导演", ("执导者", "编导"), ("谁导演了{s}？", "{s}是谁拍的"))
    chance, asked = random.Random(1), set()
    for _ in range(300):
        text, answered = ask_in_other_words(subject, entry, chance)
        assert subject in text
        assert answered in {"导演", "执导者", "编导"}
        asked.add((text, answered))
    assert {answered for _, answered in asked} == {"导演", "执导者", "编导"}
    assert {text for text, _ in asked} > {"谁导演了{s}？".replace("{s}", subject)}


def test_without_templates_or_synonyms_the_predicate_itself_is_asked_for():
    chance = random.Random(1)
    for _ in range(30):
        text, answered = ask_in_other_words("白蛇", Paraphrase("瓦塔里数"), chance)
        assert (answered, "瓦塔里数" in text) == ("瓦塔里数", True)
    texts = {ask_in_other_words("白蛇", Paraphrase("出品人", (), ("谁投钱拍{s}",)), chance)[0] for _ in range(30)}
    assert texts == {"谁投钱拍白蛇"}
