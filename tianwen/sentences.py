"""Where sentences end, in Chinese and English, by punctuation alone; all places are characters of the text as given.

A sentence ends after 。！？!?…； or a line end, and after a full stop that a space or the text's end follows and no
capital letter or short title stands before (J. Smith, Dr. Smith). Closing quotes and brackets belong to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_CLOSING = "[”’」』）》】\"')\\]]*"
_END = re.compile(
    rf"(?:[。！？!?…；]+{_CLOSING}|(?<![A-Z])(?<!\b[A-Z][a-z])(?<!\b[A-Z][a-z]{{2}})\.+{_CLOSING}(?=\s|$)|[\n\r\u2028\u2029]+)\s*"
)
_LOOK = 2000
"""Characters that are looked at on either side of a place, whatever the text's length."""


def sentence_ends(text: str) -> Iterator[int]:
    """The places behind each sentence, in order; the text's end only if a sentence ends there."""
    return (match.end() for match in _END.finditer(text))


def sentence_around(text: str, start: int, end: int) -> tuple[int, int]:
    """The sentence, or the neighbouring sentences, that hold text[start:end], without space around them."""
    low, high = max(0, start - _LOOK), min(len(text), end + _LOOK)
    ends = [low + at for at in sentence_ends(text[low:high])]
    first = max((at for at in ends if at <= start), default=low)
    last = min((at for at in ends if at >= end), default=high)
    while first < start and text[first].isspace():
        first += 1
    while last > end and text[last - 1].isspace():
        last -= 1
    return first, last
