"""Post 8888 in three steps: the exact loss, facts out of scores, and the facts that nobody stated.

    python examples/8888_gplinker.py

Post: 8888
"""

import numpy as np
import torch

from tianwen.extract import multilabel_loss
from tianwen.extract.decode import decode
from tianwen.extract.maps import PointerMap, TextMaps
from tianwen.extract.rules import UNTYPED, Rules
from tianwen.extract.verifier import without_crossings

TEXT = "中国航天发射中心与中国中心"
PREDICATES = ["运营", "位于"]


def losses() -> None:
    """Four positives among 4,096 cells, as they become surer: the usual sparse formula fails once they are."""
    for score in (2.0, 10.0, 20.0):
        scores = torch.full((1, 1, 64, 64), -8.0)
        positives = torch.tensor([[0, 0, 3, 5], [0, 0, 7, 7], [0, 0, 9, 12], [0, 0, 20, 22]])
        scores[tuple(positives.T)] = score
        every, right = scores.flatten().logsumexp(0), scores[tuple(positives.T)].logsumexp(0)
        rest = every + torch.log(torch.clamp(1 - torch.exp(right - every), min=1e-7))  # "all minus positives"
        usual = torch.logaddexp(torch.zeros(()), rest) + torch.log1p(torch.exp(-scores[tuple(positives.T)]).sum())
        print(f"positives at {score:4.0f}: exact {multilabel_loss(scores, positives):.3f}, usual {usual:.3f}")


def spelt(spans: dict[tuple[int, int, int], float], classes: int) -> PointerMap:
    """A map that scores the cells told (class, row, column), and -9 elsewhere."""
    scores = np.full((classes, len(TEXT), len(TEXT)), -9.0, np.float32)
    for cell, score in spans.items():
        scores[cell] = score
    keys = np.broadcast_to(np.eye(len(TEXT), dtype=np.float32), scores.shape)  # so that <q_i, k_j> is the cell itself
    nothing = np.zeros((classes, len(TEXT)), np.float32)
    return PointerMap(scores, keys, nothing, nothing)


def facts() -> None:
    """(中国航天, 运营, 发射中心) and (中国, 运营, 中心) are scored; four facts pass, the verifier leaves two."""
    entity = spelt({(0, 0, 1): 5, (0, 0, 3): 5, (1, 4, 7): 5, (1, 6, 7): 5}, 2)
    heads, tails = spelt({(0, 0, 4): 7, (0, 0, 6): 2}, 2), spelt({(0, 3, 7): 6.8, (0, 1, 7): 2.2}, 2)
    decoded = decode(TextMaps(entity, heads, tails), Rules.of(UNTYPED, PREDICATES))
    mentions = decoded.mentions
    words = [TEXT[first : last + 1] for first, last in zip(mentions.first, mentions.last, strict=True)]
    for name, some in (("decoded", decoded.facts), ("verified", without_crossings(mentions, decoded.facts))):
        rows = zip(some.subject, some.predicate, some.object, strict=True)
        print(f"{name}: {'; '.join(f'{words[s]} {PREDICATES[p]} {words[o]}' for s, p, o in rows)}")


def main() -> None:
    losses()
    facts()


if __name__ == "__main__":
    main()
