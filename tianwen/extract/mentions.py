"""Which mention of a string is meant, where the data give strings without offsets: find them all, then a named policy.

Post: 8888 (the reference labels only the first mention of a string; the others become wrong negatives)

Policies
    "all"      every pair of a mention of the subject and a mention of the object states the fact (the default)
    "first"    the first mention of each
    "nearest"  the pair with the fewest characters between, of two that are equal the first; all mentions of the
               string stay entities, only the facts are fewer

Strings of words stand at word boundaries: "art" is not in "part". Han, kana, Hangul, Thai and their like have no
boundaries. Mentions may overlap ("哈哈" in "哈哈哈" is two). What is not there as given is looked for inside words,
then in other case and width.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal, get_args

from tianwen.errors import InputError

Policy = Literal["all", "first", "nearest"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
MOST_PAIRS = 256  # of one fact in one text; beyond, each mention keeps its nearest partner

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """Where a string stands in a text; `how` is the kind of the report when it is not there as given, else ""."""

    spans: tuple[Span, ...]
    how: Literal["", "inside-word", "other-case"] = ""


def check_policy(policy: str) -> Policy:
    """The policy, if there is one of that name. Raises InputError."""
    for known in POLICIES:
        if policy == known:
            return known
    raise InputError(f"The policy {policy!r} is not known; allowed are {', '.join(POLICIES)}.")


def find_mentions(text: str, string: str) -> Found:
    """All mentions of `string` in `text`, in order; without any, `spans` is empty."""
    if not string:
        return Found(())
    if spans := _occurrences(text, string):
        whole = tuple(span for span in spans if not inside_word(text, span))
        return Found(whole) if whole else Found(spans, "inside-word")
    if spans := _occurrences(_plain(text), _plain(string)):
        whole = tuple(span for span in spans if not inside_word(text, span))
        return Found(whole or spans, "other-case")
    return Found(())


def choose_pairs(subjects: Sequence[Span], objects: Sequence[Span], policy: Policy) -> list[tuple[Span, Span]]:
    """The pairs of mentions that state a fact, by the policy; a mention is its own partner only if nothing else is."""
    if not subjects or not objects:
        return []
    if policy == "first":
        return [(subjects[0], objects[0])]
    if policy == "nearest":
        return [min(((s, _nearest(s, objects)) for s in subjects), key=_apart)]
    if len(subjects) * len(objects) > MOST_PAIRS:
        nearest = {(s, _nearest(s, objects)) for s in subjects} | {(_nearest(o, subjects), o) for o in objects}
        return sorted(nearest)
    pairs = list(product(subjects, objects))
    return [pair for pair in pairs if pair[0] != pair[1]] or pairs


def choose_one(spans: Sequence[Span], policy: Policy, near: Span | None = None) -> list[Span]:
    """The mentions of one argument of an event; "nearest" is near the trigger, or the first where there is none."""
    if policy == "all" or not spans:
        return list(spans)
    if policy == "first" or near is None:
        return [spans[0]]
    return [_nearest(near, spans)]


def _nearest(span: Span, others: Sequence[Span]) -> Span:
    """The nearest of `others` (in order, equally long): the last before, the first behind, or one that overlaps."""
    behind = bisect_left(others, (span[1], 0))
    before = bisect_left(others, (span[0], 0))  # others[:before] begin before the span
    while before > 0 and others[before - 1][1] > span[0]:
        before -= 1
    nearby = [*others[max(before - 1, 0) : before], *others[behind : behind + 1]] or others[before:behind]
    return min(nearby, key=lambda other: _apart((span, other)))


def _apart(pair: tuple[Span, Span]) -> tuple[bool, int, int, int]:
    (start, end), (other_start, other_end) = pair
    between = max(other_start - end, start - other_end)
    return between < 0, max(between, 0), start, other_start


def _occurrences(text: str, string: str) -> tuple[Span, ...]:
    spans, place = [], text.find(string)
    while place >= 0:
        spans.append((place, place + len(string)))
        place = text.find(string, place + 1)
    return tuple(spans)


def inside_word(text: str, span: Span) -> bool:
    """Whether a span begins or ends between two characters of one word."""
    start, end = span
    before = start > 0 and _in_words(text[start - 1]) and _in_words(text[start])
    after = end < len(text) and _in_words(text[end - 1]) and _in_words(text[end])
    return before or after


@lru_cache(maxsize=4096)
def _in_words(character: str) -> bool:
    """Whether a character belongs to words that are written apart (letters, digits, marks; not Han, Thai, ...)."""
    code = ord(character)
    apart = code < 0x0E00 or 0x10A0 <= code < 0x1100 or 0x1200 <= code < 0x1700 or 0x1E00 <= code < 0x2000
    return apart and unicodedata.category(character)[0] in "LNM"


def _plain(text: str) -> str:
    """Lower case and narrow, of the same length: a character that would become several stays as it is."""
    return "".join(map(_plain_character, text))


@lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    plain = unicodedata.normalize("NFKC", character).lower()
    return plain if len(plain) == 1 else character
