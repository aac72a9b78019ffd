"""Files that survive a crash: written beside, flushed to the disk, renamed; and the lock for one writer at a time.

Post: 8802
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from tianwen.errors import KnowledgeBaseDamaged, KnowledgeBaseError, KnowledgeBaseLocked

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_CHUNK = 4 * 2**20
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def checksum(path: Path) -> tuple[int, int]:
    """(size in bytes, CRC-32) of a file; about 1 GB a second."""
    with path.open("rb") as file:
        return checksum_of(iter(lambda: file.read(_CHUNK), b""))


def checksum_of(chunks: Iterable[bytes]) -> tuple[int, int]:
    """(size in bytes, CRC-32) of bytes that come in pieces."""
    size, crc = 0, 0
    for chunk in chunks:
        size += len(chunk)
        crc = zlib.crc32(chunk, crc)
    return size, crc


class SharedFile:
    """Reads a database file whose locks this process may hold.

    POSIX drops all locks of a process on a file as soon as the process closes any descriptor of it - SQLite's locks
    too, and a lost lock can lose the write-ahead log. So one descriptor a file is kept open until the last user in this
    process lets go; open this before the connection and close it after.
    """

    _lock = threading.Lock()
    _users: ClassVar[dict[tuple[int, int], tuple[int, int]]] = {}  # (device, inode) -> descriptor, users

    def __init__(self, path: Path) -> None:
        with self._lock:
            status = path.stat()
            self._key = (status.st_dev, status.st_ino)
            descriptor, users = self._users.get(self._key, (-1, 0))
            if users == 0:
                descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            self._users[self._key] = (descriptor, users + 1)
            self._descriptor: int | None = descriptor

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes as they are now."""
        place = 0
        while self._descriptor is not None and (chunk := self._read(self._descriptor, place)):
            place += len(chunk)
            yield chunk

    def _read(self, descriptor: int, place: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(descriptor, _CHUNK, place)
        with self._lock:
            os.lseek(descriptor, place, os.SEEK_SET)
            return os.read(descriptor, _CHUNK)

    def close(self) -> None:
        """Let go; the last user of the file in this process closes it."""
        with self._lock:
            if self._descriptor is None:
                return
            self._descriptor = None
            descriptor, users = self._users.pop(self._key)
            if users > 1:
                self._users[self._key] = (descriptor, users - 1)
            else:
                os.close(descriptor)


def flush_file(path: Path) -> None:
    """Return when the file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(path: Path) -> None:
    """Return when the folder's names are on the disk (where the system can do that)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and `folder` itself."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            flush_folder(path)
        else:
            flush_file(path)
    flush_folder(folder)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file: a reader, and the next process after a crash, sees the old content or the new, never a mix."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    flush_folder(path.parent)


def is_read_only(folder: Path) -> bool:
    """Whether the folder forbids writing, by its rights or by having no write bit at all (which binds root too)."""
    return not os.access(folder, os.W_OK) or not folder.stat().st_mode & 0o222


@contextlib.contextmanager
def telling(folder: Path, doing: str) -> Iterator[None]:
    """Turn the system's errors of writing into a sentence; what was there before stays as it was."""
    try:
        yield
    except OSError as error:
        raise KnowledgeBaseError(f"{folder}: {doing} failed: {why(error)}. Nothing that was stored is lost.") from error


def why(error: OSError) -> str:
    """The reason of an operating-system error and what to do about it."""
    if error.errno in _NO_ROOM:
        return f"no room to write ({error.strerror}); free some space or raise the limit, then try again"
    if error.errno in _READ_ONLY:
        return f"writing is not allowed here ({error.strerror}); change the rights or copy the folder"
    return f"{error.strerror or error}"


def damaged(path: Path, what: str) -> KnowledgeBaseDamaged:
    """The error for a file that is not as it was written."""
    return KnowledgeBaseDamaged(
        f"{path} is damaged: {what}. Nothing is answered from it; restore the folder from a copy or build it again."
    )


class WriteLock:
    """One writer at a time: an exclusive lock on an empty file. The system releases it when the process dies."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        self.path = path
        self.timeout = timeout  # seconds
        self._descriptor: int | None = None

    def __enter__(self) -> WriteLock:
        deadline = time.monotonic() + self.timeout
        while not self.try_lock():
            if time.monotonic() >= deadline:
                raise KnowledgeBaseLocked(
                    f"{self.path.parent} is being written by another process or thread, and did not become free within "
                    f"{self.timeout:g} s. Wait for it to finish and try again; reading goes on meanwhile."
                )
            # At random and often: one who writes without a pause leaves only a moment between two changes.
            time.sleep(random.uniform(0.0005, 0.003))
        return self

    def try_lock(self) -> bool:
        """Take the lock if it is free."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                return False
            raise
        self._descriptor = descriptor
        return True

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]


def bytes_below(folder: Path) -> int:
    """The size of all files below a folder, of which some may come and go."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def remove_tree(folder: Path) -> None:
    """Delete a folder if possible; what is still in use (Windows) stays for the next time."""
    shutil.rmtree(folder, ignore_errors=True)
