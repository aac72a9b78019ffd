"""Training examples for the asker: real questions, the same with names swapped, synthetic ones, and the prior.

Post: 8802 (only positive pairs are needed: everything else in the tree is an implicit negative). What is added to it:
    swap       another subject takes the place of the one in the question, so that names are copied, not learnt
    synthetic  a question made from a fact by patterns and paraphrases (cold start; words that mean the same predicate)
    prior      the subject alone as question: teaches p(P, M | S), which scoring subtracts

Every batch is a pure function of (seed, index): training resumes bit for bit without remembering where it was.

Notation: B examples, S longest source, T longest source + target, y target tokens of all examples.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tianwen.ask.questions import Question
from tianwen.ask.seq2seq import AskModel
from tianwen.errors import InputError
from tianwen.text import Tokenizer

Invent = Callable[[random.Random], Question]
"""Makes up a question, from nothing but random numbers (see `cold_start`)."""

Example = tuple[np.ndarray, np.ndarray]
"""Token ids of source ([CLS] Q [SEP]) and target (S [SEP] P [SEP] M [SEP])."""


@dataclass(frozen=True)
class MixtureSettings:
    """Shares of the kinds of examples, and the sizes of batches and of the texts in them."""

    prior: float = 0.1
    synthetic: float = 0.3
    swap: float = 0.3  # of the real questions
    batch: int = 64
    pool: int = 8  # batches that are sorted by length together
    longest_source: int = 64
    longest_field: int = 40
    order: Literal["spm", "smp"] = "spm"  # S, P, M or S, M, P: the post measured 8 to 10 points between them
    seed: int = 0


class Mixture:
    """The batches of `fit`: see the module. `invent` makes the synthetic questions, if there are to be any."""

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: Tokenizer,
        settings: MixtureSettings,
        *,
        invent: Invent | None = None,
    ) -> None:
        if not questions and invent is None:
            raise InputError("There is nothing to learn from: give questions, or a knowledge base to make them from.")
        self.questions, self.tokenizer, self.settings = list(questions), tokenizer, settings
        self.invent = invent
        self._pool = lru_cache(maxsize=2)(self._make_pool)

    def describe(self) -> dict[str, Any]:
        """What decides the data, for the check at resume."""
        return {
            "kind": "asker mixture",
            "questions": len(self.questions),
            **asdict(self.settings),
            "tokenizer": self.tokenizer.fingerprint,
        }

    def batch(self, index: int, rank: int, world: int) -> dict[str, Tensor] | None:
        """This process's share of batch `index`."""
        pool, place = divmod(index, self.settings.pool)
        examples = self._pool(pool)[place][rank::world]
        return collate(examples) if examples else None

    def _make_pool(self, pool: int) -> list[list[Example]]:
        """`pool` batches, each of examples of about the same length, in random order."""
        chance = random.Random(f"{self.settings.seed}/{pool}")
        size = self.settings.batch
        examples = [self.encoded(self.draw(chance)) for _ in range(size * self.settings.pool)]
        examples.sort(key=lambda example: len(example[0]) + len(example[1]))
        batches = [examples[start : start + size] for start in range(0, len(examples), size)]
        chance.shuffle(batches)
        return batches

    def draw(self, chance: random.Random) -> Question:
        """One example as text."""
        kind, settings = chance.random(), self.settings
        question = self._real_or_invented(chance)
        if kind < settings.prior:
            return Question(question.subject, question.subject, question.predicate, question.sense)
        return question

    def _real_or_invented(self, chance: random.Random) -> Question:
        if self.invent is not None and (not self.questions or chance.random() < self.settings.synthetic):
            return self.invent(chance)
        question = chance.choice(self.questions)
        if chance.random() < self.settings.swap and question.subject and question.subject in question.text:
            other = chance.choice(self.questions)
            text = question.text.replace(question.subject, other.subject)
            return Question(text, other.subject, question.predicate, other.sense)
        return question

    def encoded(self, question: Question) -> Example:
        """Token ids of source and target, cut to the longest lengths."""
        special, longest = self.tokenizer, self.settings.longest_field
        source = self.tokenizer.ids(question.text)[: self.settings.longest_source - 2]
        texts = (question.subject, question.predicate, question.sense)
        if self.settings.order == "smp":
            texts = (question.subject, question.sense, question.predicate)
        fields = [self.tokenizer.ids(text)[:longest] for text in texts]
        end = np.array([special.sep_id])
        target = np.concatenate([part for tokens in fields for part in (tokens, end)])
        return np.concatenate([[special.cls_id], source, end]).astype(np.int64), target.astype(np.int64)


def collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    """One padded batch with the UniLM mask: ids, before, segments, positions, mask, source, and the target's places."""
    batch = len(examples)
    total = max(len(source) + len(target) for source, target in examples) - 1
    ids, segments = np.zeros((batch, total), np.int64), np.zeros((batch, total), np.int64)
    present = np.zeros((batch, total), bool)
    source_ids = np.full((batch, max(len(source) for source, _ in examples)), -1, np.int64)
    places, owners = [], []
    for row, (source, target) in enumerate(examples):
        length = len(source) + len(target) - 1
        ids[row, :length] = np.concatenate([source, target[:-1]])
        segments[row, len(source) : length] = 1
        present[row, :length] = True
        source_ids[row, : len(source)] = source
        places.append(row * total + np.arange(len(source) - 1, length))
        owners.append(np.full(len(target), row, np.int64))
    order = np.cumsum(segments, axis=1)  # UniLM: j is visible to i iff order[j] <= order[i]
    mask = (order[:, None, :] <= order[:, :, None]) & present[:, None, :]
    mask |= np.eye(total, dtype=bool)  # padding sees itself, so that no row of the softmax is empty
    before = np.full((batch, total, 2), -1, np.int64)
    before[:, 1:, 0], before[:, 2:, 1] = ids[:, :-1], ids[:, :-2]
    arrays = {
        "ids": ids,
        "before": before,
        "segments": segments,
        "mask": mask,
        "source": source_ids,
        "place": np.concatenate(places),
        "owner": np.concatenate(owners),
        "target": np.concatenate([target for _, target in examples]),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def ask_loss(model: AskModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy over all target tokens: -log p(y_t | source, y_<t)."""
    length = batch["ids"].shape[1]
    positions = torch.arange(length, device=batch["ids"].device).expand_as(batch["ids"])
    hidden, _ = model.hidden(
        batch["ids"],
        before=batch["before"],
        segments=batch["segments"],
        positions=positions,
        mask=batch["mask"][:, None],
    )
    states = hidden.flatten(0, 1)[batch["place"]]  # [y, width]
    target = batch["target"]
    rows = torch.arange(len(target), device=target.device)
    keys = model.copy_key(hidden[:, : batch["source"].shape[1]])
    log_p = model.log_probabilities(states, keys, batch["source"], batch["owner"], target, rows)
    return -log_p.mean(), {"weight": float(len(target)), "tokens": float(batch["ids"].numel())}
