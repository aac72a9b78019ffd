"""Measure an extractor on labelled texts, by a protocol of your choice.

Post: 8888. The clock runs while texts go in and annotations come out: tokenising, network, decoding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tianwen.errors import InputError
from tianwen.extract.annotation import Annotation
from tianwen.extract.extractor import Extractor
from tianwen.extract.found import CapReport
from tianwen.extract.protocols import Aliases
from tianwen.extract.scoring import check_protocol, score

Progress = Callable[[int, int], None]


def evaluate_extract(
    extractor: Extractor,
    gold: Sequence[Annotation],
    protocol: str,
    *,
    aliases: Aliases | None = None,
    symmetric: Collection[str] = (),
    options: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Extract from the texts of `gold` and compare: the numbers that `tianwen eval extract --json` prints.

    precision, recall, f1 (of 1), found and gold (how many things), texts, sentences_per_second (texts), per_label, and
    left_out: what caps kept back. `options` as in `ExtractOptions`. Raises InputError: no texts, an unknown protocol.
    """
    check_protocol(protocol)
    if not gold:
        raise InputError("There are no texts to measure on.")
    found: list[Annotation] = []
    report = CapReport()
    start = time.perf_counter()
    for annotation in extractor.stream((one.text for one in gold), report=report, **(options or {})):
        found.append(annotation)
        if progress is not None:
            progress(len(found), len(gold))
    seconds = time.perf_counter() - start
    scores = score(gold, found, protocol, aliases=aliases, symmetric=symmetric)
    return {
        "precision": scores.precision,
        "recall": scores.recall,
        "f1": scores.f1,
        "sentences_per_second": len(gold) / seconds if seconds else 0.0,
        "protocol": protocol,
        "texts": len(gold),
        "found": scores.found,
        "gold": scores.gold,
        "left_out": report.mentions_left_out + report.facts_left_out + report.events_capped,
        "per_label": {
            label: {"precision": one.precision, "recall": one.recall, "f1": one.f1, "gold": one.gold}
            for label, one in scores.per_label.items()
        },
    }
