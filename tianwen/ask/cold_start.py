"""Questions made up about names and predicates: the cold start of a knowledge base that has none of its own.

Post: 8802. Two tables stand behind it: the patterns (how people ask, families of predicates that mean the same, in
Chinese and English) and the paraphrases (questions in other words for thousands of predicates). A predicate of the
knowledge base is asked for by its own name, by a synonym, or in other words; names that are drawn teach copying.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from tianwen.ask.metrics import normalised
from tianwen.ask.paraphrases import Paraphrase, ask_in_other_words, predicates_of, read_paraphrases
from tianwen.ask.patterns import Family, load_patterns, synonyms, synthesise
from tianwen.ask.questions import Question

Name = tuple[str, str]
"""(subject, sense)."""

_HAN = re.compile("[\u3400-\u9fff]")

FROM_TABLES = 3 / 7
"""Share of the Chinese predicates that come from the tables; the others are the given ones."""

USUAL = 200
"""The English table begins with the families that were written by hand, for tables of all kinds and of spaceflight; so
many of them make `ColdStart.usual`."""


class ColdStart:
    """Draws questions with their paths. `names` and `predicates` are those of a knowledge base or of question files."""

    def __init__(
        self, names: Sequence[Name], predicates: Sequence[str], *, only_own: bool = False, english: float = 0.3
    ) -> None:
        """`only_own` draws no predicate outside `predicates`: for one knowledge base, not for a model for all.

        `english` is the share of questions from the English tables.
        """
        self.english_share = english
        self.names = list(names)
        self.predicates = list(predicates)
        self.only_own = only_own
        self.table = read_paraphrases()
        if only_own:  # a name that is another predicate of this knowledge base does not ask for this one
            own = {normalised(predicate) for predicate in predicates}
            self.table = {name: _without(entry, own) for name, entry in self.table.items()}
        families = [name for family in load_patterns("zh").families for name in family.names]
        self.listed = list(dict.fromkeys(predicates_of(self.table.values()) + families))
        english_families = load_patterns("en").families
        self.english = [name for family in english_families for name in family.names]
        self.usual = _one_name_each(english_families[:USUAL])
        latin = [name for name in self.names if not _HAN.search(name[0])]
        self.latin = latin or [("Ares I-X", "")]
        self.words = list(dict.fromkeys(word for subject, _ in self.latin for word in subject.split()))
        self.spoken = sorted({word for name in self.english for word in name.split() if len(word) > 2})

    def question(self, chance: random.Random) -> Question:
        """One question and the path that answers it."""
        (subject, sense), predicate = self.path(chance)
        text, predicate = self.ask(subject, predicate, chance)
        return Question(text, subject, predicate, sense)

    def path(self, chance: random.Random) -> tuple[Name, str]:
        """A name and a predicate, of the same language where that is ours to choose."""
        if not self.only_own and chance.random() < self.english_share:
            return self._english_name(chance), chance.choice(self.english)
        listed = not self.only_own and chance.random() < FROM_TABLES
        return chance.choice(self.names), chance.choice(self.listed if listed else self.predicates)

    def _english_name(self, chance: random.Random) -> Name:
        """A Latin name as given, or a new one: question files that are Chinese hold few."""
        subject, sense = chance.choice(self.latin)
        if chance.random() < 0.7:
            subject = english_name(self.words, self.spoken, chance)
        return subject, sense

    def ask(self, subject: str, predicate: str, chance: random.Random) -> tuple[str, str]:
        """A question for one fact, and the predicate that answers it (perhaps a synonym, unless `only_own`)."""
        known: Paraphrase | None = self.table.get(normalised(predicate))
        if known is not None and chance.random() < 0.5:
            text, answer = ask_in_other_words(subject, known, chance)
            return text, predicate if self.only_own else answer
        others = () if self.only_own else synonyms(predicate)
        asked = predicate if not others or chance.random() < 0.75 else chance.choice(others)
        return synthesise(subject, asked, chance), predicate


_SYLLABLES = (
    *("al", "an", "ar", "bel", "cor", "da", "del", "dor", "el", "en", "far", "gan", "hal", "in", "ka", "kor", "lan"),
    *("lo", "mar", "mi", "na", "nor", "o", "pel", "ra", "ri", "ros", "sa", "sel", "ta", "tor", "u", "val", "vi"),
)
_NUMBERS = (" 1", " 2", " 3", " 7", " 9", " 11", " 2020", " I", " II", " III", " IV", " X", "-1", "-2", "-A", "-X")
_LETTERS = "ABCDEFGHIJKLMNPRSTVWXZ"


def _one_name_each(families: Sequence[Family]) -> list[str]:
    """The first name of each family that no earlier one has among its names."""
    names, told = [], set()
    for family in families:
        if family.names[0] not in told:
            names.append(family.names[0])
        told.update(family.names)
    return names


def english_name(words: Sequence[str], spoken: Sequence[str], chance: random.Random) -> str:
    """A name that might be one: Apollo 11, Marvanta, Silver Bridge, J. Korsel, T-17; of words or of syllables."""
    kind = chance.random()
    if kind < 0.08:
        return f"{chance.choice(_LETTERS)}. {_word(words, spoken, chance)}"
    if kind < 0.14:
        letters = "".join(chance.choice(_LETTERS) for _ in range(chance.choice((1, 2, 3))))
        return f"{letters}-{chance.randint(1, 999)}"
    name = " ".join(_word(words, spoken, chance) for _ in range(chance.choice((1, 1, 2, 2, 3))))
    return name + chance.choice(_NUMBERS) if chance.random() < 0.4 else name


def _word(words: Sequence[str], spoken: Sequence[str], chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.35:
        return chance.choice(words)
    if kind < 0.65:
        return chance.choice(spoken).capitalize()
    return "".join(chance.choice(_SYLLABLES) for _ in range(chance.choice((2, 2, 3)))).capitalize()


def _without(entry: Paraphrase, names: set[str]) -> Paraphrase:
    """The paraphrase without those synonyms."""
    return replace(entry, synonyms=tuple(name for name in entry.synonyms if normalised(name) not in names))
