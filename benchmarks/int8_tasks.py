"""What int8 costs on real tasks: the same model in fp32, stored as int8, and with products in int8, too.

    python benchmarks/int8_tasks.py --extractor DIR FILE PROTOCOL [--extractor ...]
                                    [--asker DIR --facts kb_dev.tsv --questions dev.json] [--json]

Post: 8998. A model that was saved as int8 has no fp32 of its own: then "fp32" is what is stored, in fp32 products.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tianwen.ask.asker import Asker
from tianwen.ask.evaluation import evaluate_ask
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.questions import read_questions
from tianwen.backbone.int8 import quantise_for_inference, restore
from tianwen.extract.annotation_files import read_annotations
from tianwen.extract.evaluation import evaluate_extract
from tianwen.extract.extractor import Extractor
from tianwen.training.weights import quantise_rows, restore_rows

ROUNDS = 3


def stored_as_int8(model: nn.Module) -> None:
    """Round the weights as `save_weights(..., storage="int8")` does."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                weight.copy_(restore_rows(*quantise_rows(name, weight)))


def compare(model: nn.Module, score: Callable[[], float], work: Callable[[], Any]) -> dict[str, float]:
    """The score in the three forms, and how many times as fast products in int8 are: a median of rounds in turns."""
    scores = {"fp32": score()}
    stored_as_int8(model)
    scores["int8_stored"] = score()
    ratios = []
    for _ in range(ROUNDS):
        plain = seconds(work)
        quantise_for_inference(model)
        ratios.append(plain / seconds(work))
        restore(model)
    quantise_for_inference(model)
    scores["int8_products"] = score()
    restore(model)
    return {name: round(value, 2) for name, value in scores.items()} | {"speed": round(statistics.median(ratios), 2)}


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def extractor(folder: str, file: str, protocol: str) -> dict[str, float]:
    """F1 in percent."""
    model = Extractor.load(folder)
    texts = list(read_annotations(file))
    some = [one.text for one in texts[:200]]
    return compare(
        model.model,
        lambda: 100 * evaluate_extract(model, texts, protocol)["f1"],
        lambda: list(model.extract(some)),
    )


def asker(folder: str | None, facts: str, questions: str) -> dict[str, float]:
    """KgCLUE's Score."""
    model = Asker.load(folder)
    known = read_questions([questions])
    with (
        tempfile.TemporaryDirectory() as place,
        KnowledgeBase.build(facts, Path(place) / "kb", tokenizer=model.tokenizer) as kb,
    ):
        return compare(
            model.model,
            lambda: evaluate_ask(model, kb, known)["score"],
            lambda: model.ask([question.text for question in known[:200]], kb),
        )


def main() -> None:
    """One row a task."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--extractor", nargs=3, action="append", default=[], metavar=("DIR", "FILE", "PROTOCOL"))
    parser.add_argument("--asker", metavar="DIR", help="without it, the bundled one")
    parser.add_argument("--facts", metavar="FILE")
    parser.add_argument("--questions", metavar="FILE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for folder, file, protocol in given.extractor:
        rows[f"{Path(file).parent.name} {protocol}"] = extractor(folder, file, protocol)
    if given.facts and given.questions:
        rows["questions"] = asker(given.asker, given.facts, given.questions)
    if given.json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    for name, row in rows.items():
        print(f"{name:30} " + "  ".join(f"{key} {value}" for key, value in row.items()))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
