"""Columns of numbers and texts that map into memory from an Arrow IPC file.

Post: 8802

Polars reads such a file into memory as a whole, which at 20 million facts takes seconds and gigabytes in every process.
The file is written by polars in one uncompressed record batch; its buffers then lie in it as plain arrays, and the few
tables of its footer say where. So other tools read an ordinary Arrow file, and we read only the pages we touch.

Layout (Arrow columnar format 1.x): `ARROW1`, messages, footer (a flatbuffer), its length as int32, `ARROW1`. The
footer lists blocks (offset, length of metadata, length of body); a block's metadata lists buffers (offset in the body,
length): validity and values of a number; validity, offsets (int64) and bytes of a text.
"""

from __future__ import annotations

import inspect
import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import polars as pl
from jaxtyping import Int64, Integer, UInt8

from tianwen.ask.ragged import pointers
from tianwen.ask.sums import BLOCK, Blocks, CheckedArray

Kind: TypeAlias = Literal["number", "text"]
Column: TypeAlias = "np.ndarray | CheckedArray | Texts"

_MAGIC = b"ARROW1"
_RECORD_BATCH = 3
# polars 2 splits a frame into batches unless told otherwise; before, a frame of one chunk is one batch.
_TAKES_BATCH_SIZE = "record_batch_size" in inspect.signature(pl.DataFrame.write_ipc).parameters


