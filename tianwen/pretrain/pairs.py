"""Pairs of texts with a label: do they mean the same, does one follow from the other? Read, and a head for them.

Post: 8998 (its multi-task stage).

    .jsonl        {"sentence1" or "text", "sentence2" or "other", "label"}
    anything else text, text, label with tabs between

Notation
    B  pairs      c  labels      the pair is read as [CLS] a [SEP] b [SEP], segment 0; the first token's state is scored
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.backbone.packing import Pack, pack
from tianwen.backbone.roformer_v2 import RoFormerV2
from tianwen.errors import InputError
from tianwen.text import Tokenizer

FIRST, SECOND = ("sentence1", "text"), ("sentence2", "other")


@dataclass(frozen=True)
class Pair:
    """Two texts and the label of the pair."""

    first: str
    second: str
    label: str


def read_pairs(file: str | Path) -> list[Pair]:
    """The pairs of a file. Raises InputError that names the line which is none."""
    path = Path(file)
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}). Write it anew, for example with iconv.") from None
    read = _from_json if path.suffix in (".jsonl", ".ndjson") else _from_columns
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        pair = read(line)
        if pair is None:
            raise InputError(
                f"{path}, line {number}: {line[:60]!r} is no pair. A pair is two texts and a label: three columns with "
                'tabs between, or (.jsonl) {"sentence1": .., "sentence2": .., "label": ..}.'
            )
        pairs.append(pair)
    if len({pair.label for pair in pairs}) < 2:
        raise InputError(f"{path} has {len(pairs)} pairs with fewer than two labels: there is nothing to tell apart.")
    return pairs


def _from_columns(line: str) -> Pair | None:
    columns = [column.strip() for column in line.split("\t")]
    return Pair(*columns) if len(columns) == 3 and all(columns) else None


def _from_json(line: str) -> Pair | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    first, second = (next((row[name] for name in names if name in row), None) for names in (FIRST, SECOND))
    label = row.get("label")
    if not (isinstance(first, str) and isinstance(second, str)) or not isinstance(label, str | int) or not first:
        return None
    return Pair(first, second, str(label))


@dataclass(frozen=True)
class PairBatch:
    """Pairs laid end to end, and the number of each one's label, in the order of the pack."""

    pack: Pack
    labels: Int[Tensor, " pairs"]


class PairCollate:
    """From pairs to a batch; each text is cut to half of `length`."""

    def __init__(self, tokenizer: Tokenizer, labels: Sequence[str], *, length: int) -> None:
        self.tokenizer, self.room = tokenizer, (length - 3) // 2
        self.number = {label: i for i, label in enumerate(labels)}

    def __call__(self, pairs: list[Pair], random: np.random.Generator) -> PairBatch:
        """One batch."""
        del random
        (together,) = pack([self.ids(pair) for pair in pairs], budget=1 << 40)
        numbers = [self.number[pairs[i].label] for i in together.order]
        return PairBatch(together, torch.tensor(numbers))

    def ids(self, pair: Pair) -> np.ndarray:
        """[CLS] a [SEP] b [SEP]."""
        known, end = self.tokenizer, [self.tokenizer.sep_id]
        first, second = (known.ids(text)[: self.room] for text in (pair.first, pair.second))
        return np.concatenate([[known.cls_id], first, end, second, end]).astype(np.int64)


class PairModel(nn.Module):
    """A backbone and one linear map from the first token's state to the labels."""

    def __init__(self, backbone: RoFormerV2, labels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(backbone.config.dropout)
        self.scores = nn.Linear(backbone.config.width, labels)
        nn.init.normal_(self.scores.weight, std=0.02)

    def forward(self, batch: Pack) -> Float[Tensor, " pairs labels"]:
        """Scores of each label, pairs in the order of the pack."""
        first = self.backbone.forward_packed(batch)[batch.starts]  # [B, width]
        return self.scores(self.dropout(first))


def pair_loss(model: PairModel, batch: PairBatch) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy over pairs."""
    loss = F.cross_entropy(model(batch.pack).float(), batch.labels)
    return loss, {"weight": float(len(batch.labels)), "tokens": float(len(batch.pack.ids))}
