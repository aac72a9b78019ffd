"""Facts that wait on disk until they are sorted: what a build keeps of them where memory is short.

Post: 8802

Each frame of facts is written as it comes: the different names in it as text, and of every fact four numbers into
them, the length of its object and the object. Numbers into lists of all names are found later (`names_on_disk`), the
order of the facts after that (`segment_on_disk`).

Notation
    n  facts of a frame      entries  the names of one field in all frames, one frame after the other; a name stands
    t  bytes of its objects           once in a frame, but in many frames
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import UInt8, UInt32

from tianwen.ask.facts import FIELDS
from tianwen.ask.memory import Bound
from tianwen.ask.scratch import Scratch

NAMED = ("subject", "predicate", "sense", "source")


class NumberedFrame(NamedTuple):
    """Facts of one frame, their names numbered within it."""

    names: dict[str, pl.Series]
    numbers: dict[str, UInt32[np.ndarray, " n"]]
    length: UInt32[np.ndarray, " n"]  # bytes of each object
    objects: UInt8[np.ndarray, " t"]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> NumberedFrame:
        """Number a frame with the columns of `facts.FIELDS`, at least one row and no null."""
        frame = frame.select(FIELDS)
        names = {field: frame[field].unique(maintain_order=True) for field in NAMED}  # a frame has few different ones
        numbers = {field: number(frame[field], names[field]) for field in NAMED}
        objects = np.frombuffer(frame["object"].str.join("").item().encode(), np.uint8)
        return cls(names, numbers, frame["object"].str.len_bytes().to_numpy(), objects)


def number(column: pl.Series, names: pl.Series) -> UInt32[np.ndarray, " rows"]:
    """The place of each text of `column` in `names`."""
    return column.cast(pl.Enum(names)).to_physical().cast(pl.UInt32).to_numpy()


class Entries:
    """The names of one field, frame by frame."""

    def __init__(self, scratch: Scratch, field: str) -> None:
        self._text = scratch.spool(f"{field}-entries", np.uint8)
        self._ends = [0]
        self.first = [0]  # of each frame its first entry, and the number of all

    def __len__(self) -> int:
        return self.first[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of all names."""
        return len(self._text)

    def append(self, names: pl.Series) -> None:
        """The names of one more frame."""
        self._text.append(names.str.join("\0").item().encode())  # no name holds NUL
        self._ends.append(len(self._text))
        self.first.append(self.first[-1] + len(names))

    def of_frame(self, frame: int) -> pl.Series:
        """The names of a frame."""
        text = self._text.read(self._ends[frame], self._ends[frame + 1]).tobytes().decode()
        return pl.Series("text", [text], dtype=pl.String).str.split("\0").explode()

    def __iter__(self) -> Iterator[pl.Series]:
        return map(self.of_frame, range(len(self.first) - 1))

    def remove(self) -> None:
        """Delete the file."""
        self._text.remove()


class FactsOnDisk:
    """Facts in the order of their coming. `height` counts the duplicates until they are found when it is written."""

    def __init__(self, scratch: Scratch, bound: Bound) -> None:
        self.scratch = scratch
        self.bound = bound
        self.height = 0
        self.duplicates = 0
        self.entries = {field: Entries(scratch, field) for field in NAMED}
        self._numbers = scratch.spool("numbers", np.uint32)
        self._lengths = scratch.spool("lengths", np.uint32)
        self._objects = scratch.spool("objects", np.uint8)
        self._rows: list[tuple[int, int]] = []  # facts and bytes of objects of each frame

    def take(self, frame: NumberedFrame) -> None:
        """Some more facts."""
        for field in NAMED:
            self.entries[field].append(frame.names[field])
            self._numbers.append(frame.numbers[field])
        self._lengths.append(frame.length)
        self._objects.append(frame.objects)
        self._rows.append((len(frame.length), len(frame.objects)))
        self.height += len(frame.length)

    def frames(self) -> Iterator[NumberedFrame]:
        """The facts frame by frame, without the texts of their names; what was read is not needed again."""
        rows = at = 0
        for count, size in self._rows:
            numbers = self._numbers.read(4 * rows, 4 * (rows + count)).reshape(4, count)
            yield NumberedFrame(
                {},
                dict(zip(NAMED, numbers, strict=True)),
                self._lengths.read(rows, rows + count),
                self._objects.read(at, at + size),
            )
            rows, at = rows + count, at + size

    def remove(self) -> None:
        """Delete the files of the facts; those of the names stay."""
        for spool in (self._numbers, self._lengths, self._objects):
            spool.remove()
