"""Batches for training an extractor: names swapped, tokens hidden, texts of similar length padded together.

Posts: 8888. Two cheap ways to make a small model read the context instead of learning names by heart:
    swap   a mention gives way to another mention of the same label, everywhere in its text
    hide   a token becomes [MASK]

Notation: B texts, T longest, n positives of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tianwen.extract.gplinker import Positives
from tianwen.extract.labels import Example


@dataclass(frozen=True)
class Noise:
    """Shares of mentions swapped and tokens hidden."""

    swap: float = 0.0
    hide: float = 0.0


class Collate:
    """From examples to one batch: ids [B, T], lengths [B] and the positives of the three maps."""

    def __init__(self, examples: Sequence[Example], *, events: bool, mask_id: int, noise: Noise, longest: int) -> None:
        """`examples`: all of them, whose mentions are the names to swap in; no text grows beyond `longest`."""
        self.events, self.mask_id, self.noise, self.longest = events, mask_id, noise, longest
        self.names = names_by_label(examples) if noise.swap else {}

    def __call__(self, examples: list[Example], random: np.random.Generator) -> dict[str, Tensor | Positives]:
        """One batch, noise added."""
        noisy = [self._hidden(self._swapped(example, random), random) for example in examples]
        return padded(noisy, events=self.events)

    def _swapped(self, example: Example, random: np.random.Generator) -> Example:
        if not self.noise.swap or not len(example.mentions):
            return example
        chosen = {}
        for label, first, last in example.mentions.tolist():
            old = example.ids[first : last + 1].tobytes()
            if old not in chosen:
                new = None
                if random.random() < self.noise.swap:
                    names = self.names[label]
                    new = names[int(random.integers(len(names)))]
                chosen[old] = new
        return swapped(example, {old: new for old, new in chosen.items() if new is not None}, longest=self.longest)

    def _hidden(self, example: Example, random: np.random.Generator) -> Example:
        if not self.noise.hide:
            return example
        hide = random.random(len(example.ids)) < self.noise.hide
        hide[[0, -1]] = False
        return Example(np.where(hide, self.mask_id, example.ids), example.mentions, example.links)


def names_by_label(examples: Sequence[Example]) -> dict[int, list[np.ndarray]]:
    """The different names (as tokens) that each label has."""
    names: dict[int, dict[bytes, np.ndarray]] = {}
    for example in examples:
        for label, first, last in example.mentions.tolist():
            tokens = example.ids[first : last + 1]
            names.setdefault(label, {})[tokens.tobytes()] = tokens
    return {label: list(found.values()) for label, found in names.items()}


def swapped(example: Example, names: dict[bytes, np.ndarray], *, longest: int) -> Example:
    """The example with the tokens of some mentions replaced; as it was if mentions overlap or it would grow too long.

    `names`: from the bytes of the old tokens to the new tokens.
    """
    spans = sorted({(first, last) for _, first, last in example.mentions.tolist()})
    if not names or any(after <= last for (_, last), (after, _) in pairwise(spans)):
        return example
    parts, moved, at, shift = [], {}, 0, 0
    for first, last in spans:
        old = example.ids[first : last + 1]
        new = names.get(old.tobytes(), old)
        parts += [example.ids[at:first], new]
        moved[first] = (first + shift, first + shift + len(new) - 1)
        shift += len(new) - len(old)
        at = last + 1
    ids = np.concatenate([*parts, example.ids[at:]])
    if len(ids) > longest:
        return example
    mentions = [(label, *moved[first]) for label, first, _ in example.mentions.tolist()]
    return Example(ids, np.array(mentions, np.int64).reshape(-1, 3), example.links)


def padded(examples: Sequence[Example], *, events: bool) -> dict[str, Tensor | Positives]:
    """Rows padded to the longest, with the positives of all of them."""
    lengths = np.array([len(example) for example in examples])
    ids = np.zeros((len(examples), int(lengths.max())), np.int64)
    tables: list[list[np.ndarray]] = [[], [], []]
    for row, example in enumerate(examples):
        ids[row, : lengths[row]] = example.ids
        for table, cells in zip(tables, example.positives(events=events), strict=True):
            table.append(np.concatenate([np.full((len(cells), 1), row), cells], 1))
    positives = Positives(*(torch.from_numpy(np.concatenate(table)) for table in tables))
    return {"ids": torch.from_numpy(ids), "lengths": torch.from_numpy(lengths), "positives": positives}
