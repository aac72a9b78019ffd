"""Make stated probabilities true: fit the temperature and the weight of the evidence on questions with known answers.

Post: 8802 (what readers ask for: "don't know" when unsure). Guo et al., On Calibration of Modern Neural Networks, 2017.

Every question is seen three times: as it is; as if the knowledge base lacked its predicate (the right answers are taken
out of the candidates); as if it lacked its subject. The first answer is then right or wrong, and its probability

    p = softmax(score / T)[best] * sigmoid(b + w_s log p(S | Q) + w_p log p(P | S, Q) + w_f fit(Q, P))

is fitted to that by maximum likelihood over T, b, w_s, w_p, w_f (`fit`: see `matcher`; 0 without one). The questions as
they are weigh most: a knowledge base is mostly asked what it knows, and there the probabilities shall be true; the
others show what a missing answer looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tianwen.ask.asker import Asker, AskOptions
from tianwen.ask.evaluation import can_be_asked
from tianwen.ask.metrics import calibration_error, normalised
from tianwen.ask.model_files import FAINTEST, AskerSettings, replace_settings
from tianwen.ask.questions import Question
from tianwen.errors import InputError

if TYPE_CHECKING:
    from tianwen.ask.knowledge_base import KnowledgeBase
    from tianwen.ask.snapshot import Snapshot


MISSING = 0.05
"""Weight of a view of a question whose answer was taken out."""


@dataclass(frozen=True)
class Scored:
    """One question's candidates: score, subject, predicate [m] (log-probabilities), which are right [m]; its weight.

    `fit` is the matcher's evidence for the best of them.
    """

    score: np.ndarray
    subject: np.ndarray
    predicate: np.ndarray
    right: np.ndarray
    fit: float
    weight: float


def calibrate(
    asker: Asker,
    kb: KnowledgeBase,
    questions: Sequence[Question],
    *,
    options: AskOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[AskerSettings, dict[str, float]]:
    """The asker's settings with fitted temperature and evidence, and the calibration error before and after.

    Raises InputError when there is nothing to fit to: no question that can be asked, or no facts.
    """
    rows: list[Scored] = []
    snapshot = kb.snapshot()
    questions = [question for question in questions if can_be_asked(asker, question.text)] if len(snapshot) else []
    for scored in scored_views(asker, snapshot, questions, options or AskOptions()):
        rows.extend(scored)
        if progress is not None:
            progress(len(rows) // 3, len(questions))
    rows = [row for row in rows if len(row.score)]
    if not rows:
        raise InputError(
            "Probabilities are fitted to answers: give questions that can be asked, and a base with facts."
        )
    settings = fitted(rows, asker.settings)
    before, after = (
        _error([row for row in rows if row.weight == 1], s)
        for s in (replace(asker.settings, evidence=None, temperature=1.0), settings)
    )
    return settings, {"calibration_error_before": before, "calibration_error_after": after}


def calibrated_in_place(
    asker: Asker,
    folder: Path,
    kb: KnowledgeBase,
    questions: Sequence[Question],
    *,
    options: AskOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Asker:
    """Fit the asker's probabilities, and write its settings into its folder; the weights stay as they are stored."""
    settings, _ = calibrate(asker, kb, questions, options=options, progress=progress)
    replace_settings(folder, settings)
    return Asker(asker.model, asker.tokenizer, settings, matcher=asker.matcher)


def scored_views(
    asker: Asker, snapshot: Snapshot, questions: Sequence[Question], how: AskOptions, *, batch: int = 32
) -> Iterator[list[Scored]]:
    """Three views of each question of a batch."""
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        with torch.inference_mode():
            _, found = asker.candidates([asker.question_ids(question.text) for question in part], snapshot, how)
        views = []
        for row, question in enumerate(part):
            mine = np.flatnonzero(found.owner == row)
            facts = [snapshot.facts(found.state[i])[0] for i in mine]
            wanted = {normalised(text) for text in question.objects}
            right = np.array([normalised(fact.object) in wanted for fact in facts], bool)
            named = np.array([normalised(fact.subject) == normalised(question.subject) for fact in facts], bool)
            asked = np.array([normalised(fact.predicate) == normalised(question.predicate) for fact in facts], bool)
            nothing = np.zeros(len(mine), bool)
            for gone, weight in ((nothing, 1.0), (right | (named & asked), MISSING), (named, MISSING)):
                left = mine[~gone]
                fit = 0.0
                if len(left):
                    best = facts[int(np.flatnonzero(~gone)[found.score[left].argmax()])]
                    fit = asker.fit(question.text, best.subject, best.predicate)
                parts = found.score[left], found.subject[left], found.predicate[left], right[~gone]
                views.append(Scored(*parts, fit, weight))
        yield views


def fitted(rows: Sequence[Scored], settings: AskerSettings) -> AskerSettings:
    """Maximum likelihood over log T, b, w_s, w_p, w_f by gradient descent; no weight of evidence is negative."""
    width = max(len(row.score) for row in rows)
    scores = torch.full((len(rows), width), -1e9, dtype=torch.float64)
    for i, row in enumerate(rows):
        scores[i, : len(row.score)] = torch.from_numpy(row.score - row.score.max())
    best = [int(row.score.argmax()) for row in rows]
    found = [(row.subject[i], row.predicate[i], row.fit) for row, i in zip(rows, best, strict=True)]
    evidence = torch.tensor(np.array(found), dtype=torch.float64).clamp(min=FAINTEST)  # [rows, 3]
    right = torch.tensor([float(row.right[i]) for row, i in zip(rows, best, strict=True)], dtype=torch.float64)
    weight = torch.tensor([row.weight for row in rows], dtype=torch.float64)
    parameters = torch.tensor([0.0, 2.0, 0.3, 0.3, 0.3], dtype=torch.float64, requires_grad=True)

    def negative_log_likelihood() -> torch.Tensor:
        share = torch.log_softmax(scores / parameters[0].exp(), dim=-1).max(dim=-1).values
        logit = parameters[1] + evidence @ parameters[2:].clamp(min=0)
        log_p = (share + torch.nn.functional.logsigmoid(logit)).clamp(min=-30)
        log_q = torch.log1p(-log_p.exp().clamp(max=1 - 1e-9))
        return -(weight * (right * log_p + (1 - right) * log_q)).sum() / weight.sum()

    optimiser = torch.optim.Adam([parameters], lr=0.03)  # five numbers: plain steps are quick, and safe on flat ground
    for _ in range(600):
        optimiser.zero_grad()
        negative_log_likelihood().backward()
        optimiser.step()
    log_temperature, bias, *weights = parameters.detach().tolist()
    of_subject, of_predicate, of_fit = (max(0.0, one) for one in weights)
    if all(row.fit == 0 for row in rows):
        of_fit = 0.0  # nothing was learnt of it
    evidence_weights = (bias, of_subject, of_predicate, of_fit)
    return replace(settings, temperature=float(np.exp(log_temperature)), evidence=evidence_weights)


def _error(rows: Sequence[Scored], settings: AskerSettings) -> float:
    probability, right = [], []
    for row in rows:
        p = settings.calibrated(row.score, row.subject, row.predicate, row.fit)
        probability.append(float(p.max()))
        right.append(bool(row.right[int(p.argmax())]))
    return calibration_error(probability, right)
