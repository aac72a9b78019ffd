"""Files that are either complete or absent: written beside, forced to the disk, renamed.

A reader never sees half a file, whenever the writer is killed or the disk is full.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".writing-"
"""Beginning of the names of files and folders that are being written; whatever is left with it may be deleted."""


def write_file(path: Path, content: bytes) -> None:
    """Replace the file `path` by `content` in one step."""

    def write(part: Path) -> None:
        part.write_bytes(content)

    replace_file(path, write)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then put it in the place of `path` in one step.

    Raises FileExistsError where a folder, a device or a pipe stands there: a rename would put a file in its place.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{str(path)!r} is not a file that can be replaced; give the name of a new one")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{PART}{os.getpid()}-{path.name}")
    try:
        write(part)
        flush(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    flush(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it becomes `path` when the block ends without an error, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{PART}{os.getpid()}-{path.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        for file in part.iterdir():
            flush(file)
        flush(part)
        os.rename(part, path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    flush(path.parent)


def remove_parts(folder: Path) -> None:
    """Delete what a killed writer left in `folder`."""
    for part in folder.glob(f"{PART}*"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Force a file, or the list of names of a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder; a rename is recorded there anyway
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
