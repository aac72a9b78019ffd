"""Characters to ids and back without any loss: case, spaces and line ends stay; rare characters are spelt in bytes.

Post: 9554 (its language models read characters)

Notation
    n    ids of a text, int32 [n]
    ids  0 padding, 1 the start of a document, 2 .. 257 the 256 bytes, from 258 on single characters, line end first

A text that was decoded from bytes with errors="surrogateescape" keeps its odd bytes; other lone surrogates are spelt as
UTF-8 would spell them if it could, and come back as U+FFFD.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from tianwen.errors import InputError, ModelError
from tianwen.training.atomic import write_file

PAD, START, FIRST_BYTE, LINE_END = 0, 1, 2, 258
FIXED = LINE_END  # ids that are no characters
UNICODE = 0x110000
_FORMAT = "tianwen-characters"
_ESCAPED = (0xDC80, 0xDCFF)  # surrogateescape: a byte that is not UTF-8


class Characters:
    """A vocabulary of single characters. Immutable."""

    def __init__(self, characters: Sequence[str]) -> None:
        """Character i of the list has id 258 + i. Raises InputError if one is twice there or is no character."""
        self.characters = list(characters)
        if self.characters[:1] != ["\n"] or any(len(c) != 1 or _surrogate(ord(c)) for c in self.characters):
            raise InputError("A list of characters begins with the line end and holds single characters only.")
        if len(set(self.characters)) != len(self.characters):
            raise InputError("A character stands twice in the list; each may stand once.")
        self.size = FIXED + len(self.characters)
        self.fingerprint = sha256("".join(self.characters).encode()).hexdigest()[:16]
        self._id_of = np.full(UNICODE, -1, np.int32)  # [codepoint] -> id
        self._id_of[[ord(c) for c in self.characters]] = np.arange(FIXED, self.size, dtype=np.int32)

    def __repr__(self) -> str:
        return f"Characters(size={self.size}, fingerprint={self.fingerprint!r})"

    @classmethod
    def count(cls, texts: Iterable[str], *, size: int = 6000) -> Characters:
        """The most frequent characters of `texts`, so that there are at most `size` ids; ties in Unicode's order."""
        if isinstance(texts, str):
            raise InputError("One string was given where several texts are wanted; put it in a list: [text].")
        if size <= FIXED:
            raise InputError(f"size is {size}; the fixed ids and the line end alone are {FIXED + 1}. Ask for more.")
        seen = np.zeros(UNICODE, np.int64)
        for block in (block for text in texts for block in blocks(text)):
            counts = np.bincount(_codepoints(block))
            seen[: len(counts)] += counts
        seen[0xD800:0xE000] = 0
        seen[ord("\n")] = np.iinfo(np.int64).max
        found = np.flatnonzero(seen)
        kept = found[np.argsort(-seen[found], kind="stable")][: size - FIXED]
        return cls([chr(int(codepoint)) for codepoint in kept])

    def ids(self, text: str) -> Int32[np.ndarray, " n"]:
        """The ids of `text`; what has none is spelt in the bytes of its UTF-8."""
        codepoints = _codepoints(text)
        ids = self._id_of[codepoints]
        unknown = np.flatnonzero(ids < 0)
        if not len(unknown):
            return ids
        lengths = np.ones(len(ids), np.int64)
        lengths[unknown] = _byte_lengths(codepoints[unknown])
        out = np.repeat(ids, lengths)
        out[out < 0] = np.frombuffer(_spell(codepoints[unknown]), np.uint8).astype(np.int32) + FIRST_BYTE
        return out

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of `ids`; padding and starts of documents are left out, broken byte sequences become U+FFFD."""
        decoder = self.decoder()
        return "".join(decoder.push(int(i)) for i in ids) + decoder.end()

    def decoder(self) -> Decoder:
        """For ids that come one by one."""
        return Decoder(self.characters)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON, in one step."""
        content = {
            "format": _FORMAT,
            "version": 1,
            "fingerprint": self.fingerprint,
            "characters": "".join(self.characters),
        }
        write_file(Path(path), json.dumps(content).encode())

    @classmethod
    def load(cls, path: str | Path) -> Characters:
        """Read what `save` wrote. Raises ModelError when the file is missing, damaged or of another kind."""
        try:
            content: Any = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror}. Copy the files of the model again.") from None
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path} is damaged: not JSON ({error}). Copy the file again.") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ModelError(f"{path} is no list of characters. Give the file that Characters.save wrote.")
        if content.get("version") != 1:
            raise ModelError(f"{path} has format version {content.get('version')!r}; this Tianwen reads 1.")
        characters = content.get("characters")
        if not isinstance(characters, str) or sha256(_plain(characters)).hexdigest()[:16] != content["fingerprint"]:
            raise ModelError(f"{path} is damaged: its characters do not match their checksum. Copy the file again.")
        return cls(list(characters))


def blocks(text: str, *, size: int = 1 << 20) -> Iterator[str]:
    """The text in parts, so that arrays beside it stay small."""
    return (text[start : start + size] for start in range(0, len(text), size))


class Decoder:
    """Text out of ids that come one by one; a character spelt in bytes appears with its last byte."""

    def __init__(self, characters: Sequence[str]) -> None:
        self._characters = characters
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, i: int) -> str:
        """The characters that became certain with id `i`."""
        if FIRST_BYTE <= i < LINE_END:
            return self._bytes.decode(bytes([i - FIRST_BYTE]))
        known = self.end()
        if not 0 <= i < FIXED + len(self._characters):
            raise InputError(f"id {i} is not in the vocabulary; ids go from 0 to {FIXED + len(self._characters) - 1}.")
        return known + (self._characters[i - FIXED] if i >= FIXED else "")

    def end(self) -> str:
        """What the bytes of an unfinished character are shown as: nothing, or U+FFFD."""
        known = self._bytes.decode(b"", final=True)
        self._bytes.reset()
        return known


def _codepoints(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _byte_lengths(codepoints: np.ndarray) -> np.ndarray:
    lengths = 1 + (codepoints >= 0x80).astype(np.int64) + (codepoints >= 0x800) + (codepoints >= 0x10000)
    lengths[(codepoints >= _ESCAPED[0]) & (codepoints <= _ESCAPED[1])] = 1
    return lengths


def _spell(codepoints: np.ndarray) -> bytes:
    """UTF-8; an escaped byte as that byte, any other lone surrogate in three bytes."""
    parts = "".join(map(chr, codepoints.tolist()))
    try:
        return parts.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return b"".join(
            c.encode("utf-8", "surrogateescape" if _ESCAPED[0] <= ord(c) <= _ESCAPED[1] else "surrogatepass")
            for c in parts
        )


def _surrogate(codepoint: int) -> bool:
    return 0xD800 <= codepoint < 0xE000


def _plain(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
