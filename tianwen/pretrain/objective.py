"""The masked language model on packs: batches as a pure function of their index, the loss, and accuracy by source.

Post: 8998.

Notation
    n  tokens of a pack      w  tokens asked for, filled up to a multiple of ROUND      V  vocabulary
    places  int64 [w]: where they stand in the pack      targets  int64 [w]: what they were, NOBODY for what fills up
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from tianwen.backbone.heads import MaskedLanguageModel
from tianwen.backbone.packing import Pack
from tianwen.errors import InputError
from tianwen.pretrain.corpus import Corpus
from tianwen.pretrain.layout import ROUND
from tianwen.pretrain.masking import check_rate, mask_words, ordinary_ids
from tianwen.pretrain.sequences import Spans, gather
from tianwen.training.orders import Packs
from tianwen.training.randomness import seed_from
from tianwen.training.step import to_device

NOBODY = -100
"""The target that counts for nothing."""

ROWS_AT_ONCE = 2048
"""Tokens whose logits are held at once when accuracy is measured."""


@dataclass(frozen=True)
class MaskedBatch:
    """A pack to read, and the tokens to guess in it; `tokens` and `wanted` count them without what fills up."""

    pack: Pack
    places: Int[Tensor, " places"]
    targets: Int[Tensor, " places"]
    tokens: int
    wanted: int


class MaskedText:
    """Batches of masked sequences for `fit`, at most `budget` tokens each over all processes; new masks every epoch."""

    def __init__(self, corpus: Corpus, spans: Spans, *, budget: int, rate: float = 0.15, seed: int = 0) -> None:
        check_rate(rate)
        if not len(spans.train):
            raise InputError("No text is left to learn from. Give more of it.")
        longest = int(spans.lengths.max())
        if budget < longest:
            raise InputError(
                f"A batch has {budget} tokens, the longest sequence {longest}: raise --batch or lower --length."
            )
        self.corpus, self.spans, self.budget, self.rate, self.seed = corpus, spans, budget, rate, seed
        self.order = Packs(spans.lengths, budget, seed)
        self._stand_ins = ordinary_ids(corpus.tokenizer)
        self._ordinary = np.zeros(corpus.tokenizer.size, bool)
        self._ordinary[self._stand_ins] = True

    @property
    def tokens_per_batch(self) -> float:
        """Mean over the first epoch."""
        return float(self.spans.lengths.sum()) / self.order.batches

    def batch(self, index: int, rank: int, world: int) -> MaskedBatch | None:
        """See BatchSource."""
        mine = self.order.members(index)[rank::world]
        if not len(mine):
            return None
        random = np.random.default_rng(seed_from("mask", self.seed, index, rank, world))
        return self.masked(self.spans.train[mine], random)

    def held_out(self) -> Iterator[tuple[str, MaskedBatch]]:
        """(source, batch) of what is kept apart, always with the same masks."""
        for name, spans in self.spans.held_out.items():
            random = np.random.default_rng(seed_from("held out", name))
            step = max(1, self.budget // int((spans[:, 1] - spans[:, 0]).max() + 2))
            for start in range(0, len(spans), step):
                yield name, self.masked(spans[start : start + step], random)

    def masked(self, spans: np.ndarray, random: np.random.Generator) -> MaskedBatch:
        """These sequences with words hidden."""
        pack, starts = gather(self.corpus, spans)
        ids = pack.ids.numpy()[: len(starts)]
        read, asked = mask_words(
            ids,
            starts,
            self._ordinary,
            random=random,
            rate=self.rate,
            mask_id=self.corpus.tokenizer.mask_id,
            stand_ins=self._stand_ins,
        )
        places = np.flatnonzero(asked)
        more = -len(places) % ROUND
        targets = np.concatenate([ids[places], np.full(more, NOBODY, np.int64)])
        whole = torch.from_numpy(np.concatenate([read, pack.ids.numpy()[len(starts) :]]))
        return MaskedBatch(
            Pack(whole, pack.segments, pack.positions, pack.runs, pack.order),
            torch.from_numpy(np.concatenate([places, np.zeros(more, np.int64)])),
            torch.from_numpy(targets),
            tokens=len(starts),
            wanted=len(places),
        )

    def describe(self) -> dict[str, Any]:
        """See BatchSource."""
        told = {"kind": "masked text", "corpus": self.corpus.checksum, "rate": self.rate, "seed": self.seed}
        return told | {"order": self.order.describe()}


def masked_loss(model: MaskedLanguageModel, batch: MaskedBatch) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy over the tokens asked for; only their logits are computed."""
    hidden = model.backbone.forward_packed(batch.pack)
    logits = model.logits(hidden.index_select(0, batch.places)).float()  # [w, V]
    loss = F.cross_entropy(logits, batch.targets, ignore_index=NOBODY, reduction="sum") / max(1, batch.wanted)
    return loss, {"weight": float(batch.wanted), "tokens": float(batch.tokens)}


@torch.no_grad()
def accuracy(model: MaskedLanguageModel, batches: Iterator[tuple[str, MaskedBatch]]) -> dict[str, float]:
    """Share of hidden tokens guessed right, and mean loss, over all and by source; see `MaskedText.held_out`."""
    device = next(model.parameters()).device
    right: dict[str, list[float]] = {}
    for name, batch in batches:
        batch = to_device(batch, device)
        hidden = model.backbone.forward_packed(batch.pack).index_select(0, batch.places)
        for some, targets in zip(hidden.split(ROWS_AT_ONCE), batch.targets.split(ROWS_AT_ONCE), strict=True):
            logits = model.logits(some).float()
            known = right.setdefault(name, [0.0, 0.0, 0.0])
            known[0] += float((logits.argmax(-1) == targets).sum())
            known[1] += float(F.cross_entropy(logits, targets, ignore_index=NOBODY, reduction="sum"))
            known[2] += float((targets != NOBODY).sum())
    return _told(right)


def _told(right: Mapping[str, list[float]]) -> dict[str, float]:
    """accuracy and loss over all tokens, then the accuracy of each source."""
    counted = {name: sums for name, sums in right.items() if sums[2]}
    total = [sum(column) for column in zip(*counted.values(), strict=True)]
    if not total:
        return {}
    told = {"accuracy": total[0] / total[2], "loss": total[1] / total[2]}
    return told | {f"accuracy of {name}": sums[0] / sums[2] for name, sums in counted.items()}
