"""An immutable part of a knowledge base: a prefix tree over facts, and the facts in the order of its keys.

Post: 8802

    segments/0001/manifest.json      format, counts, tokenizer, and of every file its size and the CRC-32 of its blocks
                  trie/*.npy         the tree's arrays (`fielded`), memory-mapped
                  key_ptr.npy        [keys + 1] uint32 or uint64: the rows key_ptr[k] .. key_ptr[k + 1] - 1 are of key k
                  values.arrow       one row a fact: numbers of its subject, predicate, sense and source
                  subject.arrow ...  the texts of those numbers, each once
                  object-0000.arrow  the objects of the first million facts, and so on

Facts of one key stand in the order in which they came.

What is compared with its checksum, and when. Always at opening: the manifest, all sizes, and where each file says how
it is laid out. A small segment is read and compared in full then. Of a large one the tree is, before its first step: no
kernel ever walks arrays that were not compared; and of the facts each block of 64 KB before it is first used.
The Arrow files are ordinary ones, laid out so that they map into memory (`columns`).
"""

from __future__ import annotations

import json
import mmap
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64, Integer, UInt32

from tianwen.ask.columns import Kind, Pieces, Texts, map_columns, write_columns
from tianwen.ask.durable import damaged, flush_tree
from tianwen.ask.facts import FIELDS, Fact
from tianwen.ask.fielded import BatchTokenizer, FieldedTrie, distinct_strings
from tianwen.ask.numbered_facts import AT_ONCE, NAMED, NumberedFacts
from tianwen.ask.ragged import pointers
from tianwen.ask.sums import BLOCK, Blocks, CheckedArray, sums_of
from tianwen.errors import KnowledgeBaseDamaged

FORMAT = 3  # 1 had all objects in values.arrow, and needed memory for all of them; 2 had one checksum a file
MANIFEST = "manifest.json"
_VALUES: dict[str, Kind] = dict.fromkeys(NAMED, "number")
_TEXT: dict[str, Kind] = {"text": "text"}

# Below this many bytes a segment is read and compared in full when it is opened: about 0.03 s at the limit.
FULL_CHECK_BYTES = 32 * 2**20


