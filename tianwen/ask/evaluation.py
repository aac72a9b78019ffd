"""Measure an asker on questions with known answers, as KgCLUE does, and more.

Post: 8802. Every number is over all questions; a question that cannot be asked counts as wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tianwen.ask.asker import Answer, Asker, AskOptions, Trace
from tianwen.ask.metrics import calibration_error, f1, normalised
from tianwen.ask.questions import Question
from tianwen.errors import InputError

if TYPE_CHECKING:
    from tianwen.ask.knowledge_base import KnowledgeBase
    from tianwen.ask.snapshot import Snapshot

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

Progress = Callable[[int, int], None]


def evaluate_ask(
    asker: Asker,
    kb: KnowledgeBase,
    questions: Sequence[Question],
    *,
    options: AskOptions | None = None,
    batch: int = 32,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Ask all questions and compare: the numbers that `tianwen eval ask --json` prints.

    em, f1, score (mean of both; percent), subject_accuracy, predicate_accuracy (percent), in_knowledge_base (share of
    answers that are live facts), calibration_error, questions_per_second, model_calls_per_question, answered (percent
    above the threshold), em_answered (percent right of those), and `thresholds`: what other thresholds would give.
    """
    how = replace(options or AskOptions(), top=1)
    trace, answers, start = Trace(), [], time.perf_counter()
    texts = [question.text for question in questions]
    snapshot = kb.snapshot()
    askable = [can_be_asked(asker, text) for text in texts]
    asked = [text for text, can in zip(texts, askable, strict=True) if can]
    found = asker.answers(asked, snapshot, how, batch=batch, trace=trace)
    for can in askable:
        answer = next(found) if can else []
        answers.append(answer[0] if answer else None)
        if progress is not None:
            progress(len(answers), len(texts))
    seconds = time.perf_counter() - start
    return _numbers(questions, answers) | {
        "in_knowledge_base": _share([_exists(snapshot, answer) for answer in answers if answer is not None]),
        "questions_per_second": len(texts) / seconds if seconds else 0.0,
        "model_calls_per_question": trace.model_calls / max(1, trace.questions),
    }


def can_be_asked(asker: Asker, text: str) -> bool:
    """Whether the asker reads this question: it is not empty and not too long."""
    try:
        asker.question_ids(text)
    except InputError:
        return False
    return True


def _numbers(questions: Sequence[Question], answers: Sequence[Answer | None]) -> dict[str, Any]:
    exact, partial, subject, predicate = [], [], [], []
    for question, answer in zip(questions, answers, strict=True):
        given = answer.objects if answer is not None else []
        exact.append(any(normalised(a) == normalised(b) for a in given[:1] for b in question.objects))
        pairs = [f1(normalised(a), normalised(b)) for a in given[:1] for b in question.objects]
        partial.append(max(pairs, default=0.0))
        subject.append(answer is not None and normalised(answer.subject) == normalised(question.subject))
        predicate.append(answer is not None and normalised(answer.predicate) == normalised(question.predicate))
    probability = [answer.probability if answer is not None else 0.0 for answer in answers]
    known = [answer is not None and answer.known for answer in answers]
    em, mean_f1 = 100 * _share(exact), 100 * float(np.mean(partial)) if partial else 0.0
    return {
        "questions": len(questions),
        "em": em,
        "f1": mean_f1,
        "score": (em + mean_f1) / 2,
        "subject_accuracy": 100 * _share(subject),
        "predicate_accuracy": 100 * _share(predicate),
        "calibration_error": calibration_error(probability, exact),
        "answered": 100 * _share(known),
        "em_answered": 100 * _share([right for right, is_known in zip(exact, known, strict=True) if is_known]),
        "thresholds": [_at_threshold(probability, exact, at) for at in THRESHOLDS],
    }


def _at_threshold(probability: Sequence[float], right: Sequence[bool], threshold: float) -> dict[str, float]:
    """Percent of the questions answered at a threshold, and percent right of those."""
    hits = [hit for p, hit in zip(probability, right, strict=True) if p >= threshold]
    answered = 100 * len(hits) / len(right) if len(right) else 0.0
    return {"threshold": threshold, "answered": answered, "em": 100 * _share(hits)}


def _share(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _exists(snapshot: Snapshot, answer: Answer) -> bool:
    """Whether each object of the answer is that of a live fact with this path: texts that the tokenizer reads alike."""
    tokenizer = snapshot.tokenizer
    fields = [tokenizer.ids(text) for text in (answer.subject, answer.predicate, answer.sense)]
    key = np.concatenate([part for field in fields for part in (field, [tokenizer.sep_id])])[None]
    state = snapshot.trie.walk(key.astype(np.int64), np.array([key.shape[1]]))
    if not snapshot.trie.is_terminal(state)[0]:
        return False
    live = {fact.object for fact in snapshot.facts(state[0])}
    return bool(answer.objects) and set(answer.objects) <= live
