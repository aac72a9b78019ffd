"""What each part of the asker brings: the same training with one part left out, and each way of scoring.

Post: 8802

    python benchmarks/ask_ablation.py --train train.json nlpcc.txt --facts kb.tsv --dev dev.json --steps 450 --json

Trained anew for each row, from scratch, with the same seed and steps:
    full          subject, predicate, sense; copying; synthetic questions
    no_copying    the vocabulary's distribution alone
    no_synthetic  real questions and swapped names only
    s_m_p         subject, sense, predicate: the order that the post found worse
Each is asked in three ways: beam, beam with lookahead, prior-corrected scoring (not for s_m_p: it scores predicates).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tianwen.ask.asker import Asker, AskOptions
from tianwen.ask.evaluation import evaluate_ask
from tianwen.ask.fact_files import read_facts
from tianwen.ask.facts import Fact
from tianwen.ask.fielded import FieldedTrie
from tianwen.ask.learning import TrainAskSettings, train_ask
from tianwen.ask.questions import Question, read_questions

VARIANTS = {
    "full": {},
    "no_copying": {"copying": False},
    "no_synthetic": {"synthetic": 0.0},
    "s_m_p": {"order": "smp"},
}
WAYS = {
    "beam": AskOptions(scoring="path", lookahead=False),
    "lookahead": AskOptions(scoring="path"),
    "prior": AskOptions(),
}


class InMemory:
    """As much of a snapshot as asking needs, over a tree whose second and third field can be exchanged."""

    def __init__(self, facts: list[Fact], tokenizer: Any, *, exchanged: bool) -> None:
        self.tokenizer = tokenizer
        self.facts_of: dict[int, list[Fact]] = {}
        self.by_path: dict[tuple[str, str], list[Fact]] = {}
        middle, last = ("sense", "predicate") if exchanged else ("predicate", "sense")
        columns = ([getattr(fact, name) for fact in facts] for name in ("subject", middle, last))
        self.trie, rows = FieldedTrie.build(*columns, tokenizer)
        for fact, row in zip(facts, rows.tolist(), strict=True):
            self.facts_of.setdefault(row, []).append(fact)
            self.by_path.setdefault((fact.subject, fact.predicate), []).append(fact)

    def __len__(self) -> int:
        return len(self.facts_of)

    def snapshot(self) -> InMemory:
        return self

    def require_tokenizer(self, tokenizer: Any) -> None:
        """The tree was built with it."""

    def facts(self, state: np.ndarray) -> list[Fact]:
        return self.facts_of[int(self.trie.rows(state[None])[0][0])]

    def find(self, *, subject: str, predicate: str) -> list[Fact]:
        return self.by_path.get((subject, predicate), [])


def measured(name: str, change: dict[str, Any], data: SimpleNamespace, how: TrainAskSettings) -> dict[str, float]:
    """Train one variant and ask it in every way: scores by way."""
    with tempfile.TemporaryDirectory() as folder:
        trained = train_ask(data.train, folder, scratch=True, settings=replace(how, **change), quiet=True)
    asker = Asker(trained.model, trained.tokenizer, replace(trained.settings, prior_weight=0.7))
    exchanged = change.get("order") == "smp"
    base: Any = InMemory(data.facts, asker.tokenizer, exchanged=exchanged)
    scores = {}
    for way, options in WAYS.items():
        if way == "prior" and exchanged:
            continue
        numbers = evaluate_ask(asker, base, data.dev, options=options)
        scores[way] = numbers["score"]
        scores[f"{way}_subject"] = numbers["subject_accuracy"]
        print(name, way, {key: round(numbers[key], 2) for key in ("score", "em", "subject_accuracy")}, file=sys.stderr)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description="What each part of the asker brings.")
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--count", type=int, default=500, help="questions of the dev file that are asked")
    parser.add_argument("--only", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known: list[Question] = read_questions([options.dev])
    data = SimpleNamespace(
        train=options.train,
        facts=[Fact(**row) for frame in read_facts(options.facts) for row in frame.iter_rows(named=True)],
        dev=random.Random(0).sample(known, min(options.count, len(known))),
    )
    how = TrainAskSettings(steps=options.steps)
    result = {name: measured(name, VARIANTS[name], data, how) for name in options.only}
    print(json.dumps(result) if options.json else as_table(result))


def as_table(result: dict[str, dict[str, float]]) -> str:
    """A Markdown table."""
    lines = ["| variant | beam | lookahead | prior |", "|---|---|---|---|"]
    for name, scores in result.items():
        cells = [f"{scores[way]:.1f}" if way in scores else "-" for way in WAYS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
