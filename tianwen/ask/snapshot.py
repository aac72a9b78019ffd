"""A consistent view of a knowledge base: what was true at one commit, whatever is written meanwhile.

Post: 8802

A view is a list of parts, oldest first: the segments on disk, then the added facts in memory. Facts of one key come in
that order, and within a part in the order in which they were given: never in an order that depends on a file's layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from jaxtyping import Int64

from tianwen.ask.dead_rows import NOTHING_DEAD, Dead
from tianwen.ask.facts import Fact, encodes
from tianwen.ask.segment import Segment
from tianwen.ask.segmented import SegmentedTrie
from tianwen.errors import InputError, WrongTokenizer

if TYPE_CHECKING:
    from tianwen.ask.trie import Constraint
    from tianwen.text import Tokenizer


NONE = np.empty(0, np.int64)
ROWS_AT_ONCE = 200_000


@dataclass(frozen=True)
class Part:
    """A segment, and the rows of the facts that are gone from it, ascending."""

    segment: Segment
    gone: Int64[np.ndarray, " gone"] = field(default_factory=lambda: NONE)
    dead_before: Dead = NOTHING_DEAD  # of the same segment when less was gone: what need not be found again

    def without(self, rows: Int64[np.ndarray, " rows"]) -> Part:
        """The same part with some more rows gone."""
        known = vars(self).get("dead", self.dead_before)
        return Part(self.segment, np.union1d(self.gone, rows), known) if len(rows) else self

    @cached_property
    def dead(self) -> Dead:
        """What the tree must not lead to any more."""
        return Dead.of(self.segment.trie.tree, self.dead_keys, self.dead_before)

    @cached_property
    def dead_keys(self) -> Int64[np.ndarray, " dead"]:
        """The keys that have no fact left, ascending."""
        gone = self.gone
        if not len(gone):
            return NONE
        key_ptr = self.segment.key_ptr
        # Searched in its own type: numpy would convert the whole mapped array otherwise.
        keys = np.unique(np.searchsorted(key_ptr, gone.astype(key_ptr.dtype), side="right") - 1)
        first, stop = key_ptr[keys].astype(np.int64), key_ptr[keys + 1].astype(np.int64)
        left = stop - np.searchsorted(gone, stop) - (first - np.searchsorted(gone, first))
        return keys[left == 0]

    def __len__(self) -> int:
        """Number of facts that are still there."""
        return len(self.segment) - len(self.gone)

    def live_rows(self, rows: range) -> Int64[np.ndarray, " rows"]:
        """Those of a range of rows that are not gone."""
        low, high = np.searchsorted(self.gone, [rows.start, rows.stop])
        return np.delete(np.arange(rows.start, rows.stop), self.gone[low:high] - rows.start)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The facts that are still there, by key, in frames with the columns of `facts.FIELDS`."""
        for rows, frame in self.segment.frames():
            live = self.live_rows(rows)
            yield frame if len(live) == len(rows) else frame[live - rows.start]


