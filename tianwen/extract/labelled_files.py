"""Records of a labelled file with their line numbers: JSON lines or one JSON array, plain or compressed, or stdin.

Post: 8888

JSON lines are read line by line, an array element by element: memory stays at one record and one block, whatever the
size of the file. A broken line is reported and left out; a broken array cannot be read past its break.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

from tianwen.errors import InputError
from tianwen.extract.reading_report import Report
from tianwen.not_text import HEAD, refuse_what_is_no_text

STDIN = "-"
LINE_LIMIT = 64 * 2**20  # bytes
BLOCK = 2**20  # bytes
_BOM = b"\xef\xbb\xbf"
_NEAR = 16  # characters; an error so near to the end of a block may only be the end of the block

Record = dict[str, Any]


@contextmanager
def opened(source: str | Path) -> Iterator[tuple[str, BinaryIO]]:
    """The name of a source for messages, and its bytes, uncompressed. Raises InputError when it cannot be read."""
    name = "standard input" if str(source) == STDIN else str(source)
    with nullcontext(_standard_input()) if str(source) == STDIN else _open_file(Path(source)) as raw:
        try:
            stream = _uncompressed(raw)
            refuse_what_is_no_text(stream.peek(HEAD), name)
            yield name, cast(BinaryIO, stream)
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{name} is compressed and damaged ({error}); fetch or compress it again.") from error
        except OSError as error:
            raise InputError(f"{name} cannot be read: {error.strerror or error}.") from error


def records(stream: BinaryIO, name: str, report: Report) -> Iterator[tuple[str, Record]]:
    """Yield (place, record) for every JSON object of a file, the place as in "line 7"; report what is none.

    Raises InputError when the file is empty.
    """
    start, number = _first_line(stream, name)
    if start.lstrip().startswith(b"[") or start.strip() == b"{":
        yield from _elements(stream, start, number, name, report)
    else:
        yield from _lines(stream, start, number, name, report)


def _standard_input() -> io.BufferedReader:
    stream = sys.stdin.buffer
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, stream))


def _open_file(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"There is no file {path}. Give a file of labelled texts, or - for standard input.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; only brat's format is read from a folder (of .ann and .txt).") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


def _uncompressed(raw: io.BufferedReader) -> io.BufferedReader | gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File:
    head = raw.peek(8)[:8]
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(raw)
    return bz2.BZ2File(raw) if head.startswith(b"BZh") else raw


def _first_line(stream: BinaryIO, name: str) -> tuple[bytes, int]:
    """The first line that is not blank, without a byte-order mark, and its number."""
    number = 0
    while line := stream.readline(LINE_LIMIT):
        number += 1
        line = line.removeprefix(_BOM) if number == 1 else line
        if line.strip():
            return line, number
    raise InputError(f"{name} is empty; give a file with at least one labelled text.")


def _lines(stream: BinaryIO, line: bytes, number: int, name: str, report: Report) -> Iterator[tuple[str, Record]]:
    while line:
        where = f"{name}, line {number:,}"
        if len(line) >= LINE_LIMIT and not line.endswith(b"\n"):
            report.skipped += 1
            report.add("broken-line", where, f"the line is longer than {LINE_LIMIT:,} bytes")
            while line and not line.endswith(b"\n"):
                line = stream.readline(LINE_LIMIT)
        elif line.strip() and (record := _record(line, where, report)) is not None:
            yield f"line {number:,}", record
        line, number = stream.readline(LINE_LIMIT), number + 1


def _record(line: bytes, where: str, report: Report) -> Record | None:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        report.skipped += 1
        report.add("not-utf8", where, f"byte {error.start + 1:,} of the line")
        return None
    except (ValueError, RecursionError) as error:
        report.skipped += 1
        report.add("broken-line", where, "nested too deeply" if isinstance(error, RecursionError) else error)
        return None
    return _checked(value, where, report)


def _checked(value: object, where: str, report: Report) -> Record | None:
    if isinstance(value, dict):
        return cast(Record, value)
    report.skipped += 1
    report.add("broken-line", where, f"{type(value).__name__} instead of an object")
    return None


def _elements(stream: BinaryIO, start: bytes, number: int, name: str, report: Report) -> Iterator[tuple[str, Record]]:
    """The objects of an array, or objects written over several lines one after another."""
    # A broken byte becomes half a surrogate pair, which whoever reads the record finds and reports.
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    text, place, last = decode(start), 0, False
    count = 1  # an array often is one line: then only the count tells where
    decoder = json.JSONDecoder()
    while True:
        place, number = _skip(text, place, number)
        if place < len(text):
            try:
                value, end = decoder.raw_decode(text, place)
            except (ValueError, RecursionError) as error:
                if last or not _may_go_on(error, len(text)):
                    report.skipped += 1
                    report.add("cut-short", f"{name}, line {number:,}, record {count:,}", _reason(error))
                    return
            else:
                where = f"line {number:,}, record {count:,}"
                if (record := _checked(value, f"{name}, {where}", report)) is not None:
                    yield where, record
                count += 1
                number += text.count("\n", place, end)
                place = end
                continue
        elif last:
            return
        more = stream.read(max(BLOCK, len(text) - place))  # doubles while one element goes on
        last = not more
        text, place = text[place:] + decode(more, last), 0


def _skip(text: str, place: int, number: int) -> tuple[int, int]:
    while place < len(text) and text[place] in "[,] \t\r\n":
        number += text[place] == "\n"
        place += 1
    return place, number


def _may_go_on(error: Exception, length: int) -> bool:
    """Whether more text could make sense of what could not be read."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= length - _NEAR


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
