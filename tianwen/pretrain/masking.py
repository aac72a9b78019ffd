"""Whole-word masking: which words the encoder must guess, and what it sees in their place.

Post: 8998 (15% of the words; of these 80% hidden, 10% replaced, 10% left as they are, decided per word).

Notation
    n       tokens, the sequences of a batch end to end          V  vocabulary
    starts  bool [n], true where a word begins ([CLS] and [SEP] are words of their own)
    u_w     uniform in [0, 1), one number a word; r = .15:
            u < .8 r: every token of the word becomes [MASK]     .8 r <= u < .9 r: each a random ordinary token
            .9 r <= u < r: the word stays, and is asked for all the same
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64

from tianwen.errors import InputError
from tianwen.text import Tokenizer
from tianwen.vocabulary import SPECIAL_PIECES

HIDDEN, REPLACED = 0.8, 0.9
"""Up to these parts of the rate a word is hidden, or replaced."""


def check_rate(rate: float) -> None:
    """Raise InputError unless 0 < rate < 1."""
    if not 0 < rate < 1:
        raise InputError(f"The share of words to guess is {rate}; it lies between 0 and 1, usually .15.")


def ordinary_ids(tokenizer: Tokenizer) -> Int64[np.ndarray, " ordinary"]:
    """The ids that may stand in for a word: all but the special pieces."""
    special = set(SPECIAL_PIECES)
    return np.array([i for i, piece in enumerate(tokenizer.pieces) if piece not in special], np.int64)


def mask_words(
    ids: Int64[np.ndarray, " tokens"],
    starts: Bool[np.ndarray, " tokens"],
    ordinary: Bool[np.ndarray, " vocabulary"],
    *,
    random: np.random.Generator,
    rate: float,
    mask_id: int,
    stand_ins: Int64[np.ndarray, " ordinary"],
) -> tuple[Int64[np.ndarray, " tokens"], Bool[np.ndarray, " tokens"]]:
    """What is read, and true where the token is asked for; special tokens (not `ordinary`) never are."""
    word = np.cumsum(starts) - 1  # [n]
    fate = random.random(int(word[-1]) + 1 if len(word) else 0)[word]  # u of the token's word
    asked = (fate < rate) & ordinary[ids]
    read = np.where(asked & (fate < HIDDEN * rate), mask_id, ids)
    replaced = asked & (fate >= HIDDEN * rate) & (fate < REPLACED * rate)
    read[replaced] = stand_ins[random.integers(0, len(stand_ins), int(replaced.sum()))]
    return read, asked
