"""An immutable part of a knowledge base: a prefix tree over facts, and the facts in the order of its keys.

Post: 8802

    segments/0001/manifest.json      format, counts, tokenizer, and size and CRC-32 of every file
                  trie/*.npy         the tree's arrays (`fielded`), memory-mapped
                  key_ptr.npy        [keys + 1] int64: the facts of key k are rows key_ptr[k] .. key_ptr[k + 1] - 1
                  values.arrow       one row a fact: numbers of subject, predicate, sense, source; the object's text
                  subject.arrow ...  the texts of those numbers, each once

Facts of one key stand in the order in which they came. Arrow files are not compressed, so that they map into memory.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from tianwen.ask.durable import checksum, flush_tree
from tianwen.ask.facts import FIELDS, Fact
from tianwen.ask.fielded import BatchTokenizer, FieldedTrie
from tianwen.errors import KnowledgeBaseDamaged

FORMAT = 1
MANIFEST = "manifest.json"
NAMED = ("subject", "predicate", "sense", "source")

# Below this many bytes a segment is read and checked in full when it is opened (about 0.25 s at the limit); a larger
# one only by its sizes and its manifest, and in full by `KnowledgeBase.verify`.
FULL_CHECK_BYTES = 256 * 2**20


class Segment:
    """Facts in memory or memory-mapped, with their tree; never changes."""

    def __init__(
        self, trie: FieldedTrie, key_ptr: Int64[np.ndarray, " keys+1"], values: pl.DataFrame, names: dict[str, pl.Series]
    ) -> None:
        self.trie = trie
        self.key_ptr = key_ptr
        self.values = values
        self.names = names

    def __len__(self) -> int:
        """Number of facts."""
        return self.values.height

    @classmethod
    def of(cls, facts: pl.DataFrame, tokenizer: BatchTokenizer) -> tuple[Segment, Int64[np.ndarray, " facts"]]:
        """Index facts (columns `facts.FIELDS`, no exact duplicates); also for each row, which row of `facts` it was."""
        trie, key_row = FieldedTrie.build(facts["subject"], facts["predicate"], facts["sense"], tokenizer)
        order = np.argsort(key_row, kind="stable")  # by key, then as they came
        key_ptr = np.zeros(len(trie) + 1, np.int64)
        np.cumsum(np.bincount(key_row, minlength=len(trie)), out=key_ptr[1:])
        names, columns = {}, {}
        for field in NAMED:
            names[field] = facts[field].unique(maintain_order=True)
            columns[field] = numbers(facts[field], names[field])
        columns["object"] = facts["object"]
        values = pl.DataFrame(columns)[order].rechunk()
        return cls(trie, key_ptr, values, names), order

    # Reading

    def rows_of_keys(self, low: int, high: int) -> range:
        """Rows of the facts of the keys low .. high - 1."""
        return range(int(self.key_ptr[low]), int(self.key_ptr[high]))

    def facts(self, rows: range | Int64[np.ndarray, " rows"]) -> list[Fact]:
        """The facts of some rows, in the order given."""
        return [Fact(*row) for row in self.frame(rows).iter_rows()]

    def frame(self, rows: range | Int64[np.ndarray, " rows"]) -> pl.DataFrame:
        """Some rows with their texts, columns `facts.FIELDS`."""
        if isinstance(rows, range):
            part = self.values.slice(rows.start, len(rows))
        else:
            part = self.values[rows]
        texts = {field: self.names[field].gather(part[field]) for field in NAMED}
        return pl.DataFrame({"object": part["object"], **texts}).select(FIELDS)

    def frames(self, *, at_once: int = 200_000) -> Iterator[tuple[range, pl.DataFrame]]:
        """All rows in order, `at_once` at a time."""
        for start in range(0, len(self), at_once):
            rows = range(start, min(start + at_once, len(self)))
            yield rows, self.frame(rows)

    def number_of(self, field: str, text: str) -> int | None:
        """The number of a subject, predicate, sense or source, None when no fact has it."""
        found = (self.names[field] == text).arg_max()
        return found if found is not None and self.names[field][found] == text else None

    # Writing and opening

    def save(self, folder: Path, *, tokenizer: str) -> int:
        """Write into a new folder and flush it; return the checksum of the manifest, to be recorded in the catalogue."""
        (folder / "trie").mkdir(parents=True)
        self.trie.save(folder / "trie")
        np.save(folder / "key_ptr.npy", self.key_ptr)
        self.values.write_ipc(folder / "values.arrow", compression="uncompressed")
        for field in NAMED:
            self.names[field].to_frame("text").write_ipc(folder / f"{field}.arrow", compression="uncompressed")
        files = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                size, crc = checksum(path)
                files[path.relative_to(folder).as_posix()] = {"bytes": size, "crc32": f"{crc:08x}"}
        manifest = {
            "format": FORMAT,
            "facts": len(self),
            "keys": len(self.trie),
            "tokenizer": tokenizer,
            "files": files,
        }
        content = json.dumps(manifest, indent=1).encode()
        (folder / MANIFEST).write_bytes(content)
        flush_tree(folder)
        return zlib.crc32(content)

    @classmethod
    def open(cls, folder: Path, *, manifest_checksum: int) -> Segment:
        """Map a saved segment after checking it (see FULL_CHECK_BYTES).

        Raises KnowledgeBaseDamaged when anything is missing or differs from what was recorded.
        """
        check(folder, manifest_checksum=manifest_checksum)
        names = {field: _mapped(folder / f"{field}.arrow")["text"] for field in NAMED}
        try:
            key_ptr = np.load(folder / "key_ptr.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise damaged(folder / "key_ptr.npy", str(error)) from error
        return cls(FieldedTrie.open(folder / "trie"), key_ptr, _mapped(folder / "values.arrow"), names)


def check(folder: Path, *, manifest_checksum: int, full: bool | None = None) -> None:
    """Compare a segment with its manifest: always the sizes, the bytes too when `full` (default: when it is small).

    Raises KnowledgeBaseDamaged; FileNotFoundError when the whole folder is gone (a compaction can do that).
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    manifest = _manifest(folder, manifest_checksum)
    files: dict[str, dict[str, Any]] = manifest["files"]
    total = sum(entry["bytes"] for entry in files.values())
    full = total <= FULL_CHECK_BYTES if full is None else full
    for name, entry in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            crc = checksum(path)[1] if full and size == entry["bytes"] else None
        except OSError as error:
            raise damaged(path, error.strerror or str(error)) from error
        if size != entry["bytes"]:
            raise damaged(path, f"{size:,} bytes instead of {entry['bytes']:,}")
        if crc is not None and f"{crc:08x}" != entry["crc32"]:
            raise damaged(path, "its checksum differs from the one recorded")


def damaged(path: Path, what: str) -> KnowledgeBaseDamaged:
    """The error for a file that is not as it was written."""
    return KnowledgeBaseDamaged(
        f"{path} is damaged: {what}. Nothing is answered from it; restore the folder from a copy or build it again."
    )


def numbers(column: pl.Series, names: pl.Series) -> pl.Series:
    """The place of each text of `column` in `names`, as UInt32."""
    if not len(column):
        return pl.Series(column.name, [], dtype=pl.UInt32)
    return column.cast(pl.Enum(names)).to_physical().cast(pl.UInt32)


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
        raise damaged(path, f"format {manifest['format']}, this version reads {FORMAT}")
    return manifest


def _mapped(path: Path) -> pl.DataFrame:
    try:
        return pl.read_ipc(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise damaged(path, str(error).splitlines()[0]) from error
