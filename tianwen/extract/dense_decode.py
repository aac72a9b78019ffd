"""The definition of decoding, on whole maps: a fact is there when all four of its scores are above the threshold.

Post: 8888

Slow on purpose: this is the truth that the lazy decoding is checked against. Arrays as in `decode.py`; a map is
[C, n, n], -inf below the diagonal of a map of spans.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from tianwen.extract.maps import PointerMap, TextMaps
from tianwen.extract.rules import Rules

Span = tuple[int, int, int]
"""Class, first and last token."""


def dense_map(pointer: PointerMap, *, spans: bool = False) -> Float[np.ndarray, " classes tokens tokens"]:
    """The whole map; of `spans` only those that do not end before they start."""
    products = pointer.queries @ pointer.keys.swapaxes(-1, -2)  # [n, n] or [C, n, n]
    scores = pointer.starts[:, :, None] + pointer.ends[:, None, :] + products
    return np.where(np.tri(scores.shape[-1], k=-1, dtype=bool), -np.inf, scores) if spans else scores


def dense_mentions(maps: TextMaps, rules: Rules) -> dict[Span, float]:
    """Every span above its threshold that is not too long for its class, with its score."""
    scores = dense_map(maps.entity, spans=True)
    return {
        (int(c), int(i), int(j)): float(scores[c, i, j])
        for c, i, j in np.argwhere(scores > rules.mention_margin[:, None, None])
        if rules.longest is None or j - i + 1 <= rules.longest[c]
    }


def dense_facts(maps: TextMaps, rules: Rules) -> dict[tuple[Span, int, Span], tuple[float, float, float, float]]:
    """Every fact (subject, predicate, object) with its four scores."""
    if maps.heads is None or maps.tails is None:
        return {}
    heads, tails, mentions = dense_map(maps.heads), dense_map(maps.tails), dense_mentions(maps, rules)
    found = {}
    for subject, s1 in mentions.items():
        for object, s2 in mentions.items():
            for p in range(len(heads)):
                s3, s4 = float(heads[p, subject[1], object[1]]), float(tails[p, subject[2], object[2]])
                if min(s1, s2, s3, s4) > rules.link_margin[p] and rules.allowed[p, subject[0], object[0]]:
                    found[subject, p, object] = (s1, s2, s3, s4)
    return found
