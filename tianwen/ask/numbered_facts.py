"""Facts whose names are numbers into lists of distinct names, gathered frame by frame: what a build keeps in memory.

Post: 8802 (its base has 20,559,652 facts: two gigabytes of text, but 3.1 million subjects and 246 thousand predicates).

A fact costs 40 bytes here whatever its texts: four numbers, the place of its object in a file of objects, and a hash
that finds duplicates. The objects wait in a temporary file beside the knowledge base until they are written in key
order; a few of them stay in memory. Where even that is too much, everything waits on disk (`facts_on_disk`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Int32, Int64, UInt8, UInt32

from tianwen.ask.facts import FIELDS
from tianwen.ask.facts_on_disk import NAMED, FactsOnDisk, NumberedFrame, number
from tianwen.ask.memory import Bound, held
from tianwen.ask.ragged import kernel, pointers
from tianwen.ask.scratch import Scratch

KEPT_IN_MEMORY = 2**26
"""Bytes of objects that are not worth a file."""

AT_ONCE = 1_000_000
"""Objects laid out together when they are written."""

ROWS_OF_A_FRAME = 200_000
"""Facts whose names are numbered together."""

A_FACT, A_NAME, A_BYTE, AN_OBJECT_BYTE = 50, 160, 4, 10
"""Bytes of memory that indexing takes for each fact, each name of a frame, each byte of such a name, and each byte of
the objects that are laid out together. Measured: 675 MB for a million facts, 1,060 for five, 2,440 for twenty."""

log = logging.getLogger(__name__)


class NumberedFacts:
    """Different facts in the order of their first coming; `duplicates` were merged.

    `numbers[field]` says for each fact which of `names[field]` is its subject, predicate, sense or source.
    """

    def __init__(
        self,
        names: dict[str, pl.Series],
        numbers: dict[str, UInt32[np.ndarray, " facts"]],
        start: Int64[np.ndarray, " facts"],
        length: Int32[np.ndarray, " facts"],
        objects: UInt8[np.ndarray, " bytes"],
    ) -> None:
        self.names = names
        self.numbers = numbers
        self.start = start
        self.length = length
        self.objects = objects
        self.duplicates = 0

    @property
    def height(self) -> int:
        """Number of facts."""
        return len(self.start)

    @classmethod
    def of(cls, frame: pl.DataFrame) -> NumberedFacts:
        """The facts of one frame with the columns of `facts.FIELDS`."""
        with Gathering() as gathering:
            gathering.take(frame)
            return gathering.finish()

    def objects_in(self, order: Int64[np.ndarray, " facts"]) -> Iterator[pl.Series]:
        """The objects' texts in an order given, in pieces of `AT_ONCE`."""
        for first in range(0, len(order), AT_ONCE):
            rows = order[first : first + AT_ONCE]
            text = np.zeros(int(self.length[rows].sum(dtype=np.int64)) + len(rows), np.uint8)
            _lay_out(self.objects, self.start, self.length, rows, text)  # each followed by NUL, which no object holds
            yield pl.Series("text", [text[:-1].tobytes().decode()], dtype=pl.String).str.split("\0").explode()

    def _keep(self, rows: Bool[np.ndarray, " facts"]) -> None:
        self.numbers = {field: numbers[rows] for field, numbers in self.numbers.items()}
        self.start, self.length = self.start[rows], self.length[rows]

    def merge_duplicates(self, hashes: np.ndarray) -> None:
        """Drop facts that came before; `hashes` uint64 [facts] are equal where facts are, and seldom elsewhere."""
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        if not (hashes[1:] == hashes[:-1]).any():
            return
        twice = np.zeros(len(order), np.bool_)
        s, p, m, o = (self.numbers[field] for field in NAMED)
        _find_duplicates(order, hashes, (s, p, m, o), self.objects, self.start, self.length, twice)
        self.duplicates = int(twice.sum())
        self._keep(~twice)


