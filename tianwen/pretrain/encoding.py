"""Passages to token ids and the beginnings of words: what each process does that makes a corpus.

Post: 8998. Nothing here imports torch: the processes start from nothing, and should start soon.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tianwen.pretrain.words import Cut, Words, word_cutter, word_starts
from tianwen.text import Tokenizer
from tianwen.vocabulary import CONTINUES

Block = tuple[np.ndarray, np.ndarray, np.ndarray]
"""ids [n], starts bool [n] and lengths int64 [passages] of some passages, their [SEP] counted."""


class Encode:
    """Passages to ids and word starts; one to a process."""

    def __init__(self, tokenizer: Tokenizer, words: Words) -> None:
        self.tokenizer = tokenizer
        self.words: Words = words
        self.kind = np.uint16 if tokenizer.size <= 1 << 16 else np.uint32
        self.continues = np.array([p.startswith(CONTINUES) and len(p) > len(CONTINUES) for p in tokenizer.pieces])
        self.cut: Cut | None = word_cutter(words)

    def __call__(self, texts: Sequence[str]) -> Block:
        """The block of these texts; those without a token are left out."""
        ids, starts, lengths = [], [], []
        end, first = np.array([self.tokenizer.sep_id], self.kind), np.ones(1, bool)
        for text in texts:
            encoded = self.tokenizer.encode(text)
            if len(encoded):
                ids += [encoded.ids.astype(self.kind), end]
                starts += [word_starts(text, encoded.offsets, self.continues[encoded.ids], self.cut), first]
                lengths.append(len(encoded) + 1)
        if not lengths:
            return np.zeros(0, self.kind), np.zeros(0, bool), np.zeros(0, np.int64)
        return np.concatenate(ids), np.concatenate(starts), np.array(lengths, np.int64)


_encoders: list[Encode] = []
"""The one of this worker process."""


def begin_worker(tokenizer: Tokenizer, words: Words) -> None:
    """Make this process ready for `encode_in_worker`."""
    _encoders.append(Encode(tokenizer, words))


def encode_in_worker(texts: list[str]) -> Block:
    """The block of these texts, by the process that works."""
    return _encoders[0](texts)
