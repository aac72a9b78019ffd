"""Temporary folders beside a knowledge base, which no death of a process leaves for long, and the files in them.

Post: 8802

A folder is locked as long as its process lives. It goes when its work ends, whether well, by an error or by Ctrl-C;
after a kill -9 the next build of the same knowledge base finds it unlocked and deletes it.
"""

from __future__ import annotations

import contextlib
import glob
import mmap
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tianwen.ask.durable import WriteLock, remove_tree

LOCK = "write.lock"
_KINDS = ("building", "sorting")
_ZEROS = 2**20


def remove_leftovers(folder: Path) -> None:
    """Delete what dead processes left beside `folder`."""
    for kind in _KINDS:
        for left_over in folder.parent.glob(f"{glob.escape(f'.{folder.name}.{kind}')}-*"):
            lock = WriteLock(left_over / LOCK, timeout=0)
            with contextlib.suppress(OSError):
                if lock.try_lock():
                    remove_tree(left_over)
                    lock.__exit__()


@contextlib.contextmanager
def folder_beside(folder: Path, kind: str) -> Iterator[Path]:
    """A locked, empty folder next to `folder`, removed unless renamed; `kind` is "building" or "sorting"."""
    while True:
        beside = folder.with_name(f".{folder.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}")
        beside.mkdir()
        with WriteLock(beside / LOCK, timeout=1):
            if not (beside / LOCK).exists():  # another builder cleaned up before it was locked
                continue
            try:
                yield beside
            finally:
                if beside.exists():
                    remove_tree(beside)
            return


class Scratch:
    """Temporary files beside `folder`; their folder is made when the first of them is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._closing = contextlib.ExitStack()
        self._place: Path | None = None
        self._count = 0

    def __enter__(self) -> Scratch:
        remove_leftovers(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def path(self, name: str) -> Path:
        """A new path in the folder."""
        if self._place is None:
            self._place = self._closing.enter_context(folder_beside(self.folder, "sorting"))
        self._count += 1
        return self._place / f"{self._count:04d}-{name}"

    def spool(self, name: str, kind: type[np.generic]) -> Spool:
        """A new empty file of numbers."""
        spool = Spool(self.path(name), np.dtype(kind))
        self._closing.callback(spool.remove)
        return spool


class Spool:
    """A file of numbers that grows at its end and is read as it was written: by the piece, or mapped."""

    def __init__(self, path: Path, kind: np.dtype[Any]) -> None:
        self.path = path
        self.kind = kind
        self._file: Any = path.open("w+b", buffering=0)
        self._count = 0

    def __len__(self) -> int:
        """How many numbers."""
        return self._count

    def append(self, numbers: np.ndarray | bytes) -> None:
        """Some more numbers, or their bytes."""
        if isinstance(numbers, bytes):
            view = memoryview(numbers)
        else:
            view = np.ascontiguousarray(numbers, self.kind).reshape(-1).view(np.uint8).data
        self._count += len(view) // self.kind.itemsize
        while len(view):
            view = view[self._file.write(view) :]

    def read(self, start: int, stop: int) -> np.ndarray:
        """A copy of the numbers start .. stop - 1."""
        found = np.empty(stop - start, self.kind)
        view, place = found.view(np.uint8).data, start * self.kind.itemsize
        self._file.seek(place)
        while len(view):
            size = self._file.readinto(view)
            if not size:
                raise OSError(f"{self.path} ends too early; it was cut by another program.")
            view = view[size:]
        self._file.seek(0, os.SEEK_END)
        return found

    def pieces(self, size: int) -> Iterator[np.ndarray]:
        """All numbers in order, `size` at a time."""
        for start in range(0, self._count, size):
            yield self.read(start, min(start + size, self._count))

    def map(self) -> tuple[np.ndarray, mmap.mmap | None]:
        """All numbers, read-only and mapped, and their mapping; none where there is no number."""
        if not self._count:
            return np.empty(0, self.kind), None
        content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(content, self.kind), content

    def remove(self) -> None:
        """Delete the file; what was mapped stays."""
        self._file.close()
        with contextlib.suppress(OSError):  # on Windows what is mapped stays until the folder goes
            self.path.unlink()


def array_file(path: Path, kind: type[np.generic], count: int) -> np.ndarray:
    """A new `.npy` file of zeros as np.save writes it, mapped to be filled.

    The zeros are written, not only promised: on a full disk this raises OSError, where a hole in a file would end the
    process when it is filled.
    """
    if not count:
        np.save(path, np.empty(0, kind))
        return np.empty(0, kind)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (count,)}
        )
        left = count * np.dtype(kind).itemsize
        while left:
            left -= file.write(bytes(min(left, _ZEROS)))
    return np.asarray(np.load(path, mmap_mode="r+"))


class ArrayWriter:
    """A `.npy` file as np.save writes it, made from one end to the other; how long it gets shows only then."""

    def __init__(self, path: Path, kind: type[np.generic], scratch: Scratch) -> None:
        self._path = path
        self._spool = scratch.spool(path.name, kind)

    def __len__(self) -> int:
        return len(self._spool)

    def append(self, numbers: np.ndarray) -> None:
        """Some more numbers."""
        self._spool.append(numbers)

    def finish(self) -> None:
        """Write the file."""
        kind, count = self._spool.kind, len(self._spool)
        with self._path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": kind.str, "fortran_order": False, "shape": (count,)})
            for piece in self._spool.pieces(_ZEROS):
                file.write(piece.data)
        self._spool.remove()
