"""The demonstration knowledge base is well formed, large enough and holds the answer to each of its questions."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from pathlib import Path

import pytest

import tianwen

FOLDER = Path(tianwen.__file__).parent / "demo"
HEADER = ["subject", "predicate", "object", "source"]
LANGUAGES = ("zh", "en")


def read_rows(language: str) -> list[list[str]]:
    lines = (FOLDER / f"spaceflight.{language}.tsv").read_text(encoding="utf-8").split("\n")
    assert lines[-1] == "", "the file ends with a newline"
    return [line.split("\t") for line in lines[:-1]]


def read_questions(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def objects_of() -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for language in LANGUAGES:
        for subject, predicate, value, _ in read_rows(language)[1:]:
            found[subject, predicate].append(value)
    return found


@pytest.mark.parametrize("language", LANGUAGES)
def test_rows_are_well_formed(language: str) -> None:
    header, *rows = read_rows(language)
    assert header == HEADER
    for row in rows:
        assert len(row) == 4, row
        for field in row:
            assert field, row
            assert field == field.strip(), row
            assert field == unicodedata.normalize("NFC", field), row
            assert not any(unicodedata.category(character) == "Cc" for character in field), row
        assert "http" not in row[3], "a source is the name of a reference, not an address"


@pytest.mark.parametrize("language", LANGUAGES)
def test_senses_stand_in_a_trailing_full_width_bracket(language: str) -> None:
    for subject, *_ in read_rows(language)[1:]:
        assert "(" not in subject, subject
        if "（" in subject or "）" in subject:
            assert re.fullmatch(r"[^（）]+（[^（）]+）", subject), subject


def test_no_fact_is_given_twice(objects_of: dict[tuple[str, str], list[str]]) -> None:
    for key, objects in objects_of.items():
        assert len(objects) == len(set(objects)), key


def test_size_and_share_of_the_languages() -> None:
    chinese, english = (len(read_rows(language)) - 1 for language in LANGUAGES)
    assert chinese + english >= 400
    assert 0.5 <= chinese / (chinese + english) <= 0.7


def test_ambiguous_names_and_several_objects(objects_of: dict[tuple[str, str], list[str]]) -> None:
    senses: dict[str, set[str]] = defaultdict(set)
    for subject, _ in objects_of:
        name, _, sense = subject.partition("（")
        senses[name].add(sense)
    assert sum(len(found) > 1 for found in senses.values()) >= 10
    assert sum(len(objects) > 1 for objects in objects_of.values()) >= 15


def test_claims_of_a_report_keep_their_source() -> None:
    claims = {row[2]: row[3] for language in LANGUAGES for row in read_rows(language) if "I-X" in row[0]}
    for claim in ("史上动力最强的火箭", "the most powerful rocket in history"):
        assert claims[claim].startswith("Scientific Spaces 229")


@pytest.mark.parametrize(
    ("name", "least"), [("questions.jsonl", 10), ("more_questions.zh.jsonl", 45), ("more_questions.en.jsonl", 80)]
)
def test_every_question_has_its_answer(name: str, least: int, objects_of: dict[tuple[str, str], list[str]]) -> None:
    questions = read_questions(name)
    assert len(questions) >= least
    assert len({item["question"] for item in questions}) == len(questions)
    for item in questions:
        assert set(item) == {"question", "subject", "predicate", "answer"}
        assert objects_of[item["subject"], item["predicate"]] == item["answer"], item


def test_demo_begins_with_the_launch_of_ares() -> None:
    questions = read_questions("questions.jsonl")
    assert len(questions) == 10
    assert questions[0]["question"] == "战神I-X在哪里发射？"
    assert questions[0]["answer"] == ["肯尼迪航天中心"]
    repeated = sum(item["predicate"] in item["question"] for item in questions)
    assert repeated <= 3, "most of the questions paraphrase the predicate"
