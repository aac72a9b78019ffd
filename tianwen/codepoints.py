"""The fast path of the tokenizer: what each codepoint becomes, asked of the slow path once, then looked up.

Notation: c = characters of a batch joined to one array, m = ids of the batch.
    codes    int32 [c]  id + 1 where a character is exactly one piece, else one of the marks below
    counts   int64 [c]  how many ids go to the output at this character (a word's all at its first)
    row_ptr  int64 [rows + 1], tokens int32 [m]  as in `tianwen.text`

A character may be looked up alone when its neighbours cannot change it: it does not compose with what stands before
it, and it is a separator, pieces by itself, or a letter whose whole run is looked up as a word. A text that holds
anything else goes the slow path.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from tianwen.cutting import LONGEST_WORD, Cutter, Place

_NEW = 0  # not met yet
_SLOW = -1  # its neighbours matter
_SEPARATOR = -2
_SEVERAL = -3  # a fixed row of ids
_LETTER = -4  # part of a word

_CODEPOINTS = 0x110000
_MOST_WORDS_KEPT = 1 << 18
_CHUNK = 1 << 19  # characters at a time, so that the arrays of a step stay small
_HANGUL_JAMO = range(0x1100, 0x1200)  # the only letters that compose with the letter before them
_SURROGATES = range(0xD800, 0xE000)


class Word(NamedTuple):
    """A letter run: its ids, and their places counted from its first character."""

    ids: tuple[int, ...]
    places: tuple[Place, ...]


class Layout(NamedTuple):
    """What became of a batch of texts."""

    tokens: np.ndarray  # [m]
    counts: np.ndarray  # [c]
    row_counts: np.ndarray  # [rows]
    runs: list[tuple[int, int]]  # the letter runs: start and end in the joined characters
    slow_rows: list[int]  # the texts that went the slow path


class Codepoints:
    """A table over all codepoints, filled as they are met. Filling twice writes the same, so threads need no lock."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._codes = np.zeros(_CODEPOINTS, np.int32)  # pages that are never touched cost no memory
        self._single = _Singles(self)
        self._several: dict[str, tuple[int, ...]] = {}
        self._words: dict[str, Word | None] = {}

    def short_ids(self, text: str) -> np.ndarray | None:
        """Ids of a short text when each of its characters is exactly one piece, else None; quicker than arrays."""
        single = self._single
        try:
            return np.array([single[character] for character in text], np.int32)
        except KeyError:
            return None

    def ids_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """row_ptr and tokens of `texts`."""
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        ends = np.cumsum(lengths)
        row_ptr = np.zeros(len(texts) + 1, np.int64)
        chunks = [np.empty(0, np.int32)]
        first = 0
        while first < len(texts):
            budget = (ends[first - 1] if first else 0) + _CHUNK
            last = max(first + 1, int(np.searchsorted(ends, budget, side="right")))
            layout = self.lay_out(texts[first:last], lengths[first:last])
            row_ptr[first + 1 : last + 1] = layout.row_counts
            chunks.append(layout.tokens)
            first = last
        tokens = chunks[1] if len(chunks) == 2 else np.concatenate(chunks)
        return np.cumsum(row_ptr, out=row_ptr), tokens

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray] | None:
        """ids and offsets of `text`, or None when it is a case for the slow path."""
        layout = self.lay_out([text], np.array([len(text)]))
        if layout.slow_rows:
            return None
        start = np.repeat(np.arange(len(text), dtype=np.int32), layout.counts)
        offsets = np.stack([start, start + 1], axis=1)  # [m, 2]
        first_id = np.cumsum(layout.counts) - layout.counts
        for a, b in layout.runs:
            word = self._word(text[a:b])
            if word:
                offsets[first_id[a] : first_id[a] + len(word.ids)] = np.array(word.places, np.int32) + a
        return layout.tokens, offsets

    def census(self, texts: list[str]) -> Counter[str]:
        """How often each character that is cut by itself, and each letter run, stands in `texts`, as written there."""
        joined = "".join(texts)
        codes = self._codes_of(joined)
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        seen: Counter[str] = Counter()
        for row in np.unique(np.searchsorted(ends, np.flatnonzero(codes == _SLOW), side="right")).tolist():
            seen.update(self._cutter.words(texts[row]))
            codes[ends[row] - len(texts[row]) : ends[row]] = _SEPARATOR
        by_itself = _codepoints(joined)[(codes > 0) | (codes == _SEVERAL)]
        found, often = np.unique(by_itself, return_counts=True)
        seen.update(dict(zip(map(chr, found.tolist()), often.tolist(), strict=True)))
        starts = np.concatenate([[0], ends[:-1]])
        seen.update(joined[start:end] for start, end in _letter_runs(codes, starts))
        return seen

    def lay_out(self, texts: list[str], lengths: np.ndarray) -> Layout:
        """Cut `texts`, whose lengths in characters are `lengths` [rows]."""
        joined = texts[0] if len(texts) == 1 else "".join(texts)
        codes = self._codes_of(joined)
        if len(codes) == 0 or codes.min() > 0:  # every character is one piece
            return Layout(codes - 1, np.ones(len(codes), np.int64), lengths, [], [])
        ends = np.cumsum(lengths)
        runs = _letter_runs(codes, ends - lengths)
        spans = self._spans(joined, np.flatnonzero(codes == _SEVERAL).tolist(), runs)
        slow_places = np.concatenate([np.flatnonzero(codes == _SLOW), spans.without_ids()])
        slow_rows = np.unique(np.searchsorted(ends, slow_places, side="right"))
        spans.drop_rows(slow_rows, ends)
        counts = (codes > 0).astype(np.int64)
        for row in slow_rows.tolist():
            start = int(ends[row] - lengths[row])
            counts[start : int(ends[row])] = 0
            spans.put(start, "", self._cutter.encode(texts[row])[0])
        tokens = spans.fill(codes - 1, counts)
        total = np.concatenate([[0], np.cumsum(counts)])
        return Layout(tokens, counts, total[ends] - total[ends - lengths], runs, slow_rows.tolist())

    def _spans(self, joined: str, several: list[int], runs: list[tuple[int, int]]) -> _Spans:
        spans = _Spans()
        for place in several:
            spans.put(place, joined[place], self._several[joined[place]])
        for start, end in runs:
            run = joined[start:end]
            if not spans.put_again(start, run):
                word = self._word(run)
                spans.put(start, run, word.ids if word else None)
        return spans

    def _word(self, run: str) -> Word | None:
        """The letter run by itself, or None when it is not the same everywhere (or too long to keep)."""
        if len(run) > LONGEST_WORD:
            return None
        words = self._words  # another thread may put an empty one in its place meanwhile
        if run not in words:
            if len(words) >= _MOST_WORDS_KEPT:
                words = self._words = {}
            ids, places = self._cutter.encode(run)
            # Between two words that are spelt in bytes stands one more byte: such a word depends on its neighbours.
            words[run] = None if self._cutter.spells(ids) else Word(tuple(ids), tuple(places))
        return words[run]

    def single(self, character: str) -> int:
        """The id of a character that is exactly one piece. Raises KeyError for any other."""
        code = int(self._codes_of(character)[0])
        if code <= 0:
            raise KeyError(character)
        return code - 1

    def _codes_of(self, joined: str) -> np.ndarray:
        codepoints = _codepoints(joined)
        codes = self._codes[codepoints]
        if len(codes) and not codes.all():
            for codepoint in np.unique(codepoints[codes == _NEW]).tolist():
                self._learn(codepoint)
            codes = self._codes[codepoints]
        return codes

    def _learn(self, codepoint: int) -> None:
        """Ask the slow path what `codepoint` is."""
        character = chr(codepoint)
        code = self._mark(character, codepoint)
        if code == _SEVERAL:
            ids = self._cutter.encode(character)[0]
            self._several[character] = tuple(ids)
            if len(ids) == 1:
                code = ids[0] + 1
        self._codes[codepoint] = code  # last: who sees the code finds the rest

    def _mark(self, character: str, codepoint: int) -> int:
        if codepoint in _SURROGATES:
            return _SLOW if self._cutter.style == "bert" else _SEVERAL
        if not _stands_alone(character):
            return _SLOW
        words = self._cutter.words("a" + character + "a")
        if words == ["a", "a"]:
            return _SEPARATOR
        if len(words) == 1:
            return _LETTER if len(words[0]) > 2 else _SLOW  # "aa": the character was dropped
        inside = words[1:-1]
        by_itself = words[0] == words[-1] == "a" and not any(self._cutter.is_word(end) for w in inside for end in w)
        return _SEVERAL if by_itself else _SLOW


