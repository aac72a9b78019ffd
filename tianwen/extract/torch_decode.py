"""The decoding of `decode.py` for a whole batch in torch, where the scores lie: on a GPU, or any other device.

Post: 8888

Notation
    B, T  batch, tokens with [CLS] and [SEP]      E, P  classes, predicates      K  cells, pairs or hits of the batch

Steps: (1) cells of the entity map that the largest biases could lift above the threshold, one nonzero for the batch,
then every class at those; (2) on the host, pairs of the mentions of each text; (3) heads and tails of all pairs of the
batch, for every predicate. The device waits for the host twice. On a CPU `decode` is faster: one product of matrices
beats many of vectors there, and a call of numpy costs less.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from tianwen.extract.decode import (
    BLOCK,
    NO_FACTS,
    Decoded,
    Facts,
    Mentions,
    same_event_pairs,
    settle_facts,
    settle_mentions,
)
from tianwen.extract.gplinker import Projections
from tianwen.extract.pointer import Projection
from tianwen.extract.rules import Rules

_DEVICE_BLOCK = 16 * BLOCK
"""Scores held at a time."""


@torch.no_grad()
def decode_batch(projections: Projections, rules: Rules) -> list[Decoded]:
    """What each text of a batch says; tokens are counted without [CLS]."""
    maps = [None if one is None else one.wide() for one in projections]
    entity, heads, tails = maps
    if entity is None:
        raise ValueError("A batch without an entity map.")
    mentions = _mentions(entity, rules)
    if heads is None or tails is None:
        return [Decoded(found, NO_FACTS) for found in mentions]
    pairs = [_pairs(found, rules) for found in mentions]
    facts = _facts(heads, tails, mentions, pairs, rules)
    return [Decoded(*both) for both in zip(mentions, facts, strict=True)]


def _mentions(entity: Projection, rules: Rules) -> list[Mentions]:
    margin = torch.from_numpy(rules.mention_margin).to(entity.queries.device)
    bound = entity.products()  # [B, T, T] or [B, E, T, T]
    if entity.row_bias is None or entity.column_bias is None:
        bound = bound.amax(1) - margin.min()
    else:
        bound = bound + (entity.row_bias - margin[:, None]).amax(1)[:, :, None] + entity.column_bias.amax(1)[:, None]
    # A little slack, for a bound may round differently than the scores.
    batch, first, last = ((bound > -1e-4) & entity.cell_mask()).nonzero(as_tuple=True)  # [K] each, in order of batch
    hits = []
    for part in _parts(len(batch), len(margin)):
        scores = entity.label_scores(batch[part], first[part], last[part])  # [K, E]
        cell, label = (scores > margin).nonzero(as_tuple=True)
        hits.append((batch[part][cell], label, first[part][cell], last[part][cell], scores[cell, label]))
    owner, label, first, last, score = (torch.cat(values).cpu().numpy() for values in zip(*hits, strict=True))
    at = np.searchsorted(owner, np.arange(len(entity.valid) + 1))
    return [settle_mentions(label[i:j], first[i:j] - 1, last[i:j] - 1, score[i:j], rules) for i, j in pairwise(at)]


def _pairs(mentions: Mentions, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the mentions that may stand in one fact: subjects and objects."""
    if rules.event_of is not None:
        return same_event_pairs(mentions, rules)
    subjects, objects = (np.flatnonzero(able[mentions.label]) for able in (rules.subject_classes, rules.object_classes))
    return np.repeat(subjects, len(objects)), np.tile(objects, len(subjects))


def _facts(
    heads: Projection,
    tails: Projection,
    mentions: list[Mentions],
    pairs: list[tuple[np.ndarray, np.ndarray]],
    rules: Rules,
) -> list[Facts]:
    device = heads.queries.device
    margin = torch.from_numpy(rules.link_margin).to(device)
    owner = np.repeat(np.arange(len(pairs)), [len(subject) for subject, _ in pairs])
    first, last = (_ends(mentions, pairs, which, ordered=rules.event_of is not None) for which in ("first", "last"))
    where = [torch.from_numpy(x).to(device) for x in (owner, *first, *last)]
    found = []
    for part in _parts(len(owner), len(margin)):
        batch, *ends = (x[part] for x in where)
        head, tail = heads.label_scores(batch, *ends[:2]), tails.label_scores(batch, *ends[2:])  # [K, P]
        pair, predicate = (torch.minimum(head, tail) > margin).nonzero(as_tuple=True)
        hits = (pair + part.start, predicate, head[pair, predicate], tail[pair, predicate])
        found.append([values.cpu().numpy() for values in hits])
    pair, predicate, head, tail = map(np.concatenate, zip(*found, strict=True))
    subject, object = (np.concatenate([both[side] for both in pairs])[pair] for side in (0, 1))
    at = np.searchsorted(owner[pair], np.arange(len(pairs) + 1))
    return [
        _of_text(mentions[text], Facts(subject[i:j], predicate[i:j], object[i:j], head[i:j], tail[i:j]), rules)
        for text, (i, j) in enumerate(pairwise(at))
    ]


def _of_text(mentions: Mentions, facts: Facts, rules: Rules) -> Facts:
    if rules.event_of is not None:  # links of arguments: at most one a pair
        return facts
    labels = mentions.label
    facts = facts.take(rules.allowed[facts.predicate, labels[facts.subject], labels[facts.object]])
    return settle_facts(mentions, facts.take(np.argsort(facts.predicate, kind="stable")), rules)


def _ends(
    mentions: list[Mentions], pairs: list[tuple[np.ndarray, np.ndarray]], which: str, *, ordered: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of all pairs, with [CLS] counted; `ordered`: rows before columns."""
    rows, columns = (
        np.concatenate([getattr(found, which)[both[side]] for found, both in zip(mentions, pairs, strict=True)]) + 1
        for side in (0, 1)
    )
    return (np.minimum(rows, columns), np.maximum(rows, columns)) if ordered else (rows, columns)


def _parts(count: int, size: int) -> Iterator[slice]:
    step = max(1, _DEVICE_BLOCK // max(1, size))
    for start in range(0, max(1, count), step):
        yield slice(start, min(start + step, count))