class Texts:
    """Many texts end to end: text i is the UTF-8 in data[ptr[i] : ptr[i + 1]]."""

    def __init__(
        self,
        ptr: Int64[np.ndarray, " texts+1"] | CheckedArray,
        data: UInt8[np.ndarray, " bytes"],
        blocks: Blocks | None = None,
    ) -> None:
        """`blocks` is the file of `data` where it is compared with its checksums as it is used."""
        self.ptr = ptr
        self._view = memoryview(data)  # pyright: ignore[reportArgumentType]
        self._blocks = blocks
        self._place = blocks.place_of(data) if blocks is not None and len(data) else 0

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """A few texts in memory."""
        encoded = [text.encode() for text in texts]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls(pointers(lengths), np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def take(self, rows: range | Integer[np.ndarray, " rows"]) -> list[str]:
        """Some texts, in the order given."""
        if isinstance(rows, range):
            ends = self.ptr[rows.start : rows.stop + 1].tolist()
            starts = ends[:-1]
            ends = ends[1:]
        else:
            starts, ends = self.ptr[rows].tolist(), self.ptr[rows + 1].tolist()
        if self._blocks is not None:
            for start, end in zip(starts, ends, strict=True):
                self._blocks.require(self._place + start, self._place + end)
        view = self._view
        return [str(view[start:end], "utf-8") for start, end in zip(starts, ends, strict=True)]


class Pieces:
    """Texts in several files, `size` in each but the last."""

    def __init__(self, pieces: Sequence[Texts], size: int) -> None:
        self.pieces = pieces
        self.size = size

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def take(self, rows: range | Integer[np.ndarray, " rows"]) -> list[str]:
        """Some texts, in the order given."""
        if len(self.pieces) == 1:
            return self.pieces[0].take(rows)
        rows = np.arange(rows.start, rows.stop) if isinstance(rows, range) else np.asarray(rows, np.int64)
        piece, texts = rows // self.size, np.empty(len(rows), object)
        for number in np.unique(piece).tolist():
            here = np.flatnonzero(piece == number)
            texts[here] = self.pieces[number].take(rows[here] - number * self.size)
        return texts.tolist()


def write_columns(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame of UInt32 and String columns so that `map_columns` can map it."""
    options: dict[str, Any] = {"record_batch_size": max(frame.height, 1)} if _TAKES_BATCH_SIZE else {}
    frame.rechunk().write_ipc(path, compression="uncompressed", compat_level=pl.CompatLevel.oldest(), **options)


def map_columns(path: Path, kinds: dict[str, Kind], *, sums: str | None = None) -> dict[str, Column]:
    """Map the columns of a file that `write_columns` wrote; `kinds` names them in their order.

    The mapping outlives the file's name. With the `sums` of its blocks each is compared before it is first used.
    Raises OSError or ValueError when the file is not laid out as expected.
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    blocks = None if sums is None else Blocks(path, content, sums)
    if blocks is not None:  # where the layout stands
        blocks.require(0, min(BLOCK, len(content)))
        blocks.require(max(0, len(content) - BLOCK), len(content))
    rows, places = _buffers(content)
    if blocks is not None and any(start > BLOCK for start, _ in places[:1]):
        raise ValueError("its layout is longer than a block")
    expected = sum(2 if kind == "number" else 3 for kind in kinds.values())
    if rows and len(places) != expected:
        raise ValueError(f"{len(places)} buffers instead of {expected}")
    parts = iter(places)
    columns: dict[str, Column] = {}
    for name, kind in kinds.items():
        if not rows:
            columns[name] = np.empty(0, np.uint32) if kind == "number" else Texts(np.zeros(1, np.int64), _NO_BYTES)
            continue
        next(parts)  # validity: nothing is null
        if kind == "number":
            columns[name] = _checked(_array(content, next(parts), np.uint32, rows), blocks)
        else:
            ptr = _checked(_array(content, next(parts), np.int64, rows + 1), blocks)
            size = int(ptr[rows:][0])
            columns[name] = Texts(ptr, _array(content, next(parts), np.uint8, size), blocks)
    return columns


def _checked(array: np.ndarray, blocks: Blocks | None) -> np.ndarray | CheckedArray:
    return array if blocks is None else CheckedArray(array, blocks)


_NO_BYTES = np.empty(0, np.uint8)


def _array(content: mmap.mmap, place: tuple[int, int], kind: type[np.generic], count: int) -> np.ndarray:
    start, length = place
    if count * np.dtype(kind).itemsize > length or start + length > len(content):
        raise ValueError(f"a buffer of {length} bytes for {count} values")
    return np.frombuffer(content, kind, count, start) if count else np.empty(0, kind)


def _buffers(content: mmap.mmap) -> tuple[int, list[tuple[int, int]]]:
    """Rows of the file's one record batch, and (place in the file, length) of its buffers."""
    try:
        return _parse(content)
    except struct.error as error:
        raise ValueError(f"not an Arrow file: {error}") from error


class Places(NamedTuple):
    """Where a file of one record batch says how large it is, and where its buffers lie."""

    rows: int
    nodes: list[int]  # of each column its number of rows
    buffers: list[int]  # of each buffer its place in the body and its length
    body_lengths: tuple[int, int]  # in the message and in the footer
    body: int
    after: int


def places_in_file(content: bytearray) -> Places:
    """The places of a file that `write_columns` wrote, of at least one row."""
    (size,) = struct.unpack_from("<i", content, len(content) - 10)
    footer = _follow(content, len(content) - 10 - size)
    block = _follow(content, _field(content, footer, 3) or 0) + 4
    start, metadata, length = struct.unpack_from("<qi4xq", content, block)
    message = _follow(content, start + 8)
    batch = _follow(content, _field(content, message, 2) or 0)
    nodes = _follow(content, _field(content, batch, 1) or 0)
    buffers = _follow(content, _field(content, batch, 2) or 0)
    count_of = lambda at: struct.unpack_from("<I", content, at)[0]  # noqa: E731
    return Places(
        _field(content, batch, 0) or 0,
        [nodes + 4 + 16 * k for k in range(count_of(nodes))],
        [buffers + 4 + 16 * k for k in range(count_of(buffers))],
        (_field(content, message, 3) or 0, block + 16),
        start + metadata,
        start + metadata + length,
    )


def _parse(content: mmap.mmap) -> tuple[int, list[tuple[int, int]]]:
    if content[:6] != _MAGIC or content[-6:] != _MAGIC:
        raise ValueError("not an Arrow file")
    (size,) = struct.unpack_from("<i", content, len(content) - 10)
    footer = _follow(content, len(content) - 10 - size)
    blocks = _vector(content, _field(content, footer, 3), "<qi4xq")
    if len(blocks) > 1:
        raise ValueError(f"{len(blocks)} record batches instead of one")
    if not blocks:
        return 0, []
    start, metadata, _ = blocks[0]
    (marker,) = struct.unpack_from("<i", content, start)
    message = _follow(content, start + (8 if marker == -1 else 4))
    header_type = _field(content, message, 1)
    if header_type is None or content[header_type] != _RECORD_BATCH:
        raise ValueError("the block is no record batch")
    header = _field(content, message, 2)
    if header is None:
        raise ValueError("the block has no header")
    batch = _follow(content, header)
    if _field(content, batch, 3) is not None:
        raise ValueError("the record batch is compressed")
    length = _field(content, batch, 0)
    rows = struct.unpack_from("<q", content, length)[0] if length is not None else 0
    if any(nulls for _, nulls in _vector(content, _field(content, batch, 1), "<qq")):
        raise ValueError("some values are null")
    body = start + metadata
    buffers = _vector(content, _field(content, batch, 2), "<qq")
    return rows, [(body + place, length) for place, length in buffers]


def _follow(content: mmap.mmap | bytearray, at: int) -> int:
    """Where a flatbuffer reference points."""
    return at + struct.unpack_from("<I", content, at)[0]


def _field(content: mmap.mmap | bytearray, table: int, number: int) -> int | None:
    """Where a table's field lies; None when it is left out (its default value)."""
    fields = table - struct.unpack_from("<i", content, table)[0]
    (size,) = struct.unpack_from("<H", content, fields)
    if 4 + 2 * number >= size:
        return None
    (place,) = struct.unpack_from("<H", content, fields + 4 + 2 * number)
    return table + place if place else None


def _vector(content: mmap.mmap | bytearray, at: int | None, item: str) -> Sequence[tuple[int, ...]]:
    if at is None:
        return []
    start = _follow(content, at)
    (count,) = struct.unpack_from("<I", content, start)
    size = struct.calcsize(item)
    if start + 4 + count * size > len(content):
        raise ValueError("a vector runs beyond the file")
    return [struct.unpack_from(item, content, start + 4 + place * size) for place in range(count)]
