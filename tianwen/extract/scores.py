"""Precision, recall and F1 out of counts, over all labels together (micro) and for each label.

Post: 8888

    precision = right found / found        recall = right gold / gold        F1 = 2 P R / (P + R)

Two numerators, because with aliases one gold fact may be found under two names. Nothing divided by nothing is 0, as in
the published scripts: no facts found is precision 0, no gold facts is recall 0, and F1 is 0 if either is; `gold` and
`found` tell the cases apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Counts:
    """What was counted for one label; DuEE's character F1 makes the numerators fractions."""

    right_found: float = 0.0
    found: int = 0
    right_gold: float = 0.0
    gold: int = 0

    def add(self, other: Counts) -> None:
        """Take in the counts of one more text."""
        self.right_found += other.right_found
        self.found += other.found
        self.right_gold += other.right_gold
        self.gold += other.gold


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one protocol; `per_label` has those of each label, the frequent in gold first."""

    precision: float
    recall: float
    f1: float
    right_found: float
    found: int
    right_gold: float
    gold: int
    per_label: dict[str, Scores] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything as a dict for `json.dumps`."""
        own = {name: getattr(self, name) for name in ("precision", "recall", "f1", "right_found", "found")}
        own |= {"right_gold": self.right_gold, "gold": self.gold}
        if self.per_label:
            own["per_label"] = {label: scores.to_json() for label, scores in self.per_label.items()}
        return own

    def __str__(self) -> str:
        return (
            f"precision {self.precision:.4f}  recall {self.recall:.4f}  F1 {self.f1:.4f}  "
            f"({self.found:,} found, {self.gold:,} gold)"
        )


def scores_of(counts: dict[str, Counts]) -> Scores:
    """The scores of counts by label."""
    total = Counts()
    for own in counts.values():
        total.add(own)
    order = sorted(counts, key=lambda label: (-counts[label].gold, -counts[label].found, label))
    return _scores(total, {label: _scores(counts[label], {}) for label in order})


def _scores(counts: Counts, per_label: dict[str, Scores]) -> Scores:
    precision = counts.right_found / counts.found if counts.found else 0.0
    recall = counts.right_gold / counts.gold if counts.gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    numbers = counts.right_found, counts.found, counts.right_gold, counts.gold
    return Scores(precision, recall, f1, *numbers, per_label)
