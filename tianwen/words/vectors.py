"""Read word vectors that others trained: the text and the binary format of word2vec, plain or compressed.

    text    a header line "n d" (fastText and word2vec write it, GloVe does not), then: word x_1 ... x_d
    binary  the header line, then: word, a space, d little-endian floats, with or without a line feed

Source: Mikolov et al., Efficient Estimation of Word Representations in Vector Space, 2013. Words come most frequent
first; only the first ones are kept. Notation: n words, d numbers each.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32

from tianwen.errors import InputError

MOST = 60_000
LONGEST = 6
"""Han characters of a word, and of Latin ones four times as many: what is longer is a name, hardly a word."""

_OPENERS = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_LONGEST_LINE = 1 << 20


def read_word_vectors(path: str | Path, *, most: int = MOST) -> tuple[list[str], Float32[np.ndarray, "words dim"]]:
    """The first `most` words of the file that can be looked up in a text, normalised, and their vectors of length 1.

    Words that become equal (Cat, cat) keep the vector of the first. Raises InputError, naming the file, where it is
    missing, cut off or of no known format, or holds values that are not finite.
    """
    path = Path(path)
    words: dict[str, np.ndarray] = {}
    try:
        with _OPENERS.get(path.suffix, open)(path, "rb") as file:
            for raw, vector in _records(path, file):
                word = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", raw).lower())
                if _is_word(word) and word not in words and np.any(vector):
                    words[word] = vector
                if len(words) == most:
                    break
    except FileNotFoundError as error:
        raise InputError(f"There is no file of word vectors {str(path)!r}.") from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InputError(f"The word vectors in {str(path)!r} cannot be read: {error}.") from error
    if not words:
        raise InputError(f"{str(path)!r} holds no word vectors: lines of a word and its numbers are wanted.")
    table = np.stack(list(words.values())).astype(np.float32)  # [n, d]
    if not np.isfinite(table).all():
        raise InputError(f"Some word vectors in {str(path)!r} are not finite numbers. Fetch or train them again.")
    length = np.linalg.norm(table.astype(np.float64), axis=1, keepdims=True)  # squares may be too small for fp32
    return list(words), (table / length).astype(np.float32)


def principal_components(table: Float32[np.ndarray, "words dim"], width: int) -> Float32[np.ndarray, "words width"]:
    """The `width` directions in which the vectors differ most, of length 1 again: what they keep of each cosine."""
    if not 1 <= width <= table.shape[1]:
        raise InputError(f"width={width}: vectors of {table.shape[1]} numbers can keep 1 to {table.shape[1]} of them.")
    _, directions = np.linalg.eigh(table.T.astype(np.float64) @ table)  # by rising share
    kept = (table @ directions[:, ::-1][:, :width]).astype(np.float32)
    return kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-9)


def _is_word(word: str) -> bool:
    if not word or not all(c.isalnum() for c in word):
        return False
    return len(word) <= (4 * LONGEST if word.isascii() else LONGEST)


def _records(path: Path, file: BinaryIO) -> Iterator[tuple[str, np.ndarray]]:
    first = file.readline(_LONGEST_LINE)
    header = first.split()
    if len(header) == 2 and all(part.isdigit() for part in header):
        count, width = int(header[0]), int(header[1])
        if not count or not 0 < width <= 10_000:
            raise InputError(f"{str(path)!r} says that it holds {count} vectors of {width} numbers: that cannot be.")
        start = file.read(4096)
        lines = _from(start, file)
        return _binary(path, lines, count, width) if _looks_binary(start) else _text(path, lines, width, 2)
    if len(header) < 3:
        raise InputError(f"{str(path)!r} holds no word vectors: a header 'n d', or lines of a word and its numbers.")
    return _text(path, _from(first, file), len(header) - 1, 1)


class _from:
    """A file with some bytes put back before it."""

    def __init__(self, start: bytes, file: BinaryIO) -> None:
        self.held, self.file = start, file

    def fill(self, size: int) -> bool:
        """Hold at least `size` bytes, if there are so many."""
        while len(self.held) < size:
            more = self.file.read(1 << 18)
            if not more:
                return False
            self.held += more
        return True

    def take(self, size: int) -> bytes:
        taken, self.held = self.held[:size], self.held[size:]
        return taken

    def until(self, mark: bytes) -> bytes | None:
        """What stands before `mark`, which is taken too; None at the end of the file."""
        searched = 0
        while (place := self.held.find(mark, searched)) < 0:
            searched = len(self.held)
            if searched > _LONGEST_LINE or not self.fill(searched + 1):
                return None
        taken = self.take(place + len(mark))
        return taken[: -len(mark)]


def _looks_binary(start: bytes) -> bool:
    """Whether what follows the first word is no number in ASCII."""
    _, _, rest = start.partition(b" ")
    try:
        float(rest.split(None, 1)[0])
    except (ValueError, IndexError):
        return True
    return False


def _binary(path: Path, lines: _from, count: int, width: int) -> Iterator[tuple[str, np.ndarray]]:
    for row in range(count):
        word = lines.until(b" ")
        if word is None or not lines.fill(4 * width):
            raise InputError(f"{str(path)!r} ends after {row:,} of {count:,} vectors: it is cut off. Fetch it again.")
        yield word.decode("utf-8", errors="replace").strip(), np.frombuffer(lines.take(4 * width), "<f4")


def _text(path: Path, lines: _from, width: int, number: int) -> Iterator[tuple[str, np.ndarray]]:
    while True:
        line = lines.until(b"\n")
        if line is None:
            line = lines.take(len(lines.held))
            if not line:
                return
        parts = line.decode("utf-8", errors="replace").rstrip().split(" ")
        if len(parts) != width + 1:
            found = len(parts) - 1
            raise InputError(f"Line {number:,} of {str(path)!r} has {found} numbers after the word, not {width}.")
        try:
            yield parts[0], np.array(parts[1:], np.float32)
        except ValueError as error:
            raise InputError(f"Line {number:,} of {str(path)!r} is no word vector: {error}.") from error
        number += 1
