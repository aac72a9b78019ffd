"""Text to piece ids and back: characters for Han, WordPiece for the rest, bytes for what the vocabulary lacks.

Notation: n = pieces of one text, m = pieces of a batch.
    ids      int32 [n]       one id a piece
    offsets  int32 [n, 2]    start and end, in characters of the text as given
    row_ptr  int64 [rows+1]  pieces of text i of a batch are tokens[row_ptr[i] : row_ptr[i + 1]]

Steps: (1) NFKC, lower case, NFKC again (lower case can undo it); (2) whitespace separates and is dropped; Han, kana,
punctuation, symbols, digits and control or format characters are pieces by themselves, runs of other letters are words;
(3) a word is cut greedily into the longest known pieces; (4) what the vocabulary lacks is spelt in its UTF-8 bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Int32, Int64

from tianwen.codepoints import Codepoints
from tianwen.cutting import Cutter, Style
from tianwen.errors import InputError, ModelError
from tianwen.vocabulary import (
    BYTE_PIECES,
    CONTINUES,
    FIRST_BYTE_ID,
    SPECIAL_PIECES,
    check_vocabulary,
    count_out_vocabulary,
)

_FORMAT = "tianwen-tokenizer"
_FORMAT_VERSION = 1
_SHORT = 64  # characters; up to here a dictionary is faster than arrays
_TRAINED_AT_ONCE = 4096  # texts
_ONE_STRING = "One string was given where several texts are wanted; put it in a list: [text]."
_ONE_CHARACTER = np.array([0, 1], np.int32)


@dataclass(frozen=True, slots=True)
class Encoding:
    """Pieces of one text: `ids` int32 [n] and `offsets` int32 [n, 2] into the text as given."""

    ids: Int32[np.ndarray, " pieces"]
    offsets: Int32[np.ndarray, " pieces 2"]

    def __len__(self) -> int:
        return len(self.ids)


class Tokenizer:
    """A vocabulary and the way to cut text with it. Immutable; safe to share, pickle and fork."""

    def __init__(self, vocabulary: Sequence[str], *, style: Style = "tianwen") -> None:
        """Use `vocabulary` (piece i has id i), laid out as `tianwen.vocabulary` says."""
        self.pieces = list(vocabulary)
        self.style: Style = style
        if style == "tianwen":
            check_vocabulary(self.pieces)
        self._id_of = {piece: i for i, piece in enumerate(self.pieces)}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (self._special(p) for p in SPECIAL_PIECES)
        self.fingerprint = _fingerprint(self.pieces, style)
        self._cutter = Cutter(self._id_of, style)
        self._codepoints = Codepoints(self._cutter)

    @property
    def size(self) -> int:
        """How many pieces there are."""
        return len(self.pieces)

    def __repr__(self) -> str:
        return f"Tokenizer(size={self.size}, style={self.style!r}, fingerprint={self.fingerprint!r})"

    def __reduce__(self):
        return _restored, (self.pieces, self.style)

    # Making, saving and loading

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int = 12000, min_count: int = 2) -> Tokenizer:
        """Count a vocabulary of at most `size` pieces out of `texts`; what is rarer than `min_count` gets no piece."""
        if isinstance(texts, str):
            raise InputError(_ONE_STRING)
        bare = cls([*SPECIAL_PIECES, *BYTE_PIECES])
        characters: Counter[str] = Counter()
        words: Counter[str] = Counter()
        for unit, count in bare._census(texts).items():
            for word in bare._cutter.words(unit):
                (words if bare._cutter.is_word(word[0]) else characters)[word] += count
        return cls(count_out_vocabulary(characters, words, size=size, min_count=min_count))

    def _census(self, texts: Iterable[str]) -> Counter[str]:
        seen: Counter[str] = Counter()
        rest = iter(texts)
        while batch := list(islice(rest, _TRAINED_AT_ONCE)):
            seen.update(self._codepoints.census(batch))
        return seen

    @classmethod
    def from_vocab_txt(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read a published BERT or RoFormer vocabulary, one piece a line; texts are then cut as BERT cuts them.

        There are no byte pieces in such a file: what it lacks becomes [UNK].
        """
        lines = _read(path).split("\n")
        if lines and not lines[-1]:
            lines.pop()
        return cls([line.strip(" \t\r") for line in lines], style="bert")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer as JSON, atomically: a reader sees the old file or the new one, never half of one."""
        content = {
            "format": _FORMAT,
            "version": _FORMAT_VERSION,
            "style": self.style,
            "fingerprint": self.fingerprint,
            "vocabulary": self.pieces,
        }
        target = Path(path)
        beside = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            with open(beside, "w", encoding="ascii") as file:
                json.dump(content, file, indent=0)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read what `save` wrote. Raises ModelError when the file is missing, damaged or of a later format."""
        try:
            content = json.loads(_read(path))
        except (ValueError, RecursionError) as error:
            raise ModelError(
                f"{path} is damaged: not JSON ({error}). Copy the file again or train a new one."
            ) from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ModelError(f"{path} is not a tokenizer of Tianwen. Give the file that Tokenizer.save wrote.")
        if content.get("version") != _FORMAT_VERSION:
            raise ModelError(
                f"{path} has format version {content.get('version')!r}; this Tianwen reads {_FORMAT_VERSION}. "
                "Use the version of Tianwen that wrote it, or train the tokenizer again."
            )
        pieces: Any = content.get("vocabulary")
        style: Any = content.get("style")
        sound = isinstance(pieces, list) and all(isinstance(p, str) for p in pieces) and style in get_args(Style)
        if not sound or _fingerprint(pieces, style) != content.get("fingerprint"):
            raise ModelError(f"{path} is damaged: its pieces do not match its checksum. Copy the file again.")
        return cls(pieces, style=style)

    # Text to ids

    def encode(self, text: str) -> Encoding:
        """Ids of `text` with the place of each piece in it."""
        if len(text) <= _SHORT:
            ids = self._codepoints.short_ids(text)
            if ids is None:
                return self.slow_encode(text)
            return Encoding(ids, np.arange(len(ids), dtype=np.int32)[:, None] + _ONE_CHARACTER)
        fast = self._codepoints.encode(text)
        return Encoding(*fast) if fast else self.slow_encode(text)

    def ids(self, text: str) -> Int32[np.ndarray, " pieces"]:
        """Ids of `text`: int32 [n]."""
        if len(text) <= _SHORT:
            ids = self._codepoints.short_ids(text)
            return self.slow_encode(text).ids if ids is None else ids
        return self._codepoints.ids_batch([text])[1]

    def ids_batch(self, texts: Iterable[str]) -> tuple[Int64[np.ndarray, " rows+1"], Int32[np.ndarray, " pieces"]]:
        """Ids of many texts: row_ptr int64 [rows + 1] and tokens int32 [m]."""
        return self._codepoints.ids_batch(_several(texts))

    def slow_encode(self, text: str) -> Encoding:
        """What `encode` returns, always by the slow path: the truth that the fast path is checked against."""
        ids, places = self._cutter.encode(text)
        return Encoding(np.array(ids, np.int32), np.array(places, np.int32).reshape(-1, 2))

    def canonical(self, text: str) -> str:
        """The text that `ids` stand for: two texts have equal ids exactly when their canonical texts are equal.

        Normalised, without whitespace but for one space between two words. In style "bert" this holds for texts
        without unknown words only: those are all [UNK].
        """
        return self._cutter.canonical(text)

    # Ids to text

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Readable text of `ids`: special pieces are left out, a space stands only between two words."""
        parts: list[str] = []
        spelt = bytearray()  # bytes not yet read
        for i in map(int, ids):
            if not 0 <= i < self.size:
                raise InputError(f"id {i} is not in the vocabulary; ids go from 0 to {self.size - 1}.")
            if self.style == "tianwen" and FIRST_BYTE_ID <= i < FIRST_BYTE_ID + 256:
                spelt.append(i - FIRST_BYTE_ID)
                continue
            self._append(parts, _read_bytes(spelt))
            spelt.clear()
            piece = self.pieces[i]
            if piece.startswith(CONTINUES) and len(piece) > len(CONTINUES):
                parts.append(piece[len(CONTINUES) :])
            elif i == self.unk_id or piece not in SPECIAL_PIECES:
                self._append(parts, "\ufffd" if i == self.unk_id else piece)
        self._append(parts, _read_bytes(spelt))
        return "".join(parts)

    def _append(self, parts: list[str], piece: str) -> None:
        if parts and self._cutter.join(parts[-1], piece):
            parts.append(" ")
        if piece:
            parts.append(piece)

    def _special(self, piece: str) -> int:
        if piece not in self._id_of:
            raise InputError(f"The vocabulary has no {piece}; it needs {' '.join(SPECIAL_PIECES)}.")
        return self._id_of[piece]


def _restored(pieces: list[str], style: Style) -> Tokenizer:
    return Tokenizer(pieces, style=style)


def _several(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise InputError(_ONE_STRING)
    return texts if isinstance(texts, list) else list(texts)


def _fingerprint(pieces: Sequence[str], style: str) -> str:
    content = json.dumps([_FORMAT, _FORMAT_VERSION, style, list(pieces)])
    return hashlib.sha256(content.encode("ascii")).hexdigest()[:16]


def _read(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ModelError(f"There is no tokenizer file at {path}. Give the file that Tokenizer.save wrote.") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}. Check the path and its permissions.") from None
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is damaged: not UTF-8 text ({error}). Copy the file again.") from None


def _read_bytes(pending: bytearray) -> str:
    try:
        return pending.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # a model wrote half a character
        return pending.decode("utf-8", "replace")