class _Singles(dict[str, int]):
    """Character to id, for those that are exactly one piece; filled as they are met."""

    def __init__(self, codepoints: Codepoints) -> None:
        super().__init__()
        self._codepoints = codepoints

    def __missing__(self, character: str) -> int:
        return self.setdefault(character, self._codepoints.single(character))


class _Spans:
    """Rows of ids that go in at characters that are not exactly one piece."""

    def __init__(self) -> None:
        self._rows: list[Sequence[int] | None] = []
        self._row_of: dict[str, int] = {}
        self._places: list[int] = []
        self._chosen: list[int] = []

    def put(self, place: int, key: str, ids: Sequence[int] | None) -> None:
        """`ids` go in at character `place`; None: they are not known."""
        self._row_of[key] = len(self._rows)
        self._rows.append(ids)
        self.put_again(place, key)

    def put_again(self, place: int, key: str) -> bool:
        """The same ids as for `key` before go in at `place`; False when there are none."""
        row = self._row_of.get(key, -1)
        if row >= 0:
            self._places.append(place)
            self._chosen.append(row)
        return row >= 0

    def without_ids(self) -> np.ndarray:
        """The places whose ids are not known."""
        unknown = {row for row, ids in enumerate(self._rows) if ids is None}
        places = [p for p, row in zip(self._places, self._chosen, strict=True) if row in unknown] if unknown else []
        return np.array(places, np.int64)

    def drop_rows(self, rows: np.ndarray, ends: np.ndarray) -> None:
        """Forget what was put into the texts `rows`, when text i ends before character ends[i]."""
        if len(rows):
            keep = ~np.isin(np.searchsorted(ends, self._places, side="right"), rows)
            self._places = np.array(self._places, np.int64)[keep].tolist()
            self._chosen = np.array(self._chosen, np.int64)[keep].tolist()

    def fill(self, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Tokens [m]: values[i] where a character counts one, else the row put in there; `counts` is completed."""
        sizes = np.array([len(row or ()) for row in self._rows], np.int64)
        pool = np.fromiter(chain.from_iterable(row or () for row in self._rows), np.int32, int(sizes.sum()))
        places, chosen = np.array(self._places, np.int64), np.array(self._chosen, np.int64)
        counts[places] = sizes[chosen]
        tokens = np.repeat(values, counts)  # right where one id goes; the rest is overwritten
        first_out = np.cumsum(counts) - counts
        first_in = np.cumsum(sizes) - sizes
        within = _ranges(sizes[chosen])
        repeats = sizes[chosen]
        tokens[np.repeat(first_out[places], repeats) + within] = pool[np.repeat(first_in[chosen], repeats) + within]
        return tokens


def _codepoints(text: str) -> np.ndarray:
    """uint32 [c]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _ranges(sizes: np.ndarray) -> np.ndarray:
    """0..sizes[0]-1, 0..sizes[1]-1, … in one array."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _letter_runs(codes: np.ndarray, starts: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of each unbroken run of letters; none goes over the start of a text."""
    letter = codes == _LETTER
    continues = np.zeros(len(codes), bool)
    continues[1:] = letter[:-1]
    continues[starts[starts < len(codes)]] = False
    first = np.flatnonzero(letter & ~continues)
    after = np.zeros(len(codes), bool)
    after[:-1] = letter[1:] & continues[1:]
    last = np.flatnonzero(letter & ~after)
    return list(zip(first.tolist(), (last + 1).tolist(), strict=True))


def _stands_alone(character: str) -> bool:
    """Whether a character never composes with, or changes place with, what stands before it.

    Such are all but marks, what decomposes to a mark first, and Hangul letters. Characters that this Python does not
    know, and the rare scripts of the planes above 0 (all but symbols and Han), are left to the slow path.
    """
    codepoint = ord(character)
    if codepoint > 0xFFFF and not 0x1F000 <= codepoint < 0x40000:
        return False
    first = unicodedata.normalize("NFKD", character)[0]
    known = unicodedata.category(character) != "Cn"
    return known and not unicodedata.category(first).startswith("M") and ord(first) not in _HANGUL_JAMO
