"""Ways to ask for a predicate without naming it: a table of synonyms and question templates.

Post: 8802 (the predicate is the hard part: it stands literally in about half of KgCLUE's questions).

The table is tab separated: predicate, synonyms, templates. The latter two are lists with `|`; {s} is the subject.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tianwen.ask.metrics import normalised
from tianwen.ask.patterns import synthesise
from tianwen.errors import InputError

BUNDLED = Path(__file__).with_name("paraphrases.zh.tsv")


@dataclass(frozen=True)
class Paraphrase:
    """What is known about a predicate: other names for it, and questions that ask for it."""

    predicate: str
    synonyms: tuple[str, ...] = ()
    templates: tuple[str, ...] = field(default=())


def read_paraphrases(path: Path = BUNDLED) -> dict[str, Paraphrase]:
    """The table by normalised predicate. Raises InputError that names the line of a bad template."""
    table = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        predicate, synonyms, templates = [*line.split("\t"), "", ""][:3]
        parts = tuple(template for template in templates.split("|") if template)
        if any(template.count("{s}") != 1 for template in parts):
            raise InputError(f"{path}, line {number}: each template needs {{s}} once, for the subject: {templates}")
        other = tuple(name for name in synonyms.split("|") if name)
        table[normalised(predicate)] = Paraphrase(predicate, other, parts)
    return table


def ask_in_other_words(subject: str, paraphrase: Paraphrase, chance: random.Random) -> tuple[str, str]:
    """A question about the subject, and the predicate that answers it: the entry's own name, or a synonym."""
    names = (paraphrase.predicate, *paraphrase.synonyms)
    answered = paraphrase.predicate if chance.random() < 0.7 else chance.choice(names)
    if paraphrase.templates and (chance.random() < 0.75 or not paraphrase.synonyms):
        return chance.choice(paraphrase.templates).replace("{s}", subject), answered
    return synthesise(subject, chance.choice(names), chance), answered


def predicates_of(table: Iterable[Paraphrase]) -> list[str]:
    """All predicates and synonyms of a table, each once, in order."""
    return list(dict.fromkeys(name for entry in table for name in (entry.predicate, *entry.synonyms)))