class Snapshot:
    """What the knowledge base says at one commit. Immutable, cheap to hold, safe in several threads."""

    def __init__(self, parts: list[Part], tokenizer: Tokenizer, *, commit: int = 0) -> None:
        self.parts = tuple(parts)
        self.tokenizer = tokenizer
        self.commit = commit

    def __len__(self) -> int:
        """Number of facts."""
        return sum(len(part) for part in self.parts)

    @property
    def tokenizer_fingerprint(self) -> str:
        """The fingerprint of the tokenizer whose ids the tree speaks."""
        return self.tokenizer.fingerprint

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise WrongTokenizer unless the tree was built with this tokenizer."""
        require_tokenizer("The knowledge base", self.tokenizer.fingerprint, tokenizer)

    @cached_property
    def trie(self) -> Constraint:
        """The prefix tree over the facts that are there, fields subject, predicate, sense."""
        if self._is_plain:
            return self.parts[0].segment.trie
        tries = [part.segment.trie for part in self.parts]
        return SegmentedTrie.without(tries, [part.dead for part in self.parts])

    @property
    def _is_plain(self) -> bool:
        return len(self.parts) == 1 and not len(self.parts[0].dead_keys)

    def facts(self, state: Int64[np.ndarray, " ..."]) -> list[Fact]:
        """The facts of one complete key: `state` is one row of a state batch where `trie.is_terminal` holds."""
        found: list[Fact] = []
        for part, low, high in self._keys_below(state[None]):
            rows = part.segment.rows_of_keys(low, high)
            found.extend(part.segment.facts(part.live_rows(rows)))
        return found

    def _keys_below(self, state: Int64[np.ndarray, " 1 ..."]) -> Iterator[tuple[Part, int, int]]:
        trie = self.trie
        if isinstance(trie, SegmentedTrie):
            for part, (low, high) in zip(self.parts, trie.rows_by_segment(state), strict=True):
                yield part, int(low[0]), int(high[0])
        else:
            low, high = trie.rows(state)
            yield self.parts[0], int(low[0]), int(high[0])

    # Looking things up

    def find(
        self,
        subject: str | None = None,
        predicate: str | None = None,
        object: str | None = None,
        sense: str | None = None,
    ) -> list[Fact]:
        """The facts with exactly these texts; None matches anything, sense "" only facts without a sense."""
        wanted = {"subject": subject, "predicate": predicate, "object": object, "sense": sense}
        if all(text is None for text in wanted.values()):
            return list(self.iter_facts())
        return [fact for part, rows in self.find_rows(wanted) for fact in self.parts[part].segment.facts(rows)]

    def find_rows(self, wanted: dict[str, str | None]) -> Iterator[tuple[int, Int64[np.ndarray, " rows"]]]:
        """(number of the part, rows in it) of the facts with these texts; a given subject is found through the tree."""
        texts = {field: text for field, text in wanted.items() if text is not None}
        if not all(encodes(text) for text in texts.values()):
            return
        prefix = self._prefix(texts)
        for number, part in enumerate(self.parts):
            segment = part.segment
            rows = range(len(segment))
            if prefix is not None:
                low, high = segment.trie.rows(segment.trie.walk(prefix, np.array([prefix.shape[1]])))
                rows = segment.rows_of_keys(int(low[0]), int(high[0]))
            tests = [pl.col(field) == text for field, text in texts.items()]
            found = []
            for start in range(rows.start, rows.stop, ROWS_AT_ONCE):
                fits = part.live_rows(range(start, min(start + ROWS_AT_ONCE, rows.stop)))
                fits = fits[segment.frame(fits).select(pl.all_horizontal(*tests)).to_series().to_numpy()]
                found.append(fits)
            if found and len(fits := np.concatenate(found)):
                yield number, fits

    def _prefix(self, texts: dict[str, str]) -> Int64[np.ndarray, " 1 tokens"] | None:
        """The tokens of a subject, and of the predicate after it, each with its end; None without a subject."""
        if "subject" not in texts:
            return None
        end = [self.tokenizer.sep_id]
        tokens = [self.tokenizer.ids(texts["subject"]), end]
        if "predicate" in texts:
            tokens += [self.tokenizer.ids(texts["predicate"]), end]
        return np.concatenate(tokens).astype(np.int64)[None]

    def frames(self) -> Iterator[pl.DataFrame]:
        """All facts in frames with the columns of `facts.FIELDS`: segments in order, within one by key."""
        for part in self.parts:
            yield from part.frames()

    def iter_facts(self) -> Iterator[Fact]:
        """All facts, one at a time; the order is that of `frames`."""
        for frame in self.frames():
            for row in frame.iter_rows():
                yield Fact(*row)


def require_tokenizer(owner: str, expected: str, given: Tokenizer) -> None:
    """Raise WrongTokenizer unless `given` has the expected fingerprint."""
    if given.fingerprint != expected:
        raise WrongTokenizer(
            f"{owner} was built with tokenizer {expected}, the one given is {given.fingerprint}. Use the model it was "
            "built for, or build the knowledge base again with this model's tokenizer."
        )


def check_text(name: str, text: str | None) -> None:
    """Refuse what can be no text of a fact, so that a typing error does not read as "nothing found"."""
    if text is not None and not isinstance(text, str):
        raise InputError(f"The {name} must be a text or None, not {type(text).__name__}.")
