"""How often a matcher alone finds the predicate of a sentence that holds one fact, its object left out.

Post: 8802 (the matcher is ours). English has no questions with answers here; WebNLG's sentences stand for them.

    python benchmarks/matcher_sentences.py --data webnlg/train_triples.json [--data ...] [--model DIR ...] [--json]

The right predicate stands among OTHERS others of the files, drawn at random; "birthPlace" is read as "birth place".
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tianwen.ask.asker import Asker
from tianwen.extract.annotation_files import read_annotations

OTHERS = 9


class Asked(NamedTuple):
    """A sentence without its object, its subject, its predicate, and wrong ones."""

    text: str
    subject: str
    predicate: str
    wrong: list[str]


def spaced(predicate: str) -> str:
    """The words of a predicate such as birthPlace or leader_name."""
    return re.sub(r"([a-z])([A-Z])", r"\1 \2", re.sub(r"[_/]", " ", predicate)).lower().strip()


def sentences(files: Sequence[Path], count: int, seed: int) -> list[Asked]:
    """`count` sentences with one fact, whose subject is named beside its object, in random order."""
    read = [(one.text, one.triples()) for file in files for one in read_annotations(file)]
    facts = [(text, *triples[0]) for text, triples in read if len(triples) == 1]
    predicates = sorted({spaced(predicate) for _, _, predicate, _ in facts})
    chance = random.Random(seed)
    asked = []
    for text, subject, predicate, object_ in facts:
        left = text.replace(object_, "").strip(" .")
        if object_ in text and subject in left:
            others = [one for one in predicates if one != spaced(predicate)]
            asked.append(Asked(left, subject, spaced(predicate), chance.sample(others, OTHERS)))
    chance.shuffle(asked)
    return asked[:count]


def found(asker: Asker, asked: Sequence[Asked]) -> float:
    """The share whose right predicate has the highest score, in percent."""
    matcher = asker.matcher
    assert matcher is not None
    scores = [matcher.scores(one.text, one.subject, [one.predicate, *one.wrong]) for one in asked]
    return 100 * sum(float(row[0]) > row[1:].max() for row in scores) / len(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description="The matcher on sentences that hold one fact.")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--model", type=Path, nargs="+", default=[None], help="askers; default: the bundled one")
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    asked = sentences(given.data, given.count, given.seed)
    told = {}
    for model in given.model:
        asker = Asker.load(model)
        if asker.matcher is None:
            parser.error(f"{model} has no matcher: tianwen train matcher")
        told[str(model or "bundled")] = round(found(asker, asked), 1)
        if not given.json:
            print(f"{model or 'bundled'}: {told[str(model or 'bundled')]}", flush=True)
    if given.json:
        print(json.dumps({"sentences": len(asked), "found": told}))


if __name__ == "__main__":
    main()
