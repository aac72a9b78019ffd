"""Texts that a command is given: as they are, in files, in folders, on stdin; whole, or line by line.

Bytes that are not UTF-8 become lone surrogates, which the tokenizer reads and JSON writes as escapes; a byte-order mark
is dropped, line ends stay as they are: places count these characters.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from tianwen.errors import InputError
from tianwen.not_text import refuse_what_is_no_text
from tianwen.terminal import Bytes, batches

Document = tuple[str, str]
"""A text and where it comes from, "" where it was given as it is."""

SUFFIXES = (".txt", ".text", ".md")
_AT_ONCE = 64  # lines


def documents(given: Iterable[str], *, by_lines: bool = False) -> Iterator[Document]:
    """The texts, in the order given; those of a folder by name.

    A word that names a file or folder is read; one that looks like a file's name but is none is refused. Raises
    InputError: no such file, none in the folder, no text (a picture, a workbook, another encoding).
    """
    for words in given:
        if words == "-":
            yield from _of_bytes(sys.stdin.buffer.read(), "stdin", by_lines)
        elif (path := _path(words)) is None:
            yield words, ""
        elif path.is_dir():
            for file in _files_in(path):
                yield from _of_bytes(_read(file), str(file), by_lines)
        else:
            yield from _of_bytes(_read(path), str(path), by_lines)


def lines_of(stream: BufferedReader | Bytes) -> Iterator[list[Document]]:
    """Lines of a stream as texts of their own, in batches of what has arrived."""
    number = 0
    for arrived in batches(stream, _AT_ONCE):
        yield [(line, f"stdin, line {number + at:,}") for at, line in enumerate(arrived, 1)]
        number += len(arrived)


def _path(words: str) -> Path | None:
    """The file or folder of that name; None for what is a text."""
    if not words or len(words) > 4096 or "\0" in words or "\n" in words:  # Path("") is the current folder
        return None
    try:
        if (path := Path(words)).exists():
            return path
    except (OSError, ValueError):  # no name of a file
        return None
    if not any(character.isspace() for character in words) and words.lower().endswith(SUFFIXES):
        raise InputError(f"There is no file {words}. Give a text, a file, a folder, or - for stdin.")
    return None


def _files_in(folder: Path) -> list[Path]:
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES and file.is_file() and not _hidden(file.relative_to(folder))
    ]
    if not found:
        raise InputError(f"The folder {folder} holds no texts; read are files that end in {', '.join(SUFFIXES)}.")
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from None


def _of_bytes(content: bytes, name: str, by_lines: bool) -> Iterator[Document]:
    refuse_what_is_no_text(content, name)
    text = content.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    if not by_lines:
        yield text, name
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line or number == 1:
            yield line.removesuffix("\r"), f"{name}, line {number:,}"
