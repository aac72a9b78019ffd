"""Find the words of a list in a text: all that stand in it, or the fewest that cover it.

No segmenter stands behind it. A Han character is a unit, and so is a run of Latin letters or digits; a word is looked
up over up to six units, so that "art" is not found in "start". What the list lacks stays a unit without a number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from tianwen.words.vectors import LONGEST

_UNIT = re.compile(r"[^\W\d_\u3040-\u30ff\u3400-\u9fff]+|\d+|[^\s\ud800-\udfff]")
"""A lone surrogate, an odd byte of the file that was read, is no unit: no file could keep the word."""

SINGLE = 0.3
"""What a word of one unit costs more than a longer one: of two covers, the one with longer words is taken."""
UNKNOWN = 2.5


class Words:
    """A list of words, each with its number: its place."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._number = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def number(self, word: str) -> int | None:
        """Its place in the list."""
        return self._number.get(word)

    def inside(self, text: str) -> list[int]:
        """Numbers of all words in the text, overlapping ones too, each once, by first place."""
        found = map(self.number, spans_of(text))
        return list(dict.fromkeys(number for number in found if number is not None))

    def cover(self, text: str, *, below: int | None = None) -> tuple[list[int], list[str]]:
        """Numbers of the fewest words that cover the text (of the first `below`), and the units that none covers."""
        units = units_of(text)
        cost = [0.0] + [float("inf")] * len(units)
        step: list[tuple[int, int | None]] = [(0, None)] * (len(units) + 1)
        for start, stop, word in _spans(units):
            number = self._number.get(word)
            if below is not None and number is not None and number >= below:
                number = None
            if number is None and stop - start > 1:
                continue
            price = UNKNOWN if number is None else 1.0 + SINGLE * (stop - start == 1)
            if cost[start] + price < cost[stop]:
                cost[stop], step[stop] = cost[start] + price, (start, number)
        known, unknown, stop = [], [], len(units)
        while stop:
            start, number = step[stop]
            if number is None:
                unknown.append(units[start])
            else:
                known.append(number)
            stop = start
        return known[::-1], unknown[::-1]


def units_of(text: str) -> list[str]:
    """The units of a text, normalised (NFKC, lower case)."""
    return _UNIT.findall(unicodedata.normalize("NFKC", text).lower())


def spans_of(text: str, longest: int = LONGEST) -> list[str]:
    """All runs of up to `longest` units of a text, joined, by first place."""
    return [word for a, b, word in _spans(units_of(text)) if b - a <= longest]


def _spans(units: list[str]) -> list[tuple[int, int, str]]:
    """(start, stop, joined) of up to LONGEST units, by start; covers may be built in this order."""
    ends = [(a, b) for a in range(len(units)) for b in range(a + 1, min(len(units), a + LONGEST) + 1)]
    return [(a, b, "".join(units[a:b])) for a, b in ends]
