"""Train a matcher: which predicate of many does a question ask for, told by the words of both.

Each step compares some questions with the predicates of all of them, with predicates that share a character or a word
with these, and with others drawn at random, of both languages; the loss is the cross-entropy of the right one.
Questions are drawn so that a predicate asked for n times counts like the square root of n. Every batch is a pure
function of (seed, index).

Post: 8802 (an addition of ours). Notation: B questions, m different predicates of a batch.
"""

from __future__ import annotations

import random
import shutil
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tianwen.ask.cold_start import ColdStart
from tianwen.ask.matcher import (
    GAP,
    LONGEST_PREDICATE,
    LONGEST_QUESTION,
    Matcher,
    WordMatcher,
    count_literal,
    known_predicates,
    padded,
    predicate_words,
    scripts_of,
    with_asked,
    without_subject,
)
from tianwen.ask.mixture import Invent
from tianwen.ask.questions import Question, read_questions
from tianwen.errors import InputError
from tianwen.optim.schedule import piecewise_linear
from tianwen.training.loop import fit
from tianwen.training.settings import FitSettings
from tianwen.words.lists import Words, spans_of, units_of
from tianwen.words.table import WordTable

ASKED_UNITS = 3
"""Longest run of units that may become a word of its own because many questions use it (哪家, 多少钱)."""

INVENTED = 10_000
"""Invented questions that are read for such words: in English there may be no others."""


@dataclass(frozen=True)
class MatcherSettings:
    """How to train a matcher: `asked` is how often a word must stand in the questions to learn a vector of its own;
    `near` and `others` are the wrong predicates of a step: for each right one, with a character or a word in common,
    and at random (and half as many of those that only invented questions ask for). `synthetic` and `english` as in
    `TrainAskSettings`."""

    steps: int = 3000
    batch: int = 64
    learning_rate: float = 2e-3
    synthetic: float = 0.35
    english: float = 0.5
    asked: int = 30
    near: int = 2
    others: int = 160
    dropout: float = 0.1
    seed: int = 0


