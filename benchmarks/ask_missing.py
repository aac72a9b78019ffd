"""Does the asker know what is not there? Questions as they are, without their predicate, and without their subject.

    python benchmarks/ask_missing.py --facts kb_dev.tsv --questions dev.json [--model DIR] [--json]

Post: 8802 (an addition of ours). A view of a question is what `tianwen.ask.calibration` makes of it: the right facts
are taken out of the candidates, or all of the named subject. Told is the percentage of each view that is answered at a
threshold (of the questions as they are, also how many of those are right), with the evidence of the model, and with a
calibration that leaves the matcher's evidence out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tianwen.ask.asker import Asker, AskOptions
from tianwen.ask.calibration import Scored, fitted, scored_views
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.model_files import AskerSettings
from tianwen.ask.questions import read_questions

VIEWS = ("as they are", "predicate missing", "subject missing")
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def answered(rows: Sequence[Sequence[Scored]], settings: AskerSettings) -> list[dict[str, float]]:
    """For each threshold, the model's own too, the percentage answered in each view; without candidates nothing is."""
    best, right = np.zeros((len(rows), len(VIEWS))), np.zeros(len(rows), bool)
    for i, views in enumerate(rows):
        for j, view in enumerate(views):
            if not len(view.score):
                continue
            p = settings.calibrated(view.score, view.subject, view.predicate, view.fit)
            best[i, j] = p.max()
            if j == 0:
                right[i] = bool(view.right[int(p.argmax())])
    told = []
    for threshold in sorted({*THRESHOLDS, settings.threshold}):
        over = best >= threshold
        row = {name: round(100 * float(share), 1) for name, share in zip(VIEWS, over.mean(0), strict=True)}
        told.append({"threshold": threshold, **row, "right": round(100 * float(right[over[:, 0]].mean()), 1)})
    return told


def main() -> None:
    """Both calibrations, threshold by threshold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--facts", required=True, metavar="FILE")
    parser.add_argument("--questions", required=True, metavar="FILE")
    parser.add_argument("--model", metavar="DIR", help="without it, the bundled asker")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    asker = Asker.load(given.model)
    questions = read_questions([given.questions])
    with (
        tempfile.TemporaryDirectory() as place,
        KnowledgeBase.build(given.facts, Path(place) / "kb", tokenizer=asker.tokenizer) as kb,
    ):
        flat = [view for views in scored_views(asker, kb.snapshot(), questions, AskOptions()) for view in views]
    rows = [flat[i : i + len(VIEWS)] for i in range(0, len(flat), len(VIEWS))]
    blind = [replace(view, fit=0.0) for view in flat if len(view.score)]
    without = replace(fitted(blind, asker.settings), threshold=asker.settings.threshold)
    numbers: dict[str, Any] = {
        "with the matcher's evidence": answered(rows, asker.settings),
        "without": answered([[replace(view, fit=0.0) for view in views] for views in rows], without),
    }
    if given.json:
        print(json.dumps(numbers))
        return
    for name, table in numbers.items():
        print(name)
        for row in table:
            print("  " + "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