class Segment:
    """Facts in memory or memory-mapped, with their tree; never changes.

    `numbers[field]` is the number of each fact's subject, predicate, sense and source in `names[field]`.
    """

    def __init__(
        self,
        trie: FieldedTrie,
        key_ptr: Integer[np.ndarray, " keys+1"],
        numbers: dict[str, UInt32[np.ndarray, " facts"] | CheckedArray],
        objects: Texts | Pieces,
        names: dict[str, Texts],
    ) -> None:
        self._trie = trie
        self._key_ptr = key_ptr
        self._unchecked: list[Blocks] = []  # files of the tree that were not compared with their checksums yet
        self._lock = threading.Lock()
        self.numbers = numbers
        self.objects = objects
        self.names = names

    def __len__(self) -> int:
        """Number of facts."""
        return len(self.objects)

    @classmethod
    def of(cls, facts: Sequence[Fact], tokenizer: BatchTokenizer) -> tuple[Segment, Int64[np.ndarray, " facts"]]:
        """Index a few facts in memory; also for each row, which of `facts` it was."""
        columns = {field: [getattr(fact, field) for fact in facts] for field in FIELDS}
        trie, key_row = FieldedTrie.build(columns["subject"], columns["predicate"], columns["sense"], tokenizer)
        order, key_ptr = by_key(key_row, len(trie))
        numbers, names = {}, {}
        for field in NAMED:
            distinct, code = distinct_strings(columns[field])
            numbers[field], names[field] = code[order].astype(np.uint32), Texts.of(distinct)
        objects = Texts.of([columns["object"][row] for row in order])
        return cls(trie, key_ptr, numbers, objects, names), order

    # Reading

    @property
    def trie(self) -> FieldedTrie:
        """The tree. Of a large segment it is compared with its checksums first, once: 0.3 s for 20 million facts."""
        if self._unchecked:
            self._check_index()
        return self._trie

    @property
    def key_ptr(self) -> Integer[np.ndarray, " keys+1"]:
        """The rows key_ptr[k] .. key_ptr[k + 1] - 1 are the facts of key k; compared as the tree is."""
        if self._unchecked:
            self._check_index()
        return self._key_ptr

    def _check_index(self) -> None:
        with self._lock:
            for blocks in self._unchecked:
                blocks.require_all()
            self._unchecked = []

    def rows_of_keys(self, low: int, high: int) -> range:
        """Rows of the facts of the keys low .. high - 1."""
        return range(int(self.key_ptr[low]), int(self.key_ptr[high]))

    def facts(self, rows: range | Int64[np.ndarray, " rows"]) -> list[Fact]:
        """The facts of some rows, in the order given."""
        at = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        named = {field: self.names[field].take(self.numbers[field][at].astype(np.int64)) for field in NAMED}
        texts = zip(named["subject"], named["predicate"], self.objects.take(rows), strict=True)
        return [
            Fact(*text, sense, source)
            for text, sense, source in zip(texts, named["sense"], named["source"], strict=True)
        ]

    def frame(self, rows: range | Int64[np.ndarray, " rows"]) -> pl.DataFrame:
        """Some rows with their texts, columns `facts.FIELDS`."""
        at = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        columns = {"object": pl.Series(self.objects.take(rows), dtype=pl.String)}
        for field in NAMED:
            numbers = self.numbers[field][at]
            if len(numbers) < 1_000:  # the detour over distinct names pays only for many rows
                columns[field] = pl.Series(self.names[field].take(numbers.astype(np.int64)), dtype=pl.String)
                continue
            used, place = np.unique(numbers, return_inverse=True)
            texts = pl.Series(self.names[field].take(used.astype(np.int64)), dtype=pl.String)
            columns[field] = texts.gather(place.astype(np.uint32))
        return pl.DataFrame({field: columns[field] for field in FIELDS})

    def frames(self, *, at_once: int = 200_000) -> Iterator[tuple[range, pl.DataFrame]]:
        """All rows in order, `at_once` at a time."""
        for start in range(0, len(self), at_once):
            rows = range(start, min(start + at_once, len(self)))
            yield rows, self.frame(rows)

    @classmethod
    def open(cls, folder: Path, *, manifest_checksum: int) -> Segment:
        """Map a saved segment after checking it (see FULL_CHECK_BYTES).

        Raises KnowledgeBaseDamaged when anything is missing or differs from what was recorded.
        """
        sums = check(folder, manifest_checksum=manifest_checksum)
        unchecked = [
            Blocks(folder / name, _content(folder / name), text)
            for name, text in sums.items()
            if name.endswith(".npy") and text is not None
        ]
        for blocks in unchecked:  # where an array says how it is laid out
            blocks.require(0, min(BLOCK, len(blocks)))
        values = _mapped(folder / "values.arrow", _VALUES, sums)
        names = {field: _mapped(folder / f"{field}.arrow", _TEXT, sums)["text"] for field in NAMED}
        objects = [folder / name for name in sorted(sums) if name.startswith("object-")]
        pieces = [_mapped(path, _TEXT, sums)["text"] for path in objects]
        try:
            key_ptr = np.asarray(np.load(folder / "key_ptr.npy", mmap_mode="r"))
        except (OSError, ValueError) as error:
            raise damaged(folder / "key_ptr.npy", str(error)) from error
        segment = cls(FieldedTrie.open(folder / "trie"), key_ptr, values, Pieces(pieces, AT_ONCE), names)
        segment._unchecked = unchecked
        return segment


