"""A tiny extractor with random weights, and one that finds the words it is told to find."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch

from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.extract.decode import NO_FACTS, NO_MENTIONS, Decoded, Facts, Mentions
from tianwen.extract.extractor import Extractor
from tianwen.extract.gplinker import GPLinker, GPLinkerConfig
from tianwen.extract.model_files import ExtractorSettings
from tianwen.extract.rules import UNTYPED, Rules
from tianwen.extract.schema import Schema
from tianwen.extract.windows import Window
from tianwen.text import Tokenizer

TEXT = "战神I-X从肯尼迪航天中心的39B发射台发射。Ares I-X flew from Florida. İstanbul, אילת 😀🚀"
TOKENIZER = Tokenizer.train([TEXT] * 2, size=600, min_count=1)
BACKBONE = RoFormerV2Config(vocabulary=TOKENIZER.size, layers=1, width=16, heads=2, max_length=64, dropout=0.0)


def tiny_extractor(
    *,
    classes: tuple[str, ...] = UNTYPED,
    predicates: tuple[str, ...] = ("发射地点", "发射台"),
    roles: tuple[tuple[str, str], ...] = (),
    schema: Schema | None = None,
    seed: int = 0,
    shift: float = -1.5,
    **settings,
) -> Extractor:
    """Random weights; `shift` makes what is found rarer (negative) or more frequent."""
    torch.manual_seed(seed)
    names = {"roles": roles} if roles else {"entity_labels": classes, "predicates": predicates}
    model = GPLinker(GPLinkerConfig(BACKBONE, head_size=8, **names)).eval()
    with torch.no_grad():
        for head in (model.entity, model.head, model.tail):
            if head is not None:
                head.dense.weight *= 3
                head.biases.bias.fill_(shift)
    return Extractor(model, TOKENIZER, schema, ExtractorSettings(**{"length": 32, "overlap": 8} | settings))


class Parrot:
    """Stands in for network and decoding: finds the words told in each window, and a fact of each pair told."""

    def __init__(self, mentions: Sequence[tuple[str, int]], facts: Sequence[tuple[str, int, str]] = ()) -> None:
        self.told, self.facts = mentions, facts
        self.most = 0  # windows at once

    def __call__(self, model, tokenizer, windows: Sequence[Window], rules: Rules, *, entities_only: bool = False):
        self.most = max(self.most, len(windows))
        return [self.decoded(window, tokenizer, entities_only) for window in windows]

    def decoded(self, window: Window, tokenizer: Tokenizer, entities_only: bool) -> Decoded:
        rows, words = [], []
        tokens = "".join(map(chr, window.ids))
        for told, label in self.told:
            wanted = "".join(map(chr, tokenizer.ids(told)))
            for found in re.finditer(re.escape(wanted), tokens):
                rows.append((label, found.start(), found.end() - 1))
                words.append(told)
        if not rows:
            return Decoded(NO_MENTIONS, NO_FACTS)
        label, first, last = np.array(rows).T
        mentions = Mentions(label, first, last, np.full(len(rows), 3.0, np.float32))
        pairs = [
            (i, p, j)
            for s, p, o in self.facts
            for i, one in enumerate(words)
            for j, other in enumerate(words)
            if (one, other) == (s, o) and not entities_only
        ]
        if not pairs:
            return Decoded(mentions, NO_FACTS)
        subject, predicate, object = np.array(pairs).T
        links = np.full(len(pairs), 2.0, np.float32)
        return Decoded(mentions, Facts(subject, predicate, object, links, links))
