"""Text files to one array of ids in which the beginning of every document is marked, and to batches for training.

Post: 9554 (packed documents: the state of one never reaches the next)

Notation
    N     ids of all files          T  length of a training window          B  windows a batch
    ids   [B, T] what is read       targets [B, T] = the ids one place further on
    reset [B, T] true where a document begins: the state starts from zero there

Line ends of any kind become "\\n", a byte order mark is dropped. Bytes that are not UTF-8 become U+FFFD and are
counted; a file that is full of them is refused, for it is in another encoding.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tianwen.errors import InputError
from tianwen.not_text import refuse_what_is_no_text
from tianwen.training.data_order import FromFunction
from tianwen.training.randomness import seed_from
from tianwen.write.characters import LINE_END, START, Characters, blocks

Documents = Literal["file", "blank", "line"]
"""What one document is: a whole file, what stands between blank lines, or a line."""

OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
MOST_BROKEN = 0.1  # share of bytes that may be no UTF-8
HELD_OUT = 0.05  # share of the text that is not trained on, at its end
BROKEN = re.compile("[\udc80-\udcff]")
LINE_ENDS = re.compile("\r\n?")
BLANK = re.compile(r"\n(?:[^\S\n]*\n)+")


@dataclass(frozen=True)
class Text:
    """Ids for training and ids held out, of one vocabulary; `broken` bytes were no UTF-8."""

    train: np.ndarray
    held_out: np.ndarray
    characters: Characters
    broken: int = 0

    @property
    def digest(self) -> str:
        """A checksum of what is trained on; a run that is resumed must find the same."""
        return sha256(self.train.tobytes() + self.characters.fingerprint.encode()).hexdigest()[:16]


def read_text(file: str | Path) -> tuple[str, int]:
    """The text of a file, compressed or not (`-`: stdin), and how many of its bytes were not UTF-8.

    Raises InputError if it cannot be read, is empty, or is in another encoding.
    """
    content = _bytes(file)
    refuse_what_is_no_text(content, "stdin" if str(file) == "-" else str(file))
    text, broken = BROKEN.subn("\ufffd", content.decode("utf-8", "surrogateescape"))
    if broken > MOST_BROKEN * len(content):
        raise InputError(
            f"{file} is not UTF-8: {broken:,} of its {len(content):,} bytes are something else. Write it anew, "
            f"for example with: iconv -f gb18030 -t utf-8 {file} > text.txt"
        )
    text = LINE_ENDS.sub("\n", text.removeprefix("\ufeff"))
    if not text.strip():
        raise InputError(f"{file} holds no text; there is nothing to learn from it.")
    return text, broken


def read_texts(
    files: Sequence[str | Path],
    *,
    documents: Documents = "file",
    vocabulary: int = 6000,
    held_out: float | int = HELD_OUT,
    shortest: int = 128,
) -> Text:
    """All files as ids. The last `held_out` of them are kept apart, unless that is less than `shortest` ids.

    Raises InputError for files that cannot be used (see `read_text`).
    """
    read = [read_text(file) for file in files]
    if not read:
        raise InputError("There is no file to learn from; give at least one.")
    texts = [_documents_apart(text, documents) for text, _ in read]
    characters = Characters.count(texts, size=vocabulary)
    small = np.uint16 if characters.size <= 1 << 16 else np.int32
    ids = np.concatenate([mark_documents(_ids(text, characters, small), documents) for text in texts])
    kept = int(len(ids) * held_out)
    split = len(ids) - (kept if kept >= shortest else 0)
    return Text(ids[:split], ids[split:], characters, sum(broken for _, broken in read))


def mark_documents(ids: np.ndarray, documents: Documents) -> np.ndarray:
    """The ids of one file with START where a document begins; it takes the place of the line ends between two."""
    ids = np.concatenate([np.array([START], ids.dtype), ids])
    if documents == "file":
        return ids
    ends = ids == LINE_END
    if documents == "blank":  # the second of two line ends
        ends[1:] &= ends[:-1].copy()
        dropped = np.append(ends[1:], False)  # the first of the two
        ids[ends] = START
        return ids[~dropped]
    ids[ends] = START
    return ids[np.append(True, (ids[1:] != START) | (ids[:-1] != START))]  # empty lines are no documents


def in_windows(text: Text, *, length: int, batch: int, seed: int) -> FromFunction:
    """Batches {"ids", "targets"} [B, T] of windows at random places of the text, each with its own."""
    usable = min(length, len(text.train) - 1)
    if usable < 1:
        raise InputError("The text is a single character; there is nothing to predict in it.")

    def make(index: int, rank: int, world: int) -> dict[str, Tensor] | None:
        random = np.random.default_rng(seed_from("windows", seed, index))
        starts = random.integers(0, len(text.train) - usable, batch)[rank::world]
        return windows(text.train, starts, usable) if len(starts) else None

    return FromFunction(make, name=f"text {text.digest}, {batch} windows of {usable}, seed {seed}")


def windows(ids: np.ndarray, starts: np.ndarray, length: int) -> dict[str, Tensor]:
    """The windows of `length` at `starts`, and what comes next at each place; both int64 [B, T]."""
    rows = torch.from_numpy(ids[starts[:, None] + np.arange(length + 1)].astype(np.int64))  # [B, T + 1]
    return {"ids": rows[:, :-1], "targets": rows[:, 1:]}


def _ids(text: str, characters: Characters, kind: type) -> np.ndarray:
    return np.concatenate([characters.ids(block).astype(kind) for block in blocks(text)])


def _documents_apart(text: str, documents: Documents) -> str:
    """The text with its documents exactly one blank line apart, or as it is."""
    return (
        BLANK.sub("\n\n", text).strip("\n")
        if documents == "blank"
        else text.rstrip("\n") + "\n" * (documents == "file")
    )


def _bytes(file: str | Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    path = Path(file)
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as stream:
            return stream.read()
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{file} is damaged: {error}. Compress or fetch it again.") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from None