@dataclass(frozen=True, slots=True)
class Drawn:
    """Facts in the order of their keys, ready to be written."""

    trie: FieldedTrie
    key_ptr: Int64[np.ndarray, " keys+1"]
    facts: NumberedFacts
    order: Int64[np.ndarray, " facts"]

    @classmethod
    def of(cls, facts: NumberedFacts, tokenizer: BatchTokenizer) -> Drawn:
        """Build the tree and sort the facts: by key, then as they came."""
        kinds = NAMED[:3]
        texts = [facts.names[field] for field in kinds]
        trie, key_row = FieldedTrie.of_numbered(texts, [facts.numbers[field] for field in kinds], tokenizer)  # pyright: ignore[reportArgumentType]  (a Series is a sequence)
        order, key_ptr = by_key(key_row, len(trie))
        return cls(trie, key_ptr, facts, order)

    def save(self, folder: Path, *, tokenizer: str, written: Callable[[int], None] = lambda _: None) -> int:
        """Write into a new folder and flush it; the manifest's checksum, to be recorded in the catalogue.

        `written` hears how many facts are.
        """
        (folder / "trie").mkdir(parents=True)
        self.trie.save(folder / "trie")
        np.save(folder / "key_ptr.npy", self.key_ptr.astype(np.min_scalar_type(max(self.facts.height, 2**31))))
        values = {field: numbers[self.order] for field, numbers in self.facts.numbers.items()}
        write_columns(folder / "values.arrow", pl.DataFrame({field: values.pop(field) for field in NAMED}))
        for field in NAMED:
            write_columns(folder / f"{field}.arrow", self.facts.names[field].alias("text").to_frame())
        for number, objects in enumerate(self.facts.objects_in(self.order)):
            write_columns(folder / f"object-{number:04d}.arrow", objects.to_frame())
            written(min((number + 1) * AT_ONCE, self.facts.height))
        return write_manifest(folder, self.facts.height, len(self.trie), tokenizer)


def write_manifest(folder: Path, facts: int, keys: int, tokenizer: str) -> int:
    """Record the files of a new segment and flush it; the manifest's checksum."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            size, sums = sums_of(path)
            files[path.relative_to(folder).as_posix()] = {"bytes": size, "crc32": sums}
    manifest = {"format": FORMAT, "facts": facts, "keys": keys, "tokenizer": tokenizer, "files": files}
    content = json.dumps(manifest, indent=1).encode()
    (folder / MANIFEST).write_bytes(content)
    flush_tree(folder)
    return zlib.crc32(content)


def by_key(
    key_row: Int64[np.ndarray, " facts"], keys: int
) -> tuple[Int64[np.ndarray, " facts"], Int64[np.ndarray, " keys+1"]]:
    """The order of facts by key, then as they came; and where each key's facts begin in it."""
    return np.argsort(key_row, kind="stable"), pointers(np.bincount(key_row, minlength=keys))


def check(folder: Path, *, manifest_checksum: int, full: bool | None = None) -> dict[str, str | None]:
    """Compare a segment with its manifest: always the sizes, the bytes too when `full` (default: when it is small).

    The checksums of each file's blocks by its name in the folder; None where all were compared.
    """
    files: dict[str, dict[str, Any]] = _manifest(folder, manifest_checksum)["files"]
    total = sum(entry["bytes"] for entry in files.values())
    full = total <= FULL_CHECK_BYTES if full is None else full
    for name, entry in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            sums = sums_of(path)[1] if full and size == entry["bytes"] else None
        except OSError as error:
            raise damaged(path, error.strerror or str(error)) from error
        if size != entry["bytes"]:
            raise damaged(path, f"{size:,} bytes instead of {entry['bytes']:,}")
        if sums is not None and sums != entry["crc32"]:
            raise damaged(path, "its checksum differs from the one recorded")
    return {name: None if full else entry["crc32"] for name, entry in files.items()}


def _manifest(folder: Path, expected: int) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    if zlib.crc32(content) != expected:
        raise damaged(path, "its checksum differs from the one recorded")
    manifest = json.loads(content)
    if manifest["format"] != FORMAT:
        raise KnowledgeBaseDamaged(  # as what is damaged, it may be built anew in the same place
            f"{path} has format {manifest['format']}; this version of Tianwen reads {FORMAT}. "
            "Use the version that wrote it, or build the knowledge base again."
        )
    return manifest


def _mapped(path: Path, kinds: dict[str, Kind], sums: dict[str, str | None]) -> dict[str, Any]:
    try:
        return map_columns(path, kinds, sums=sums.get(path.name))
    except (OSError, ValueError) as error:
        raise damaged(path, str(error)) from error


def _content(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise damaged(path, str(error)) from error
