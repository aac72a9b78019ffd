"""Which tokens make a word, so that a word is hidden as a whole.

Post: 8998 (whole-word masking). The words of Chinese are those of jieba (extra "pretrain"); without it a character is a
word, and only pieces of one alphabetic word belong together.

Notation
    n       tokens of a text          offsets [n, 2]  their places in it, in characters
    starts  bool [n]: true where a token begins a word
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32

from tianwen.errors import MissingExtra

Words = Literal["jieba", "characters"]
Cut = Callable[[str], Iterable[str]]
"""From a text to its words, which joined are the text."""

LONGEST = 8
"""Tokens of a word; a longer run (an address, a number of twenty digits) is no word that anyone could guess."""


def word_cutter(words: Words) -> Cut | None:
    """The function that cuts a text into words; None where characters are words. Raises MissingExtra without jieba."""
    if words == "characters":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its patterns have escapes that newer Pythons complain about
            import jieba
    except ImportError as error:
        raise MissingExtra("jieba", "pretrain") from error
    jieba.setLogLevel(60)  # it announces its dictionary on stderr
    jieba.initialize()
    return lambda text: jieba.cut(text, HMM=False)


def word_starts(
    text: str, offsets: Int32[np.ndarray, " tokens 2"], continues: Bool[np.ndarray, " tokens"], cut: Cut | None
) -> Bool[np.ndarray, " tokens"]:
    """True where a token begins a word; `continues` marks pieces that go on with the word before them (##ing)."""
    first = offsets[:, 0]
    if cut is None:
        belongs = continues | np.concatenate([[False], first[1:] == first[:-1]])  # bytes of one character
    else:
        ends = np.cumsum([len(word) for word in cut(text)])
        word = np.searchsorted(ends, first, side="right")  # [n]
        belongs = np.concatenate([[False], word[1:] == word[:-1]])
    starts = ~belongs[: len(first)]
    if len(starts):
        starts[0] = True
    return _not_too_long(starts)


def _not_too_long(starts: Bool[np.ndarray, " tokens"]) -> Bool[np.ndarray, " tokens"]:
    """Words of more than LONGEST tokens in several."""
    begins = np.flatnonzero(starts)
    place = np.arange(len(starts)) - np.repeat(begins, np.diff(np.append(begins, len(starts))))
    return starts | (place % LONGEST == 0)
