"""Arrow files of columns that never are in memory, byte for byte as `columns.write_columns` writes them.

Post: 8802

The columns wait in files of their own. What stands before and after them is taken from a file of one row, which polars
writes: in it the number of rows, the places and lengths of the buffers and the length of the whole are put right.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
from jaxtyping import Int, UInt8, UInt32

from tianwen.ask.columns import Kind, places_in_file, write_columns
from tianwen.ask.scratch import Scratch, Spool

_ALIGNED = 64
_PIECE = 2**20


class ColumnWriter:
    """A file of columns, written from its first row to its last."""

    def __init__(self, path: Path, kinds: dict[str, Kind], scratch: Scratch) -> None:
        self._path = path
        self._kinds = kinds
        self._scratch = scratch
        self._numbers = {name: scratch.spool(f"{path.name}-{name}", np.uint32) for name in kinds}
        texts = (name for name, kind in kinds.items() if kind == "text")
        self._bytes = {name: scratch.spool(f"{path.name}-{name}-bytes", np.uint8) for name in texts}

    def append_numbers(self, name: str, numbers: UInt32[np.ndarray, " rows"]) -> None:
        """Some more rows of a column of numbers."""
        self._numbers[name].append(numbers)

    def append_texts(self, name: str, lengths: Int[np.ndarray, " rows"], data: UInt8[np.ndarray, " bytes"]) -> None:
        """Some more rows of a column of texts: their lengths in bytes, and their bytes end to end."""
        self._numbers[name].append(lengths)
        self._bytes[name].append(data)

    def finish(self) -> None:
        """Write the file; every column must have as many rows, and at least one."""
        buffers: list[Spool | None] = []
        for name, kind in self._kinds.items():
            numbers = self._numbers[name]
            if kind == "text":
                buffers += [None, _ends(numbers, self._scratch.spool(f"{name}-ends", np.int64)), self._bytes[name]]
            else:
                buffers += [None, numbers]
        rows = len(next(iter(self._numbers.values())))
        sample = self._scratch.path("sample.arrow")
        write_columns(
            sample, pl.DataFrame({n: ["a"] if k == "text" else np.zeros(1, np.uint32) for n, k in self._kinds.items()})
        )
        content = bytearray(sample.read_bytes())
        sample.unlink()
        with self._path.open("wb") as file:
            _write(file, content, rows, buffers)
        for spool in (*filter(None, buffers), *self._numbers.values()):
            spool.remove()


def _ends(lengths: Spool, ends: Spool) -> Spool:
    """Where each text begins, and where the last one ends."""
    total = 0
    ends.append(np.zeros(1, np.int64))
    for piece in lengths.pieces(_PIECE):
        found = np.cumsum(piece, dtype=np.int64) + total
        total = int(found[-1])
        ends.append(found)
    return ends


def _write(file: BinaryIO, content: bytearray, rows: int, buffers: list[Spool | None]) -> None:
    """Write the sample with other buffers in the place of its own."""
    places = places_in_file(content)
    sizes = [0 if buffer is None else len(buffer) * buffer.kind.itemsize for buffer in buffers]
    body = 0
    for place, size in zip(places.buffers, sizes, strict=True):
        struct.pack_into("<qq", content, place, body, size)
        body += -(-size // _ALIGNED) * _ALIGNED
    for place in (places.rows, *places.nodes):
        struct.pack_into("<q", content, place, rows)
    for place in places.body_lengths:
        struct.pack_into("<q", content, place, body)
    file.write(content[: places.body])
    for buffer, size in zip(buffers, sizes, strict=True):
        if buffer is not None:
            for piece in buffer.pieces(_PIECE):
                file.write(piece.data)
            file.write(bytes(-size % _ALIGNED))
    file.write(content[places.after :])
