"""KgCLUE's scores, and how far stated probabilities are from the truth.

Post: 8802. EM: the object is equal. F1 = 2 LCS(a, b) / (|a| + |b|) over characters, 0 when both are empty.
Score: the mean of both. Expected calibration error (ECE, Guo et al. 2017): mean over equally full bins of
|mean probability - share that is right|, weighted by size.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np


def normalised(text: str) -> str:
    """NFKC, lower case, no white space: how answers are compared."""
    return "".join(unicodedata.normalize("NFKC", text).lower().split())


def common_subsequence(a: str, b: str) -> int:
    """Length of the longest common subsequence, with one Python integer as the row of the table (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for i, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << i
    row = everything = (1 << len(a)) - 1
    for character in b:
        matches = row & places.get(character, 0)
        row = (row + matches | row - matches) & everything
    return len(a) - row.bit_count()


def f1(predicted: str, right: str) -> float:
    """2 LCS / (|a| + |b|) over characters; 0 when both are empty."""
    total = len(predicted) + len(right)
    return 2 * common_subsequence(predicted, right) / total if total else 0.0


def calibration_error(probability: Sequence[float], right: Sequence[bool], *, bins: int = 15) -> float:
    """ECE over `bins` equally full bins; 0 for no answers.

    Equal probabilities share their hits: which of them falls into which bin must not depend on the order given.
    """
    p, hit = np.asarray(probability, float), np.asarray(right, float)
    if not len(p):
        return 0.0
    _, same, count = np.unique(p, return_inverse=True, return_counts=True)
    hit = (np.bincount(same, weights=hit) / count)[same]
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(bins, len(p)))
    return float(sum(abs(p[part].mean() - hit[part].mean()) * len(part) for part in parts) / len(p))
