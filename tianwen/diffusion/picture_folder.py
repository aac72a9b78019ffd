"""The pictures of a folder: which files, which labels, and what could not be read, counted and named.

Post: 9152

Subfolders are labels: `cats/1.png` and `cats/old/2.png` are both "cats". There are labels only if every picture lies
in a subfolder. The order is that of the relative paths, so it is the same on every machine.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tianwen.counting import count
from tianwen.errors import InputError

SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".jxl", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
"""Endings of files that are meant to be pictures; some of them Pillow may not know, and these count as unreadable."""
FEW = 20
"""With fewer pictures than this a model mostly learns them by heart; worth a word, never a refusal."""


@dataclass(frozen=True)
class PictureFile:
    """One file: its path relative to the folder (with /), size in bytes and time of its last change in nanoseconds."""

    name: str
    size: int
    changed: int

    @property
    def label(self) -> str | None:
        """The first subfolder, None for a file at the top; bytes of it that are no UTF-8 as \\udc80 to \\udcff."""
        first, slash, _ = self.name.partition("/")
        return first.encode("utf-8", "backslashreplace").decode() if slash else None


@dataclass
class FolderReport:
    """What reading a folder found."""

    pictures: int = 0
    """Pictures read."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Name and reason for each file that looked like a picture and was none that can be read."""
    other: int = 0
    """Files that are no pictures by their ending; not looked at."""
    labels: dict[str, int] = field(default_factory=dict)
    """Pictures of each label; empty if the folder has none."""

    def sentences(self, *, most: int = 5) -> list[str]:
        """What a person should know, a line each; at most `most` unreadable files are named."""
        told = [
            f"{count(self.pictures, 'picture')}" + (f" with {count(len(self.labels), 'label')}" if self.labels else "")
        ]
        if self.unreadable:
            told.append(f"{count(len(self.unreadable), 'file')} could not be read and left out:")
            # A name may hold line ends, or what a terminal takes for a command.
            told += [
                f"  {name if name.isprintable() else ascii(name)}: {reason}" for name, reason in self.unreadable[:most]
            ]
            if len(self.unreadable) > most:
                told.append(f"  ... and {len(self.unreadable) - most:,} more")
        if self.other:
            told.append(f"{count(self.other, 'other file')} passed over")
        if self.pictures < FEW:
            told.append(f"With {count(self.pictures, 'picture')} a model learns little more than to repeat them.")
        return told


def find_pictures(folder: str | Path, *, but: str | Path | None = None) -> tuple[list[PictureFile], int]:
    """The files of the folder and its subfolders that are pictures by their ending, and the number of all others.

    Hidden files and folders are passed over, and the folder `but`; links are followed, each folder once. Raises
    InputError if there is no such folder, nothing in it has the ending of a picture, or a folder may not be read.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{str(folder)!r} {what}: give a folder with pictures, its subfolders are taken as labels.")
    found: list[PictureFile] = []
    other = 0
    for path in _files(root, but):
        if path.suffix.lower() not in SUFFIXES:
            other += 1
            continue
        try:
            facts = path.stat()
            size, changed = facts.st_size, facts.st_mtime_ns
        except OSError:  # a broken link; it is named when it is read
            size, changed = -1, -1
        found.append(PictureFile(path.relative_to(root).as_posix(), size, changed))
    if not found:
        raise InputError(
            f"No pictures in {str(folder)!r}"
            + (f", only {count(other, 'other file')}" if other else "; it is empty")
            + ". Pictures are found by their ending, such as .png, .jpg or .webp, also in subfolders."
        )
    return sorted(found, key=lambda file: file.name), other


def label_names(files: Sequence[PictureFile]) -> list[str]:
    """The labels in alphabetical order; none if a picture lies at the top."""
    labels = {file.label for file in files}
    return [] if None in labels else sorted(label for label in labels if label is not None)


def report_of(
    files: Sequence[PictureFile], *, unreadable: Sequence[tuple[str, str]], other: int, labels: Sequence[str]
) -> FolderReport:
    """The report on the files that were read, those that were not, and the rest."""
    counts = Counter(file.label for file in files)
    return FolderReport(len(files), list(unreadable), other, {name: counts[name] for name in labels})


def _files(root: Path, but: str | Path | None) -> Iterator[Path]:
    seen = set() if but is None else {os.path.realpath(but)}  # links may lead in circles
    for folder, inner, names in os.walk(root, onerror=_refuse, followlinks=True):
        real = os.path.realpath(folder)
        inner[:] = [] if real in seen else sorted(name for name in inner if not name.startswith("."))
        if real in seen:
            continue
        seen.add(real)
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def _refuse(error: OSError) -> None:
    """Pictures that are not seen would be missing in silence, and their label with them."""
    raise InputError(
        f"The folder {error.filename!r} cannot be read: {error.strerror}. Allow reading it, or move it elsewhere."
    ) from error