def train_matcher(
    questions: Sequence[str | Path],
    table: WordTable,
    out: str | Path,
    *,
    settings: MatcherSettings | None = None,
    **fit_options: Any,
) -> Matcher:
    """Train a matcher on question files and a word table, and save it in the asker's folder `out`; returns it.

    Its run is in `out`/matcher_run, with what a stopped training goes on from; a finished one leaves its log there, so
    that the next begins anew. Raises InputError for unreadable files or questions without paths.
    """
    how = settings or MatcherSettings()
    read = [q for q in read_questions(questions) if q.text.strip() and q.subject.strip() and q.predicate.strip()]
    if not read:
        raise InputError("A matcher learns from questions with answers, and there is none in what was given.")
    cold, invented = None, []
    if how.synthetic:
        names = [(q.subject, q.sense) for q in read]
        cold = ColdStart(names, [q.predicate for q in read], english=how.english)
        chance = random.Random(f"words/{how.seed}")
        invented = [cold.question(chance) for _ in range(INVENTED)]
    asked_words, asked = _asked(table, [*read, *invented], how.asked)
    words = Words([*table.words, *asked_words])
    torch.manual_seed(how.seed)
    script = scripts_of([*table.words, *asked_words])
    model = WordMatcher(with_asked(table, asked_words), script, asked, dropout=how.dropout)
    invented_predicates = cold.english if cold and how.english else []
    of_invented = {"invent": cold and cold.question, "invented_predicates": invented_predicates}
    source = Comparisons(read, words, len(table.words), how, table=table.fingerprint, **of_invented)
    known = known_predicates(words, len(table.words), [*source.predicates, *(cold.usual if cold else ())])
    optimiser = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=0.01)
    run = Path(out) / "matcher_run"
    warmup = min(100, max(1, how.steps // 10))
    fit(
        model,
        matcher_loss,
        source,
        optimiser=optimiser,
        schedule=piecewise_linear({0: 0.0, warmup: 1.0, max(how.steps, warmup + 1): 0.01}),
        settings=FitSettings(steps=how.steps, seed=how.seed, **fit_options),
        folder=run,
    )
    matcher = Matcher(model, table, asked_words, known)
    matcher.save(Path(out))
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return matcher


def _asked(table: WordTable, questions: Sequence[Question], often: int) -> tuple[list[str], list[int]]:
    """Words that are frequent in questions: those that the table lacks, and the numbers of all."""
    count: Counter[str] = Counter()
    for question in questions:
        text = without_subject(question.text, question.subject)
        count.update(list(dict.fromkeys(word for part in text.split(GAP) for word in spans_of(part, ASKED_UNITS))))
    frequent = [word for word, times in count.items() if times >= often]
    held = set(table.words)
    added = [word for word in frequent if word not in held]
    place = {word: number for number, word in enumerate([*table.words, *added])}
    return added, sorted(place[word] for word in frequent)


class Comparisons:
    """The batches of `fit`: questions, predicates, and which is right."""

    def __init__(
        self,
        questions: Sequence[Question],
        words: Words,
        common: int,
        settings: MatcherSettings,
        *,
        invent: Invent | None = None,
        invented_predicates: Sequence[str] = (),
        table: str = "",
    ) -> None:
        """`invent` makes further questions, about `invented_predicates` too; `table` is the fingerprint of the words'
        vectors."""
        self.questions, self.words, self.common, self.settings = list(questions), words, common, settings
        self.invent, self.table = invent, table
        asked = Counter(told_alike(question.predicate) for question in self.questions)
        self.predicates, self.invented = list(asked), [told_alike(name) for name in invented_predicates]
        self.odds = list(accumulate(asked[told_alike(q.predicate)] ** -0.5 for q in self.questions))
        self.with_unit: dict[str, list[str]] = {}
        for predicate in dict.fromkeys([*self.predicates, *self.invented]):
            for unit in set(units_of(predicate)):
                self.with_unit.setdefault(unit, []).append(predicate)

    def describe(self) -> dict[str, Any]:
        """What decides the data, for the check at resume."""
        return {
            "kind": "matcher comparisons 2",
            "questions": len(self.questions),
            "words": len(self.words),
            "table": self.table,
            **asdict(self.settings),
        }

    def batch(self, index: int, rank: int, world: int) -> dict[str, Tensor] | None:
        """This process's share of batch `index`: question [B, Lq], predicate [m, Lp], unknown, literal, target."""
        chance = random.Random(f"{self.settings.seed}/{index}")
        drawn = [self._draw(chance) for _ in range(self.settings.batch)]
        right = list(dict.fromkeys(told_alike(question.predicate) for question in drawn))
        wrong = [self._near(predicate, chance) for predicate in right for _ in range(self.settings.near)]
        wrong += chance.choices(self.predicates, k=self.settings.others)
        if self.invented:
            wrong += chance.choices(self.invented, k=self.settings.others // 2)
        predicates = list(dict.fromkeys(right + wrong))
        mine = drawn[rank::world]
        return self._collated(mine, predicates) if mine else None

    def _draw(self, chance: random.Random) -> Question:
        if self.invent is not None and chance.random() < self.settings.synthetic:
            return self.invent(chance)
        return chance.choices(self.questions, cum_weights=self.odds)[0]

    def _near(self, predicate: str, chance: random.Random) -> str:
        """A predicate with a Han character or a word in common, mostly another one."""
        units = units_of(predicate)
        return chance.choice(self.with_unit.get(chance.choice(units), self.predicates) if units else self.predicates)

    def _collated(self, questions: Sequence[Question], predicates: Sequence[str]) -> dict[str, Tensor]:
        place = {predicate: column for column, predicate in enumerate(predicates)}
        texts = [without_subject(question.text, question.subject) for question in questions]
        read = [predicate_words(self.words, self.common, predicate) for predicate in predicates]
        unknown, literal = count_literal([units_of(text) for text in texts], [units for _, units in read])
        arrays = {
            "question": padded([self.words.inside(text) for text in texts], LONGEST_QUESTION),
            "predicate": padded([known for known, _ in read], LONGEST_PREDICATE),
            "unknown": unknown,
            "literal": literal,
            "target": np.array([place[told_alike(question.predicate)] for question in questions], np.int64),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def told_alike(predicate: str) -> str:
    """Equal for predicates that differ in case, width or the length of a gap; gaps stay, for they part words."""
    return " ".join(unicodedata.normalize("NFKC", predicate).lower().split())


def matcher_loss(model: WordMatcher, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy of the right predicate among all of the batch, and how often it is the best."""
    scores = model(batch["question"], batch["predicate"], batch["unknown"], batch["literal"])  # [B, m]
    right = (scores.argmax(-1) == batch["target"]).float().mean()
    return F.cross_entropy(scores, batch["target"]), {"weight": float(len(scores)), "accuracy": float(right)}