class Gathering:
    """Takes frames of facts and makes `NumberedFacts` of them; `beside` is the folder of the temporary file.

    With `distinct` the caller says that no fact comes twice, and none is looked for. With `bound` and `scratch` the
    facts go to disk when indexing them would take more memory than that; they are then found in `on_disk`.
    """

    def __init__(
        self,
        beside: Path | None = None,
        *,
        distinct: bool = False,
        bound: Bound | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        self.distinct = distinct
        self.height = 0
        self.on_disk: FactsOnDisk | None = None
        self._bound = bound
        self._scratch = scratch
        self._need = held()
        self._object_bytes = 0
        self._names: dict[str, list[pl.Series]] = {field: [] for field in NAMED}
        self._numbers: dict[str, list[np.ndarray]] = {field: [] for field in NAMED}
        self._lengths: list[np.ndarray] = []
        self._hashes: list[np.ndarray] = []
        self._file = tempfile.SpooledTemporaryFile(KEPT_IN_MEMORY, dir=None if beside is None else str(beside))  # noqa: SIM115

    def __enter__(self) -> Gathering:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()  # what was mapped stays

    def take(self, frame: pl.DataFrame) -> None:
        """Some more facts, columns `facts.FIELDS`, none of them null."""
        for part in frame.iter_slices(ROWS_OF_A_FRAME):
            if part.height:
                self._take(part)

    def _take(self, frame: pl.DataFrame) -> None:
        numbered = NumberedFrame.of(frame)
        self.height += frame.height
        if self.on_disk is not None:
            self.on_disk.take(numbered)
            return
        for field in NAMED:  # numbered within the frame for now
            self._names[field].append(numbered.names[field])
            self._numbers[field].append(numbered.numbers[field])
            self._need += A_NAME * len(numbered.names[field]) + A_BYTE * int(
                numbered.names[field].str.len_bytes().sum()
            )
        self._lengths.append(numbered.length.astype(np.int32))
        self._file.write(numbered.objects.tobytes())
        if not self.distinct:
            self._hashes.append(frame.select(FIELDS).hash_rows(seed=0).to_numpy())
        self._need += A_FACT * frame.height
        self._object_bytes += len(numbered.objects)
        together = self._object_bytes * min(AT_ONCE, self.height) // self.height
        need = self._need + AN_OBJECT_BYTE * together
        if self._bound is not None and self._scratch is not None and need > self._bound.bytes:
            self._go_to_disk(self._bound, self._scratch)

    def _go_to_disk(self, bound: Bound, scratch: Scratch) -> None:
        """Write what was gathered, and everything that will be."""
        level, whose = (logging.INFO, "allowed") if bound.by_user else (logging.WARNING, "free")
        size = f"{bound.bytes / 1e9:.2g} GB"
        log.log(
            level, f"Facts are sorted on disk: indexing them in memory takes more than the {size} that are {whose}."
        )
        self.on_disk = FactsOnDisk(scratch, bound)
        self._file.seek(0)
        for at, length in enumerate(self._lengths):
            objects = self._file.read(int(length.sum(dtype=np.int64)))
            names = {field: self._names[field][at] for field in NAMED}
            numbers = {field: self._numbers[field][at] for field in NAMED}
            self.on_disk.take(NumberedFrame(names, numbers, length.astype(np.uint32), np.frombuffer(objects, np.uint8)))
        self._names, self._numbers = {field: [] for field in NAMED}, {field: [] for field in NAMED}
        self._lengths, self._hashes = [], []
        self._file.close()

    def finish(self) -> NumberedFacts:
        """All facts taken, each once. To be called once."""
        names, numbers = {}, {}
        for field in NAMED:
            names[field], numbers[field] = _unified(self._names.pop(field), self._numbers.pop(field))
        length = np.concatenate([np.zeros(0, np.int32), *self._lengths])
        start = pointers(length)[:-1]
        facts = NumberedFacts(names, numbers, start, length, self._objects())
        if not self.distinct:
            hashes, self._hashes = np.concatenate([np.zeros(0, np.uint64), *self._hashes]), []
            facts.merge_duplicates(hashes)
        return facts

    def _objects(self) -> UInt8[np.ndarray, " bytes"]:
        """The bytes written so far: in memory, or mapped from the file, which has no name and goes with the array."""
        size = self._file.tell()
        if size <= KEPT_IN_MEMORY:
            self._file.seek(0)
            return np.frombuffer(self._file.read(), np.uint8)
        self._file.flush()
        return np.memmap(self._file, np.uint8, "r", shape=(size,))  # pyright: ignore[reportCallIssue, reportArgumentType]


def _unified(names: list[pl.Series], numbers: list[np.ndarray]) -> tuple[pl.Series, UInt32[np.ndarray, " facts"]]:
    """One list of distinct names for all frames, and the numbers into it."""
    if not names:
        return pl.Series(dtype=pl.String), np.zeros(0, np.uint32)
    together = pl.concat(names)
    distinct = together.unique(maintain_order=True)
    place = number(together, distinct)
    first = pointers(np.array([len(part) for part in names]))
    whole = np.empty(sum(map(len, numbers)), np.uint32)
    at = 0
    for part, offset in zip(numbers, first[:-1].tolist(), strict=True):
        whole[at : at + len(part)] = place[part.astype(np.int64) + offset]
        at += len(part)
    return distinct, whole


@kernel
def _lay_out(objects, start, length, rows, out):
    at = 0
    for k in range(len(rows)):
        row = rows[k]
        first = start[row]
        for i in range(length[row]):
            out[at + i] = objects[first + i]
        at += length[row] + 1


@kernel
def _find_duplicates(order, hashes, names, objects, start, length, out):
    """Mark rows equal to an earlier one; `order` sorts by hash and keeps equal hashes as they came."""
    subject, predicate, sense, source = names
    first = 0
    for k in range(1, len(order)):
        if hashes[k] != hashes[first]:
            first = k
            continue
        a, b = order[first], order[k]
        same = (
            subject[a] == subject[b]
            and predicate[a] == predicate[b]
            and sense[a] == sense[b]
            and source[a] == source[b]
            and length[a] == length[b]
        )
        i = 0
        while same and i < length[a]:
            same = objects[start[a] + i] == objects[start[b] + i]
            i += 1
        out[b] = same
