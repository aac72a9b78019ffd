"""What the encoder reads at once: passages of a corpus side by side up to a length, longer ones in parts.

Post: 8998.

Notation
    T      most tokens of a sequence, [CLS] and the last [SEP] counted      N  sequences
    spans  int64 [N, 2]: sequence i is [CLS], the ids of the corpus from spans[i, 0] to spans[i, 1], [SEP]

Passages that are neighbours in a file often go on with the same matter, so they share a sequence, a [SEP] between them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from tianwen.backbone.packing import Pack
from tianwen.errors import InputError
from tianwen.pretrain.corpus import Corpus
from tianwen.pretrain.layout import laid_out

SHORTEST = 16


@dataclass(frozen=True)
class Spans:
    """The sequences to learn from, and by source those that are kept apart to measure on."""

    train: Int64[np.ndarray, " sequences 2"]
    held_out: dict[str, Int64[np.ndarray, " kept 2"]]

    @property
    def lengths(self) -> Int64[np.ndarray, " sequences"]:
        """Tokens of each sequence to learn from, [CLS] and [SEP] counted."""
        return self.train[:, 1] - self.train[:, 0] + 2


def split_spans(corpus: Corpus, *, length: int, held_out: int) -> Spans:
    """The sequences of a corpus; of each file `held_out` of them, evenly spread, are kept apart (at most a tenth).

    Raises InputError for a length that is too short.
    """
    if length < SHORTEST:
        raise InputError(f"length={length}: a sequence has at least {SHORTEST} tokens, usually 128 to 512.")
    train, kept = [], {}
    for source in corpus.sources:
        if source.last == source.first:
            continue
        begin = int(corpus.ends[source.first - 1]) if source.first else 0
        spans = cut_passages(corpus.ends[source.first : source.last], begin=begin, length=length)
        count = min(held_out, len(spans) // 10)
        chosen = (np.arange(count) * len(spans)) // max(1, count)
        apart = np.zeros(len(spans), bool)
        apart[chosen] = True
        train.append(spans[~apart])
        if count:
            kept[source.name] = spans[apart]
    return Spans(np.concatenate(train), kept)


def cut_passages(ends: Int64[np.ndarray, " passages"], *, begin: int, length: int) -> Int64[np.ndarray, " sequences 2"]:
    """Sequences of at most `length` tokens from the passages of one file, which begins at `begin`.

    A passage's last token is its [SEP]; a sequence takes as many whole passages as it holds, or a part of a long one.
    """
    room, known = length - 2, ends.tolist()
    spans: list[tuple[int, int]] = []
    at, passage = begin, 0  # `passage` is the one that holds the token `at`
    while passage < len(known):
        whole = bisect_right(known, at + room + 1, lo=passage)  # passages before this one fit; their last [SEP] is ours
        if whole > passage:
            spans.append((at, known[whole - 1] - 1))
            at, passage = known[whole - 1], whole
        else:
            spans.append((at, at + room))
            at += room
    filled = [span for span in spans if span[1] > span[0]]  # a part may end exactly where the passage does
    return np.array(filled, np.int64).reshape(-1, 2)


def gather(corpus: Corpus, spans: Int64[np.ndarray, " sequences 2"]) -> tuple[Pack, np.ndarray]:
    """The pack of these sequences, shortest first, and where words begin: bool [tokens], without what fills it up."""
    order = np.argsort(spans[:, 1] - spans[:, 0], kind="stable")
    spans = spans[order]
    inner = spans[:, 1] - spans[:, 0]
    lengths = inner + 2
    ends = np.cumsum(lengths)
    first = ends - lengths
    ids = np.full(int(ends[-1]), corpus.tokenizer.sep_id, np.int64)
    starts = np.ones(len(ids), bool)
    ids[first] = corpus.tokenizer.cls_id
    within = np.arange(int(inner.sum())) - np.repeat(np.cumsum(inner) - inner, inner)  # 0, 1, .. in each sequence
    here, there = np.repeat(first + 1, inner) + within, np.repeat(spans[:, 0], inner) + within
    ids[here] = corpus.ids[there]
    starts[here] = corpus.starts[there]
    starts[first + 1] = True  # a part of a passage may begin within a word
    return laid_out(ids, lengths, tuple(order.tolist())), starts
