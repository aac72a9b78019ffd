"""What to say of bytes that are no UTF-8 text: what they are instead, told from their beginning, and what to do.

    KIND    a file begins as those of other programs do: a picture, a workbook, an archive
    UTF-16  a mark at the beginning, or every other byte is NUL
    OTHER   of the first characters more than MOST_ODD are control characters or no UTF-8 (GB18030, Latin-1)

Single odd bytes are no reason to refuse a text: they are read as lone surrogates.
"""

from __future__ import annotations

import codecs
import re
import shlex

from tianwen.counting import count
from tianwen.errors import InputError

HEAD = 1 << 16
"""Bytes that are looked at."""
MOST_ODD = 0.2
FEWEST = 8
"""Of fewer bytes nothing is said but by their sign."""
STREAMS = ("stdin", "standard input")

_UNPACK, _OFFICE = "unpack it first", "save it as UTF-8 text from the program that made it, a sheet as CSV"
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", ""),
    (b"\xff\xd8\xff", "a JPEG picture", ""),
    (b"GIF87a", "a GIF picture", ""),
    (b"GIF89a", "a GIF picture", ""),
    (b"%PDF-", "a PDF", "take the text out of it first, as pdftotext does"),
    (b"\xd0\xcf\x11\xe0", "an old Office file", _OFFICE),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"\x1f\x8b", "compressed by gzip", _UNPACK),
    (b"\xfd7zXZ\0", "compressed by xz", _UNPACK),
    (b"BZh91AY&SY", "compressed by bzip2", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"SQLite format 3\0", "an SQLite database", "write the table out as CSV"),
    (b"PAR1", "a Parquet table", "write it out as CSV"),
    (b"\x7fELF", "a program", ""),
)
_IN_ZIP = (
    (b"xl/", "an Excel workbook", "save its sheet as CSV in UTF-8"),
    (b"word/", "a Word document", "save it as plain text in UTF-8"),
    (b"ppt/", "a PowerPoint file", "save its text as plain text in UTF-8"),
    (b"mimetypeapplication/", "an office document or a book", "save it as plain text in UTF-8"),
)
_ODD = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f\udc80-\udcff]")
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def refuse_other_kinds(start: bytes, name: str) -> None:
    """Raise InputError, with one sentence, if a file begins as a picture, a workbook, an archive and their like do."""
    if kind := _kind(start):
        what, advice = kind
        raise InputError(f"{name} is {what}; what is read is text in UTF-8{f': {advice}' if advice else ''}.")


def refuse_what_is_no_text(start: bytes, name: str) -> None:
    """Raise InputError, with one sentence, if what begins with these bytes is no text in UTF-8.

    `name` is the file's, or one of `STREAMS`.
    """
    start = start[:HEAD]
    refuse_other_kinds(start, name)
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(start)  # not a character cut off at the end
    odd = len(_ODD.findall(text))
    is_odd = len(start) >= FEWEST and odd > MOST_ODD * len(text)
    file = "IN" if name in STREAMS else shlex.quote(name)
    if encoding := _utf16(start) or (_gb18030(start) if is_odd else None):
        raise InputError(
            f"{name} is in {encoding.upper()}, or so it seems; what is read is UTF-8. "
            f"Convert it: iconv -f {encoding} -t utf-8 {file} > text.txt"
        )
    if is_odd:
        raise InputError(
            f"{name} is no text in UTF-8: {odd:,} of its first {count(len(text), 'character')} are odd bytes or "
            f"control characters. If it is a text, convert it: iconv -f ENCODING -t utf-8 {file} > text.txt"
        )


def _kind(start: bytes) -> tuple[str, str] | None:
    """What the file is, and what to do with it; None for what begins like no other known kind."""
    found = next(((what, advice) for sign, what, advice in _KINDS if start.startswith(sign)), None)
    if found is not None and start.startswith(b"PK"):
        return next(((what, advice) for part, what, advice in _IN_ZIP if part in start), found)
    return found


def _utf16(start: bytes) -> str | None:
    """The name that iconv knows; without a mark it shows in Latin letters, where the other byte of each is NUL."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = start[::2], start[1::2]
    if len(start) < FEWEST:
        return None
    for nul, other, name in ((even, odd, "utf-16be"), (odd, even, "utf-16le")):
        if nul.count(0) > 0.4 * len(nul) and not other.count(0):
            return name
    return None


def _gb18030(start: bytes) -> str | None:
    """The name, if every byte has a meaning in it."""
    try:
        codecs.getincrementaldecoder("gb18030")().decode(start)
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(start) else "gb18030"
