"""`catalogue.seal`: one line that says which commit was acknowledged last, and the database file's checksum then.

Post: 8802
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from tianwen.ask.durable import damaged

SEAL = "catalogue.seal"
_SEAL = re.compile(rb"tianwen seal 1 commit (\d+) bytes (\d+) crc32 ([0-9a-f]{8}|-) check ([0-9a-f]{8})\n")


def seal_line(number: int, size: int, crc: str) -> bytes:
    """The whole content of the file; `crc` is "-" while the database file and its log are two."""
    line = f"tianwen seal 1 commit {number} bytes {size} crc32 {crc}"
    return f"{line} check {zlib.crc32(line.encode()):08x}\n".encode()


def read_seal(folder: Path) -> tuple[int, int, str]:
    """(commit number, size, CRC-32 in hex or "-") of the last acknowledged commit."""
    path = folder / SEAL
    try:
        content = path.read_bytes()
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    match = _SEAL.fullmatch(content)
    if match is None or content != seal_line(int(match[1]), int(match[2]), match[3].decode()):
        raise damaged(path, "it is not a seal")
    return int(match[1]), int(match[2]), match[3].decode()
