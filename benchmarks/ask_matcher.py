"""What the matcher brings to an asker: right answers by weight, and by how much of the predicate is in the question.

Post: 8802 (KgCLUE's EM; the matcher is ours)

    python benchmarks/ask_matcher.py --facts kb_dev.tsv --questions dev.json [--model DIR] [--untrained] [--json]

Every weight asks all questions anew, as `tianwen ask` does. At weight 0 the asker is alone; at 1000 the matcher alone
chooses the predicate, of subjects that the asker found. `--untrained` compares the word vectors as they are. Kinds:
    literal  the predicate stands in the question        some   a character of it does, outside the subject
    none     none does
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tianwen.ask.asker import Asker, AskOptions
from tianwen.ask.fact_files import read_facts
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.matcher import Matcher, WordMatcher, without_subject
from tianwen.ask.metrics import normalised
from tianwen.ask.questions import Question, read_questions

KINDS = ("literal", "some", "none")


def kind(question: Question) -> str:
    """How far the predicate stands in the question."""
    text, predicate = normalised(without_subject(question.text, question.subject)), normalised(question.predicate)
    if predicate in text:
        return "literal"
    return "some" if set(predicate) & set(text) else "none"


def untrained(matcher: Matcher) -> Matcher:
    """The same words before any training: their vectors as they are, all words of equal weight."""
    model = WordMatcher(matcher.model.vectors, matcher.model.script)
    with torch.no_grad():
        for linear in (model.question_weight, model.predicate_weight):
            linear.weight.zero_()
    return Matcher(model, matcher.table, matcher.asked_words)


def exact(asker: Asker, kb: KnowledgeBase, questions: Sequence[Question], weight: float) -> dict[str, float]:
    """EM in percent, of all questions and by kind."""
    answers = asker.answers([question.text for question in questions], kb, AskOptions(match_weight=weight))
    right = np.array(
        [
            bool(found) and normalised(found[0].objects[0]) in {normalised(text) for text in question.objects}
            for question, found in zip(questions, answers, strict=True)
        ]
    )
    kinds = np.array([kind(question) for question in questions])
    by_kind = {name: 100 * float(right[kinds == name].mean()) for name in KINDS if (kinds == name).any()}
    return {name: round(value, 2) for name, value in {"all": 100 * float(right.mean()), **by_kind}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="What the matcher brings to an asker.")
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=None, help="an asker with a matcher; default: the bundled one")
    parser.add_argument("--weights", type=float, nargs="+", default=[0, 0.2, 0.4, 0.6, 0.8, 1, 1000])
    parser.add_argument("--untrained", action="store_true", help="word vectors as they are")
    parser.add_argument("--count", type=int, default=None, help="so many questions; default: all")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    asker = Asker.load(given.model)
    if asker.matcher is None:
        parser.error("this asker has no matcher: tianwen train matcher")
    if given.untrained:
        asker.matcher = untrained(asker.matcher)
    questions = read_questions([given.questions])[: given.count]
    told: dict[str, Any] = {"questions": len(questions), "kinds": {k: [*map(kind, questions)].count(k) for k in KINDS}}
    with (
        tempfile.TemporaryDirectory(prefix="tianwen-") as work,
        KnowledgeBase.build(read_facts(given.facts), Path(work) / "kb", tokenizer=asker.tokenizer) as kb,
    ):
        for weight in given.weights:
            told[f"{weight:g}"] = exact(asker, kb, questions, weight)
            if not given.json:
                print(f"weight {weight:<6g}", told[f"{weight:g}"], flush=True)
    if given.json:
        print(json.dumps(told))


if __name__ == "__main__":
    main()
