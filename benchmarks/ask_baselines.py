"""What people would reach for instead of a model, on the same facts and questions: character overlap and BM25.

Post: 8802 (KgCLUE's measures)

    python benchmarks/ask_baselines.py --facts kb_dev.tsv --questions dev.json --json

Rows:
    overlap  the longest subject that stands in the question, then its predicate that shares most characters with it
    bm25     BM25 over character 1- and 2-grams of subject and predicate (package bm25s), the top fact
Equal scores go to the fact that comes first in the order of a fixed shuffle, so that no order of the file helps.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tianwen.ask.fact_files import read_facts
from tianwen.ask.facts import Fact
from tianwen.ask.metrics import f1, normalised
from tianwen.ask.questions import Question, read_questions


def by_overlap(facts: Sequence[Fact], questions: Sequence[Question]) -> list[Fact | None]:
    """The longest name in the question, then the predicate with most characters of the question, for its length."""
    of: dict[str, list[Fact]] = {}
    for fact in facts:
        of.setdefault(fact.subject.lower(), []).append(fact)
    longest = max(map(len, of))
    found: list[Fact | None] = []
    for question in questions:
        text = question.text.lower()
        spans = (text[a : a + n] for n in range(min(longest, len(text)), 0, -1) for a in range(len(text) - n + 1))
        name = next((span for span in spans if span in of), None)
        rest = set(text.replace(name, "")) if name else set()
        share = lambda fact: len(rest & set(fact.predicate)) / len(set(fact.predicate))  # noqa: B023, E731
        found.append(max(of[name], key=share) if name else None)
    return found


def by_bm25(facts: Sequence[Fact], questions: Sequence[Question]) -> list[Fact | None] | None:
    """The top fact by BM25; None with a note where bm25s is not installed."""
    try:
        bm25s: Any = import_module("bm25s")
    except ImportError:
        print("no row for bm25: the package bm25s is not installed", file=sys.stderr)
        return None
    index = bm25s.BM25()
    index.index([_grams(f"{fact.subject} {fact.predicate}") for fact in facts], show_progress=False)
    best, _ = index.retrieve([_grams(question.text) for question in questions], k=1, show_progress=False)
    return [facts[int(row[0])] for row in best]


def _grams(text: str) -> list[str]:
    text = text.lower()
    return [*text, *(text[i : i + 2] for i in range(len(text) - 1))]


def measured(found: Sequence[Fact | None], questions: Sequence[Question]) -> dict[str, float]:
    """EM, F1, Score and right subject, in percent."""
    em, partial, subject = 0.0, 0.0, 0.0
    for fact, question in zip(found, questions, strict=True):
        given = normalised(fact.object) if fact else ""
        em += any(given == normalised(right) for right in question.objects)
        partial += max((f1(given, normalised(right)) for right in question.objects), default=0.0) if fact else 0.0
        subject += fact is not None and normalised(fact.subject) == normalised(question.subject)
    em, partial, subject = (100 * value / len(questions) for value in (em, partial, subject))
    return {"em": em, "f1": partial, "score": (em + partial) / 2, "subject_accuracy": subject}


ROWS: dict[str, Callable[[Sequence[Fact], Sequence[Question]], list[Fact | None] | None]] = {
    "overlap": by_overlap,
    "bm25": by_bm25,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Baselines without a model.")
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--questions", type=Path, nargs="+", required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    facts = [Fact(**row) for frame in read_facts(options.facts) for row in frame.iter_rows(named=True)]
    random.Random(0).shuffle(facts)
    questions = read_questions(options.questions)
    found = {name: row(facts, questions) for name, row in ROWS.items()}
    result = {name: measured(answers, questions) for name, answers in found.items() if answers is not None}
    if options.json:
        print(json.dumps(result))
        return
    for name, numbers in result.items():
        print(f"{name:10}", "  ".join(f"{key} {value:.1f}" for key, value in numbers.items()))


if __name__ == "__main__":
    main()
