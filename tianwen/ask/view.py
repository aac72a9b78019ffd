"""What one process has read of a catalogue: mapped segments, indexed additions, and what is gone from each.

Post: 8802
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from tianwen.ask.added import AddedFacts
from tianwen.ask.catalogue import Changes, Seen
from tianwen.ask.durable import damaged
from tianwen.ask.facts import Fact
from tianwen.ask.new_folder import segment_folder
from tianwen.ask.segment import Segment
from tianwen.ask.snapshot import NONE, Part
from tianwen.text import Tokenizer


class View:
    """Follows the catalogue: each change is taken in once. A view never changes; `after` makes the next one."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.segments: dict[int, Part] = {}
        self.added = AddedFacts()
        self.removed: Int64[np.ndarray, " removed"] = NONE  # ids of added facts

    def after(self, changes: Changes, tokenizer: Tokenizer, folder: Path) -> View:
        """The view with some changes taken in; this one stays as it is."""
        view = View()
        same = changes.seen.epoch == self.seen.epoch
        if same:
            view.added.chunks, view.removed = self.added.chunks, self.removed
        for number, facts, manifest in changes.state.segments:
            part = self.segments.get(number)
            if part is None:
                part = Part(Segment.open(segment_folder(folder, number), manifest_checksum=manifest))
                if len(part.segment) != facts:
                    raise damaged(folder, f"segment {number} has {len(part.segment)} facts instead of {facts}")
            view.segments[number] = part if same else Part(part.segment)
        gone: dict[int, list[int]] = {}
        for segment, row in changes.removed:
            gone.setdefault(segment, []).append(row)
        for number, rows in gone.items():
            if number:
                view.segments[number] = view.segments[number].without(np.array(rows, np.int64))
        view.removed = np.union1d(view.removed, np.array(gone.get(0, ()), np.int64))
        view.added.extend(changes.added, tokenizer)
        view.seen = changes.seen
        return view

    def parts(self, tokenizer: Tokenizer) -> list[Part]:
        """Segments by number, then additions; never none."""
        parts = [*self.segments.values(), *self.added.parts(self.removed)]
        return parts or [Part(Segment.of([], tokenizer)[0])]

    def added_facts(self, without: Iterable[int] = ()) -> list[Fact]:
        """The added facts that are still there, in the order of their coming; without some that go now, by id."""
        removed = set(self.removed.tolist()) | set(without)
        rows = (row for chunk in self.added.chunks for row in zip(chunk.ids.tolist(), chunk.facts, strict=True))
        return [fact for number, fact in rows if number not in removed]

    def named(self, part: int, rows: Int64[np.ndarray, " rows"]) -> Iterator[tuple[int, int]]:
        """Rows of a part of the snapshot as the catalogue names them: (segment, row), or (0, id of an added fact)."""
        numbers = list(self.segments)
        if part < len(numbers):
            yield from ((numbers[part], int(row)) for row in rows)
        else:
            ids = self.added.chunks[part - len(numbers)].ids_of(rows)
            yield from ((0, int(number)) for number in ids)
