"""Facts from what `tianwen extract --json` prints: one text a line, each fact with the sentence it stands in as source.

Post: 0229 (from a page to an answer), 8888 (where the facts come from), 8802 (where they go)

A line is `{"text": ..., "facts": [{"subject": M, "predicate": ..., "object": M}, ...], "source": ...}` with mentions
`M = {"start": ..., "end": ...}` in characters of the text, ends exclusive; where a mention is a mere string, its first
place in the text is meant. The source of a fact is

    page.txt:120-164: 战神I-X从肯尼迪航天中心发射。

that is, the text's own source, the place of the sentence (or of the neighbouring sentences that hold both mentions) in
it, and the sentence.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

from tianwen.sentences import sentence_around

LONGEST_SENTENCE = 400
"""Characters of a sentence that are kept; of a longer one the part around the mentions."""

Fields = dict[str, object]
"""A record of a facts file: field -> value."""


class BrokenFact(ValueError):
    """A fact that cannot be read; the message is the reason."""


def is_extraction(record: object) -> TypeGuard[dict[str, Any]]:
    """Whether a JSON value is a text with what was extracted from it."""
    return isinstance(record, dict) and isinstance(record.get("text"), str) and isinstance(record.get("facts"), list)


def extracted(record: Mapping[str, Any]) -> Iterator[Fields | BrokenFact]:
    """The facts of one extracted text, in its order; a broken one yields the reason instead.

    Of the same fact in two places, one within the other (a title's mention and the sentence's own), only the narrower
    one comes out; said in two sentences, it comes twice, with a source each.
    """
    text, name = record["text"], record.get("source")
    read: list[_Stated | BrokenFact] = [_stated(text, fact) for fact in record["facts"]]
    places: dict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
    for one in read:
        if not isinstance(one, BrokenFact):
            places[one.triple].append((one.start, one.end))
    narrow = {triple: _narrowest(spans) for triple, spans in places.items()}
    for one in read:
        if isinstance(one, BrokenFact):
            yield one
        elif (one.start, one.end) in narrow[one.triple]:
            narrow[one.triple].remove((one.start, one.end))  # in one place once
            source = _source(text, one.start, one.end, name if isinstance(name, str) else "")
            yield {**dict(zip(("subject", "predicate", "object"), one.triple, strict=True)), "source": source}


class _Stated(NamedTuple):
    """A fact in words, and the place from its first mention to the end of its last."""

    triple: tuple[str, str, str]
    start: int
    end: int


def _stated(text: str, fact: object) -> _Stated | BrokenFact:
    try:
        if not isinstance(fact, dict):
            raise BrokenFact("an extracted fact is no object")
        start, end, subject = _mention(text, fact, "subject")
        other_start, other_end, object = _mention(text, fact, "object")
        predicate = fact.get("predicate")
        if not isinstance(predicate, str):
            raise BrokenFact("an extracted fact without a predicate")
    except BrokenFact as problem:
        return problem
    return _Stated((subject, predicate, object), min(start, other_start), max(end, other_end))


def _narrowest(spans: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """The spans that hold none of the others."""
    kept: set[tuple[int, int]] = set()
    first_end = float("inf")  # the first end of all that start later, or there and end before
    for start, end in sorted(set(spans), key=lambda span: (-span[0], span[1])):
        if end < first_end:
            kept.add((start, end))
            first_end = end
    return kept


def _mention(text: str, fact: Mapping[str, Any], role: str) -> tuple[int, int, str]:
    """Start, end and words: whitespace within, such as a line end, becomes one space."""
    start, end = _place(text, fact.get(role), role)
    if not start < end <= len(text):
        raise BrokenFact(f"the {role} of an extracted fact lies outside of the text")
    words = _one_line(text[start:end])
    if _readable(words) != words:
        raise BrokenFact(f"the {role} of an extracted fact holds half a surrogate pair, which is not text")
    return start, end, words


def _place(text: str, mention: object, role: str) -> tuple[int, int]:
    if isinstance(mention, str):
        at = text.find(mention)
        if at < 0:
            raise BrokenFact(f"the {role} of an extracted fact does not stand in its text")
        return at, at + len(mention)
    places = [mention.get(side) for side in ("start", "end")] if isinstance(mention, dict) else [None, None]
    # The reader of facts keeps numbers as they are written.
    if not all(isinstance(place, int | str) and str(place).isdecimal() for place in places):
        raise BrokenFact(f"the {role} of an extracted fact has no place (start, end)")
    return int(str(places[0])), int(str(places[1]))


def _source(text: str, start: int, end: int, name: str) -> str:
    first, last = sentence_around(text, start, end)
    sentence = text[first:last]
    if last - first > LONGEST_SENTENCE:
        low = max(first, min(start - LONGEST_SENTENCE // 4, last - LONGEST_SENTENCE))
        high = min(last, low + LONGEST_SENTENCE)
        sentence = "…" * (low > first) + text[low:high] + "…" * (high < last)
    place = f"{name}:{first}-{last}" if name else f"{first}-{last}"
    return f"{place}: {_readable(_one_line(sentence))}"


def _readable(text: str) -> str:
    """Half surrogate pairs as U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _one_line(text: str) -> str:
    """Without line ends, NULs and other characters that steer a terminal."""
    return " ".join("".join(" " if ch < " " or "\x7f" <= ch < "\xa0" else ch for ch in text).split())
