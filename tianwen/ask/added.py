"""Facts added since the last compaction, indexed in memory in a few segments that merge as they grow.

Post: 8802

New rows become a segment of their own; while the one before it is not more than twice its size the two are built
again as one. So n additions, one at a time, cost O(n log n) in all and leave O(log n) segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from tianwen.ask.facts import Fact
from tianwen.ask.fielded import BatchTokenizer
from tianwen.ask.segment import Segment
from tianwen.ask.snapshot import Part


@dataclass(frozen=True, slots=True)
class Chunk:
    """A segment of added facts with their ids in the catalogue, ascending, and the row of each."""

    segment: Segment
    facts: list[Fact]  # in the order of the ids
    ids: Int64[np.ndarray, " facts"]
    row_of: Int64[np.ndarray, " facts"]

    @classmethod
    def of(cls, facts: list[Fact], ids: Int64[np.ndarray, " facts"], tokenizer: BatchTokenizer) -> Chunk:
        segment, order = Segment.of(facts, tokenizer)
        row_of = np.empty(len(order), np.int64)
        row_of[order] = np.arange(len(order))
        return cls(segment, facts, ids, row_of)

    def rows(self, ids: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " found"]:
        """The rows of those ids that are in this chunk."""
        place = np.searchsorted(self.ids, ids)
        here = place < len(self.ids)
        here[here] = self.ids[place[here]] == ids[here]
        return self.row_of[place[here]]

    def ids_of(self, rows: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " some"]:
        """The ids of some rows."""
        id_of_row = np.empty(len(self.ids), np.int64)
        id_of_row[self.row_of] = self.ids
        return id_of_row[rows]


class AddedFacts:
    """All chunks, oldest first. Only ever extended; `parts` of earlier snapshots stay valid."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    def extend(self, rows: list[tuple[int, Fact]], tokenizer: BatchTokenizer) -> None:
        """Take in rows (id, fact) with ids above all earlier ones."""
        if not rows:
            return
        facts = [fact for _, fact in rows]
        ids = np.array([number for number, _ in rows], np.int64)
        chunks = list(self.chunks)
        while chunks and len(chunks[-1].ids) <= 2 * len(ids):
            before = chunks.pop()
            facts, ids = before.facts + facts, np.concatenate([before.ids, ids])
        self.chunks = [*chunks, Chunk.of(facts, ids, tokenizer)]

    def parts(self, removed: Int64[np.ndarray, " removed"]) -> list[Part]:
        """One part for each chunk, without the ids in `removed`."""
        return [Part(chunk.segment).without(chunk.rows(removed)) for chunk in self.chunks]
