"""Blocks of text lines with their numbers, from a file that may be compressed, huge or broken.

Post: 8802
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl

from tianwen.ask.fact_report import Report
from tianwen.errors import InputError
from tianwen.not_text import refuse_what_is_no_text

BLOCK_BYTES = 16 * 2**20
LINE_LIMIT = 64 * 2**20
STDIN = "-"
COMPRESSED = {".gz": "gzip", ".xz": "xz", ".bz2": "bzip2"}
"""Ends of a file's name, and what it says of the file; which of the three it is, its first bytes tell."""


class FactStream:
    """One opened input: its name for messages, its bytes without compression, its first bytes for a look.

    Raises InputError when the file is missing, a folder, not readable, or named as compressed and is not.
    """

    def __init__(self, source: str | Path) -> None:
        self.is_stdin = str(source) == STDIN
        self.name = "standard input" if self.is_stdin else str(source)
        raw = sys.stdin.buffer if self.is_stdin else _open_file(Path(source))
        plain = raw if isinstance(raw, io.BufferedReader) else cast(BinaryIO, io.BufferedReader(raw))  # pyright: ignore
        self.compressed = True
        head = plain.peek(8)[:8]  # pyright: ignore[reportAttributeAccessIssue]
        self._raw = plain
        if head.startswith(b"\x1f\x8b"):
            self._bytes: BinaryIO = cast(BinaryIO, gzip.GzipFile(fileobj=plain))
        elif head.startswith(b"\xfd7zXZ\0"):
            self._bytes = cast(BinaryIO, lzma.LZMAFile(plain))  # noqa: SIM115
        elif head.startswith(b"BZh"):
            self._bytes = cast(BinaryIO, bz2.BZ2File(plain))
        else:
            self._bytes, self.compressed = plain, False
            self._refuse_a_wrong_name(Path(source).suffix)
        self._head = b""

    def _refuse_a_wrong_name(self, suffix: str) -> None:
        kind = None if self.is_stdin else COMPRESSED.get(suffix.lower())
        if kind is not None:
            self.close()
            raise InputError(
                f"{self.name} is named {suffix} and is not {kind}. Fetch it again if it is damaged, or take the "
                f"{suffix} off its name if it is not compressed."
            )

    def peek(self, size: int = 65_536) -> bytes:
        """The first bytes, which `read` returns again."""
        while len(self._head) < size and (more := self._read(size - len(self._head))):
            self._head += more
        return self._head[:size]

    def read(self, size: int) -> bytes:
        """The next bytes, b"" at the end."""
        if self._head:
            head, self._head = self._head[:size], self._head[size:]
            return head if len(head) == size else head + self._read(size - len(head))
        return self._read(size)

    def read_all(self) -> bytes:
        """Everything that is left."""
        return b"".join(iter(lambda: self.read(BLOCK_BYTES), b""))

    def _read(self, size: int) -> bytes:
        try:
            return self._bytes.read(size)
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise InputError(
                f"{self.name} is compressed and damaged ({error}). Fetch or compress the file again."
            ) from error
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {error.strerror or error}.") from error

    def position(self) -> int:
        """Bytes of the file consumed so far, compressed ones where it is compressed; 0 for a pipe."""
        try:
            return self._raw.tell()
        except OSError:
            return 0

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self._bytes is not self._raw:
            self._bytes.close()
        if not self.is_stdin:
            self._raw.close()

    def __enter__(self) -> FactStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def line_blocks(stream: FactStream, report: Report) -> Iterator[tuple[int, pl.Series]]:
    """Yield (number of the first line, lines) in blocks of about 16 MB; a line that is not UTF-8 is null and reported.

    Line ends are LF or CRLF; a byte-order mark is dropped. Memory stays at a few blocks whatever the file's size
    (`report.block_bytes` can make them smaller); a line beyond 64 MB is skipped without being held.
    """
    refuse_what_is_no_text(stream.peek(), stream.name)
    size = min(BLOCK_BYTES, report.block_bytes or BLOCK_BYTES)
    number, pending, skipping, first = 1, b"", False, True
    while True:
        chunk = stream.read(size)
        if first and chunk.startswith(b"\xef\xbb\xbf"):
            chunk = chunk[3:] or stream.read(size)
        first = False
        last = not chunk
        report.bytes_done = max(report.bytes_done, stream.position())
        data = pending + chunk
        if skipping:
            end = data.find(b"\n")
            if end < 0 and not last:
                pending = b""
                continue
            data, skipping, number = (data[end + 1 :] if end >= 0 else b""), False, number + 1
        cut = len(data) if last else data.rfind(b"\n") + 1
        block, pending = data[:cut], data[cut:]
        if len(pending) > LINE_LIMIT:
            skipped_line = number + block.count(b"\n")
            report.skip(stream.name, skipped_line, f"the line is longer than {LINE_LIMIT:,} bytes")
            pending, skipping = b"", True
        if block:
            lines = _decoded(block, number, stream.name, report)
            yield number, lines
            number += block.count(b"\n")
        if last:
            return


def _decoded(block: bytes, number: int, name: str, report: Report) -> pl.Series:
    block = block[:-1] if block.endswith(b"\n") else block
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError:
        lines = _decoded_one_by_one(block, number, name, report)
    else:
        lines = pl.Series("text", [text], dtype=pl.String).str.split("\n").explode()
    return lines.str.strip_suffix("\r").alias("text")


def _decoded_one_by_one(block: bytes, number: int, name: str, report: Report) -> pl.Series:
    lines: list[str | None] = []
    for offset, line in enumerate(block.split(b"\n")):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            lines.append(None)
            reason = f"not UTF-8 at byte {error.start + 1:,} of the line"
            report.skip(name, number + offset, reason, kind="not UTF-8")
    return pl.Series("text", lines, dtype=pl.String)


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}. Give a file of facts, or - for standard input.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder; facts are read from files. Name the files in it.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
