"""Checksums of the blocks of a file, so that of a large one only what is used need be read to know that it is sound.

Post: 8802 (whose base of 20 million facts takes more than a gigabyte here)

Notation
    b  blocks of BLOCK bytes, the last one shorter      sums [b]  their CRC-32
"""

from __future__ import annotations

import mmap
import threading
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer, UInt32

from tianwen.ask.durable import damaged

BLOCK = 2**16
_AT_ONCE = 64 * BLOCK
_MANY = 64


def sums_of(path: Path) -> tuple[int, str]:
    """(size, CRC-32 of each block in hex, one after the other) of a file; about 1 GB a second."""
    size, sums = 0, []
    with path.open("rb") as file:
        while chunk := file.read(_AT_ONCE):
            view = memoryview(chunk)
            sums += [zlib.crc32(view[start : start + BLOCK]) for start in range(0, len(chunk), BLOCK)]
            size += len(chunk)
    return size, "".join(f"{value:08x}" for value in sums)


class Blocks:
    """A mapped file whose blocks are compared with their checksums before they are first used."""

    def __init__(self, path: Path, content: mmap.mmap | bytes, sums: str) -> None:
        """Raises KnowledgeBaseDamaged when there are not as many sums as blocks."""
        self.path = path
        self._view = memoryview(content)
        self._sums: UInt32[np.ndarray, " b"] = np.frombuffer(bytes.fromhex(sums), ">u4")
        if len(self._sums) != -(-len(self._view) // BLOCK):
            raise damaged(path, f"{len(self._view):,} bytes, but checksums of {len(self._sums):,} blocks")
        self._sound = bytearray(len(self._sums))  # 1 where the block has been compared
        self._left = len(self._sums)
        self._lock = threading.Lock()
        self._address = np.frombuffer(self._view, np.uint8).ctypes.data if len(self._view) else 0

    def __len__(self) -> int:
        """Bytes of the file."""
        return len(self._view)

    def require(self, start: int, stop: int) -> None:
        """Compare the blocks in which the bytes start .. stop - 1 lie.

        Raises KnowledgeBaseDamaged at the first that differs.
        """
        for block in range(start // BLOCK, -(-stop // BLOCK)) if stop > start else ():
            if not self._sound[block]:
                self._compare(block)

    def require_each(self, start: Int64[np.ndarray, " n"], size: int) -> None:
        """The same for many places of `size` bytes each, no more than a block."""
        if not self._left:
            return
        if len(start) > _MANY:
            ends = np.concatenate([start, start + (size - 1)]) // BLOCK
            start, size = np.unique(ends) * BLOCK, 1
        for place in start.tolist():
            self.require(place, place + size)

    def require_all(self) -> None:
        """Compare the whole file."""
        if self._left:
            self.require(0, len(self._view))

    def _compare(self, block: int) -> None:
        if zlib.crc32(self._view[block * BLOCK : (block + 1) * BLOCK]) != self._sums[block]:
            raise damaged(self.path, f"the checksum of block {block} differs from the one recorded")
        with self._lock:
            self._left -= 1 - self._sound[block]
            self._sound[block] = 1

    def place_of(self, array: np.ndarray) -> int:
        """Where in the file an array over this mapping begins."""
        return array.ctypes.data - self._address


class CheckedArray:
    """A flat array in such a file: what is taken from it has been compared."""

    def __init__(self, array: np.ndarray, blocks: Blocks) -> None:
        self._array = array
        self._blocks = blocks
        self._place = blocks.place_of(array) if len(array) else 0

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, at: slice | Integer[np.ndarray, " some"]) -> np.ndarray:
        size = self._array.itemsize
        if isinstance(at, slice):
            start, stop, _ = at.indices(len(self._array))
            self._blocks.require(self._place + start * size, self._place + stop * size)
        else:
            self._blocks.require_each(self._place + at.astype(np.int64) * size, size)
        return self._array[at]
