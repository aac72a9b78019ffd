"""A segment written from facts on disk, the same to the bit as one that was drawn in memory.

Post: 8802

    1. names    each field's names are numbered; those of subjects, predicates and senses sorted by their tokens
    2. tree     the tree of subjects and the table of names are written from them
    3. sort     each fact becomes a record: its key, the numbers of its names, its object; these are sorted on disk
    4. write    the records come in the order of keys, without duplicates, and go into the files of the segment

Notation
    n  facts of a block      k  keys that are new in it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt32

from tianwen.ask import fielded
from tianwen.ask.column_writer import ColumnWriter
from tianwen.ask.distinct_facts import Layout, first_comings
from tianwen.ask.external_sort import Block, Sorter
from tianwen.ask.facts_on_disk import NAMED, FactsOnDisk, NumberedFrame
from tianwen.ask.fielded import BatchTokenizer
from tianwen.ask.names_on_disk import SortedNames, different_names, number_entries, sort_names, write_names
from tianwen.ask.numbered_facts import AT_ONCE
from tianwen.ask.ragged import kernel, pointers
from tianwen.ask.scratch import ArrayWriter, Spool
from tianwen.ask.segment import write_manifest
from tianwen.ask.tree_on_disk import write_level_order, write_name_table

_NUMBERS = 16  # bytes of a fact's four numbers


class Keys(NamedTuple):
    """How a key of (subject, predicate, sense) is kept: one integer if it can be, else the subject and the rest."""

    bits: tuple[int, int, int]

    @property
    def narrow(self) -> bool:
        return sum(self.bits) <= fielded.SORTABLE_BITS

    @property
    def layout(self) -> Layout:
        """Of a wide key the body begins with predicate and sense and the place of the fact, 8 bytes each."""
        return Layout(0, 0) if self.narrow else Layout(8, 16)

    @property
    def width(self) -> int:
        """Bytes of predicate and sense in the tree."""
        return max((self.bits[1] + self.bits[2] + 7) // 8, 1)


def write_sorted(
    facts: FactsOnDisk, folder: Path, tokenizer: BatchTokenizer, fingerprint: str, written: Callable[[int], None]
) -> int:
    """Sort facts and write them into a new folder; the manifest's checksum. `written` hears how many facts are.

    Afterwards `facts` is used up, and knows its height and its duplicates.
    """
    (folder / "trie").mkdir(parents=True)
    numbers: dict[str, Spool] = {}
    names: list[SortedNames] = []
    for field in NAMED:
        _name_field(facts, field, folder, tokenizer, (numbers, names))
    subjects, predicates, senses = names
    end_id = int(tokenizer.sep_id)
    write_level_order(folder / "trie", fielded.SUBJECT, subjects, end_id)
    write_name_table(folder / "trie", (predicates, senses), facts.scratch)
    for kind in names:
        kind.remove()
    bits = tuple(max(kind.different - 1, 0).bit_length() for kind in names)
    keys = Keys((bits[0], bits[1], bits[2]))
    layout = np.array([keys.width, bits[2], predicates.different], np.int64)
    np.save(folder / "trie" / "layout.npy", layout)
    sorter = Sorter(facts.scratch, "facts", memory=facts.bound.room() * 5 // 8, by_body=not keys.narrow)
    for block in _records(facts, numbers, [kind.rank for kind in names], keys):
        sorter.add(block)
    facts.remove()
    rows = _Rows(facts, folder, keys, written)
    for block, new in first_comings(sorter.sorted(), keys.layout, facts.scratch, facts.bound.room() // 2):
        rows.append(block, new)
    rows.finish()
    facts.duplicates, facts.height = facts.height - rows.height, rows.height
    return write_manifest(folder, rows.height, rows.keys, fingerprint)


def _name_field(
    facts: FactsOnDisk,
    field: str,
    folder: Path,
    tokenizer: BatchTokenizer,
    found: tuple[dict[str, Spool], list[SortedNames]],
) -> None:
    """Number the names of a field, write them, and sort them where they are in the tree."""
    numbers, names = found
    entries, scratch = facts.entries[field], facts.scratch
    numbers[field] = number_entries(entries, scratch, facts.bound)
    column = ColumnWriter(folder / f"{field}.arrow", {"text": "text"}, scratch)
    different = write_names(different_names(entries, numbers[field]), column)
    if field == "source":
        for _ in different:
            pass
    else:
        names.append(sort_names(different, tokenizer, scratch, facts.bound))
    entries.remove()


def _records(facts: FactsOnDisk, numbers: dict[str, Spool], ranks: list[Spool], keys: Keys) -> Iterator[Block]:
    """The facts as records to be sorted."""
    mapped = [rank.map()[0] for rank in ranks]
    place = 0
    for at, frame in enumerate(facts.frames()):
        own = {field: numbers[field].read(*facts.entries[field].first[at : at + 2]) for field in NAMED}
        named = [own[field][frame.numbers[field]] for field in NAMED]
        codes = [rank[number].astype(np.int64) for rank, number in zip(mapped, named, strict=False)]
        yield _block(codes, named, frame, keys, place)
        place += len(frame.length)


def _block(
    codes: list[Int64[np.ndarray, " n"]],
    named: list[UInt32[np.ndarray, " n"]],
    frame: NumberedFrame,
    keys: Keys,
    place: int,
) -> Block:
    subject, predicate, sense = codes
    pair = predicate << keys.bits[2] | sense
    head = subject << (keys.bits[1] + keys.bits[2]) | pair if keys.narrow else subject
    skip = keys.layout.skip
    ptr = pointers(frame.length.astype(np.int64) + skip + _NUMBERS)
    body = np.empty(int(ptr[-1]), np.uint8)
    table = np.stack(named, axis=1).astype("<u4").view(np.uint8)  # [n, 16]
    _fill(ptr, body, skip, pair, place, table, frame.objects)
    return Block(head.astype(np.uint64), ptr, body)


@kernel
def _fill(ptr, body, skip, pair, place, table, objects):
    source = 0
    for i in range(len(pair)):
        at = ptr[i]
        if skip:
            for k in range(8):
                body[at + k] = (pair[i] >> (8 * (7 - k))) & 0xFF
                body[at + 8 + k] = ((place + i) >> (8 * (7 - k))) & 0xFF
            at += skip
        for k in range(table.shape[1]):
            body[at + k] = table[i, k]
        at += table.shape[1]
        for k in range(at, ptr[i + 1]):
            body[k] = objects[source]
            source += 1


class _Rows:
    """The files that have one row a fact or a key."""

    def __init__(self, facts: FactsOnDisk, folder: Path, keys: Keys, written: Callable[[int], None]) -> None:
        self._folder, self._keys, self._scratch, self._written = folder, keys, facts.scratch, written
        self.height = 0
        self.keys = 0
        pointer = np.uint32 if facts.height < 2**32 else np.uint64
        self._key_ptr = ArrayWriter(folder / "key_ptr.npy", pointer, facts.scratch)
        self._subject_ptr = ArrayWriter(folder / "trie" / "subject_ptr.npy", np.uint32, facts.scratch)
        self._pair = ArrayWriter(folder / "trie" / "pair.npy", np.uint8, facts.scratch)
        self._values = ColumnWriter(folder / "values.arrow", dict.fromkeys(NAMED, "number"), facts.scratch)
        self._objects: ColumnWriter | None = None
        self._last = np.array([-1]), np.array([-1])  # subject and pair of the last key

    def append(self, block: Block, new: Bool[np.ndarray, " n"]) -> None:
        """The facts that come next; those that are not new are left out."""
        rows, skip = np.flatnonzero(new), self._keys.layout.skip
        start = block.ptr[rows] + skip
        length = block.ptr[rows + 1] - start - _NUMBERS
        numbers, pair = np.empty((len(NAMED), len(rows)), np.uint32), np.empty(len(rows), np.int64)
        objects = np.empty(int(length.sum()), np.uint8)
        _take_apart(block.body, start, length, numbers, objects)
        head = block.head[rows].astype(np.int64)
        if self._keys.narrow:
            low = self._keys.bits[1] + self._keys.bits[2]
            subject, pair = head >> low, head & ((1 << low) - 1)
        else:
            _read_pairs(block.body, start - skip, pair)
            subject = head
        self._append_keys(subject, pair)
        for field, column in zip(NAMED, numbers, strict=True):
            self._values.append_numbers(field, column)
        self._append_objects(length, objects)

    def _append_keys(self, subject: Int64[np.ndarray, " n"], pair: Int64[np.ndarray, " n"]) -> None:
        """Where new keys begin, what they are, and where their subjects begin."""
        subjects, pairs = (np.concatenate(both) for both in zip(self._last, (subject, pair), strict=True))
        other = subjects[1:] != subjects[:-1]
        row = np.flatnonzero(other | (pairs[1:] != pairs[:-1]))
        self._key_ptr.append(row + self.height)
        self._subject_ptr.append(np.flatnonzero(other[row]) + self.keys)
        pair_bytes = pair[row].astype("<i8").view(np.uint8).reshape(-1, 8)  # [k, 8]
        self._pair.append(pair_bytes[:, : self._keys.width])
        self._last = subjects[-1:], pairs[-1:]
        self.keys += len(row)

    def _append_objects(self, length: Int64[np.ndarray, " n"], objects: UInt8[np.ndarray, " bytes"]) -> None:
        """Texts into files of AT_ONCE each."""
        ptr, start = pointers(length), 0
        while start < len(length):
            number, filled = divmod(self.height, AT_ONCE)
            if self._objects is None:
                path = self._folder / f"object-{number:04d}.arrow"
                self._objects = ColumnWriter(path, {"text": "text"}, self._scratch)
            stop = min(len(length), start + AT_ONCE - filled)
            self._objects.append_texts("text", length[start:stop], objects[ptr[start] : ptr[stop]])
            self.height += stop - start
            start = stop
            if self.height % AT_ONCE == 0:
                self._finish_objects()

    def _finish_objects(self) -> None:
        if self._objects is not None:
            self._objects.finish()
            self._objects = None
            self._written(self.height)

    def finish(self) -> None:
        """Write the files."""
        self._finish_objects()
        self._key_ptr.append(np.array([self.height]))
        self._subject_ptr.append(np.array([self.keys]))
        for writer in (self._key_ptr, self._subject_ptr, self._pair, self._values):
            writer.finish()


@kernel
def _take_apart(body, start, length, numbers, objects):
    """The four numbers of each fact, and its object."""
    out = 0
    for i in range(len(start)):
        at = start[i]
        for field in range(len(numbers)):
            value = np.int64(0)
            for k in range(4):
                value |= np.int64(body[at + k]) << (8 * k)
            numbers[field, i] = value
            at += 4
        for k in range(at, at + length[i]):
            objects[out] = body[k]
            out += 1


@kernel
def _read_pairs(body, start, pair):
    for i in range(len(start)):
        value = np.int64(0)
        for k in range(start[i], start[i] + 8):
            value = value << 8 | np.int64(body[k])
        pair[i] = value
