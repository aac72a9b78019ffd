"""Text files of any size to passages, one a line, as a stream.

Post: 8998 (what the encoder learns from).

    .txt, anything      a passage a line                .jsonl, .ndjson     an object with "text" a line, or a string
    .gz, .xz, .bz2 behind either is unpacked on the way

A line with bytes that are not UTF-8, or a JSON line without a text, is left out and counted; a file is never refused
for it, only if it is of another kind (a picture, an archive). HTML's names of characters (`&nbsp;`) are replaced, a
byte order mark and space at the ends are dropped.
"""

from __future__ import annotations

import bz2
import gzip
import html
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tianwen.errors import InputError
from tianwen.not_text import HEAD, refuse_other_kinds

OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
JSON_LINES = {".jsonl", ".ndjson"}


@dataclass
class Counts:
    """What became of the lines of a file, and how many of its bytes (as they lie on the disk) are read."""

    passages: int = 0
    broken: int = 0
    read: int = 0


def read_lines(file: str | Path, counts: Counts) -> Iterator[str]:
    """The passages of a file that are not empty.

    Raises InputError if it is of another kind, or cannot be read or unpacked.
    """
    path = Path(file)
    plain = path.with_suffix("") if path.suffix in OPENERS else path
    as_json = plain.suffix in JSON_LINES
    try:
        with path.open("rb") as raw, _unpacked(raw, path.suffix) as stream:
            refuse_other_kinds(stream.peek(HEAD), str(path))
            for line in stream:
                counts.read = raw.tell()
                text = _text(line, as_json=as_json)
                if text is None:
                    counts.broken += 1
                elif text:
                    counts.passages += 1
                    yield text
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged: {error}. Compress or fetch it again.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


def _unpacked(raw: IO[bytes], suffix: str) -> Any:
    """The stream of the unpacked bytes, for a `with`."""
    return OPENERS[suffix](raw, "rb") if suffix in OPENERS else raw


def _text(line: bytes, *, as_json: bool) -> str | None:
    """The passage, empty for an empty line, None for a broken one."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return None
    text = text.removeprefix("\ufeff").strip()
    if as_json and text:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        value = value.get("text") if isinstance(value, dict) else value
        if not isinstance(value, str):
            return None
        text = value.encode("utf-8", "replace").decode("utf-8")  # JSON may name half a surrogate pair
    return " ".join((html.unescape(text) if "&" in text else text).split())
