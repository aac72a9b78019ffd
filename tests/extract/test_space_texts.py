"""The made texts: every offset right, every predicate typed, every template used, repeatable."""

import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tianwen.extract.annotation import Annotation
from tianwen.extract.data_check import check_data
from tianwen.extract.schema import infer_schema
from tianwen.extract.space_texts import KINDS, TYPE_OF, chosen, grammar, known_facts, made_up, places, texts


@pytest.fixture(scope="module")
def made() -> list[Annotation]:
    return list(texts(1500))


def test_labels_are_sound_and_texts_differ(made: list[Annotation]) -> None:
    assert check_data(made, infer_schema(made)).ok
    assert len({one.text for one in made}) > 1400
    assert made[:50] == list(texts(50))
    assert made[:50] != list(texts(50, seed=1))
    for one in made:
        assert not re.search(r"[{}\[\]|<>]", one.text), one.text
        for relation in one.relations:
            assert relation.subject in one.entities
            assert relation.object in one.entities


def test_every_predicate_is_told_and_can_be_made_up(made: list[Annotation]) -> None:
    predicates = {name for kind in KINDS for text in grammar()[kind] for name in places(text)}
    assert predicates >= TYPE_OF.keys()
    assert all(made_up(predicate, Random(seed)) for predicate in predicates for seed in range(20))
    seen = Counter(relation.predicate for one in made for relation in one.relations)
    assert predicates == seen.keys()
    rules = {name for expansions in grammar().values() for text in expansions for name in places(text)}
    assert not rules - grammar().keys() - {name for facts in known_facts().values() for name in facts} - predicates


def test_known_subjects_keep_their_facts(made: list[Annotation]) -> None:
    facts = known_facts()
    first = [one.triples()[0] for one in made if one.relations]  # what is told later may be one too many
    both = [triple for triple in first if triple[1] in facts.get(triple[0], {})]
    assert len(both) > 300
    right = [object in facts[subject][predicate] for subject, predicate, object in both]
    assert sum(right) > 0.85 * len(right)  # made-up names may be those of known things


def test_choices_and_numbers() -> None:
    found = {chosen("[a|b]<3-5>米<0.3-0.5>", Random(seed)) for seed in range(200)}
    assert {re.sub(r"\d", "", one) for one in found} == {"a米.", "b米."}
    assert all(3 <= int(one[1]) <= 5 and re.fullmatch(r".\d米0\.[345]", one) for one in found)


def test_the_page_of_the_example_is_not_among_the_texts(made: list[Annotation]) -> None:
    page = Path(__file__).parents[2] / "examples" / "0229_ares.txt"
    patterns = [_pattern(text) for kind in KINDS for text in grammar()[kind]]
    for sentence in re.split(r"(?<=。)|\n", page.read_text(encoding="utf-8")):
        assert not any(pattern.fullmatch(sentence.strip()) for pattern in patterns), sentence
    assert not {"战神I-X", "战神1-X"} & known_facts().keys()


def _pattern(template: str) -> re.Pattern[str]:
    """The sentences that a template can give, with any names and numbers at its places."""
    choices = re.sub(r"\[([^\]]*)\]", r"(?:\1)", template)
    return re.compile(re.sub(r"\{[^}]*\}", "[^，；。在是的]+?", choices))
