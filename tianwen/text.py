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
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Pipeline

from tianwen.errors import InputError, ModelError
from tianwen.vocabulary import (
    BYTE_PIECES,
    CONTINUES,
    FIRST_BYTE_ID,
    SPECIAL_PIECES,
    check_vocabulary,
    count_out_vocabulary,
    normal_counts,
)

Style = Literal["tianwen", "bert"]

_FORMAT = "tianwen-tokenizer"
_FORMAT_VERSION = 1
_LONGEST_WORD = 100  # characters; longer letter runs are spelt in bytes

# Everything that only separates: Unicode white space, the ASCII separators, and the spaces of no width (ZWSP, WJ, BOM).
_SPACES = r"[\s\x{1c}-\x{1f}\x{85}\x{200b}\x{2060}\x{feff}]+"
# One piece each: all but letters and marks, and of the letters those of scripts that write syllables or ideographs.
_SINGLES = (
    r"[^\p{L}\p{M}]|[\x{1100}-\x{11ff}\x{2e80}-\x{a4cf}\x{a960}-\x{a97f}\x{ac00}-\x{d7ff}\x{f900}-\x{faff}"
    r"\x{16fe0}-\x{18d8f}\x{1aff0}-\x{1b2ff}\x{20000}-\x{3ffff}]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Encoding:
    """Pieces of one text: `ids` int32 [n] and `offsets` int32 [n, 2] into the text as given."""

    ids: np.ndarray
    offsets: np.ndarray

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
        self._pipeline = _pipeline(self._id_of, style)
        self._is_word_cache: dict[str, bool] = {}

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
        bare = cls([*SPECIAL_PIECES, *BYTE_PIECES])
        pieces = ((word, bare._is_word(word[0])) for text in texts for word in bare._words(text))
        characters, words = normal_counts(pieces)
        return cls(count_out_vocabulary(characters, words, size=size, min_count=min_count))

    @classmethod
    def from_vocab_txt(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read a published BERT or RoFormer vocabulary, one piece a line; texts are then cut as BERT cuts them.

        There are no byte pieces in such a file: what it lacks becomes [UNK].
        """
        lines = _read(path).split("\n")
        if lines and not lines[-1]:
            lines.pop()
        return cls([line.strip() or line for line in lines], style="bert")

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
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
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
        except ValueError as error:
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
        pieces, style = content.get("vocabulary"), content.get("style")
        sound = isinstance(pieces, list) and all(isinstance(p, str) for p in pieces) and style in ("tianwen", "bert")
        if not sound or _fingerprint(pieces, style) != content.get("fingerprint"):
            raise ModelError(f"{path} is damaged: its pieces do not match its checksum. Copy the file again.")
        return cls(pieces, style=style)

    # Text to ids

    def encode(self, text: str) -> Encoding:
        """Ids of `text` with the place of each piece in it."""
        return self.general_encode(text)

    def ids(self, text: str) -> np.ndarray:
        """Ids of `text`: int32 [n]."""
        return self.general_encode(text).ids

    def ids_batch(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of many texts: row_ptr int64 [rows + 1] and tokens int32 [m]."""
        rows = [self.general_encode(text).ids for text in texts]
        row_ptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=row_ptr[1:])
        tokens = np.concatenate(rows) if rows else np.empty(0, np.int32)
        return row_ptr, tokens.astype(np.int32, copy=False)

    def general_encode(self, text: str) -> Encoding:
        """The slow truth: cut any text with the `tokenizers` library."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, end in _runs_without_surrogates(text):
            part = text[start:end]
            if _SURROGATE.match(part):
                part_ids, part_offsets = self._spelt_in_bytes(part), None
                part_offsets = [(0, 1)] * len(part_ids)
            else:
                part_ids, part_offsets = self._encode_part(part)
            ids += part_ids
            offsets += [(a + start, b + start) for a, b in part_offsets]
        return Encoding(np.array(ids, np.int32), np.array(offsets, np.int32).reshape(-1, 2))

    def _encode_part(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        cut = self._pipeline.encode(text, add_special_tokens=False)
        offsets = _with_composed_marks(text, cut.offsets)
        if self.style == "bert" or self.unk_id not in cut.ids:
            return cut.ids, offsets
        words = self._words(text)
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        last_spelt = ""  # the word spelt in bytes just before, if any
        for piece, place, word_index in zip(cut.ids, offsets, cut.word_ids, strict=True):
            spelt = [piece]
            if piece == self.unk_id:
                word = words[word_index]  # pyright: ignore[reportArgumentType, reportCallIssue]
                spelt = self._spelt_in_bytes(word)
                if last_spelt and self._is_word(last_spelt[-1]) and self._is_word(word[0]):
                    spelt.insert(0, FIRST_BYTE_ID + 0x20)  # or two words would read as one
            last_spelt = word if piece == self.unk_id else ""
            ids += spelt
            places += [place] * len(spelt)
        return ids, places

    def _spelt_in_bytes(self, word: str) -> list[int]:
        if self.style == "bert":
            return []
        return [FIRST_BYTE_ID + byte for byte in word.encode("utf-8", "surrogatepass")]

    def _words(self, text: str) -> list[str]:
        """The normalised words and single characters of `text`, surrogates left out."""
        normalise, split = self._pipeline.normalizer, self._pipeline.pre_tokenizer
        normal = normalise.normalize_str(_SURROGATE.sub(" ", text))  # pyright: ignore[reportOptionalMemberAccess]
        return [word for word, _ in split.pre_tokenize_str(normal)]  # pyright: ignore[reportOptionalMemberAccess]

    def _is_word(self, character: str) -> bool:
        """Whether a normalised character joins its neighbours to a word."""
        if character not in self._is_word_cache:
            self._is_word_cache[character] = len(self._words(character * 2)) == 1
        return self._is_word_cache[character]

    # Ids to text

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Readable text of `ids`: special pieces are left out, a space stands only between two words."""
        text = ""
        pending = bytearray()

        def append(piece: str) -> None:
            nonlocal text
            between = text and piece and self._is_word(text[-1]) and self._is_word(piece[0])
            text += (" " if between else "") + piece

        for i in (int(i) for i in ids):
            if not 0 <= i < self.size:
                raise InputError(f"id {i} is not in the vocabulary; ids go from 0 to {self.size - 1}.")
            piece = self.pieces[i]
            if self.style == "tianwen" and FIRST_BYTE_ID <= i < FIRST_BYTE_ID + 256:
                pending.append(i - FIRST_BYTE_ID)
                continue
            append(_read_bytes(pending))
            pending.clear()
            if i == self.unk_id:
                append("\ufffd")
            elif piece in SPECIAL_PIECES:
                continue
            elif piece.startswith(CONTINUES) and len(piece) > len(CONTINUES):
                text += piece[len(CONTINUES) :]
            else:
                append(piece)
        append(_read_bytes(pending))
        return text

    def _special(self, piece: str) -> int:
        if piece not in self._id_of:
            raise InputError(f"The vocabulary has no {piece}; it needs {' '.join(SPECIAL_PIECES)}.")
        return self._id_of[piece]


def _restored(pieces: list[str], style: Style) -> Tokenizer:
    return Tokenizer(pieces, style=style)


def _pipeline(id_of: dict[str, int], style: Style) -> Pipeline:
    model = models.WordPiece(
        vocab=id_of,
        unk_token=SPECIAL_PIECES[1],
        max_input_chars_per_word=_LONGEST_WORD,
        continuing_subword_prefix=CONTINUES,
    )  # pyright: ignore[reportCallIssue]
    pipeline = Pipeline(model)
    if style == "bert":
        pipeline.normalizer = normalizers.BertNormalizer()  # pyright: ignore[reportAttributeAccessIssue]
        pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
        return pipeline
    normal = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.NFKC()])
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_SPACES), "removed"), pre_tokenizers.Split(Regex(_SINGLES), "isolated")]
    )
    pipeline.normalizer = normal  # pyright: ignore[reportAttributeAccessIssue]
    pipeline.pre_tokenizer = split  # pyright: ignore[reportAttributeAccessIssue]
    return pipeline


def _fingerprint(pieces: Sequence[str], style: str) -> str:
    content = json.dumps([_FORMAT, _FORMAT_VERSION, style, list(pieces)])
    return hashlib.sha256(content.encode("ascii")).hexdigest()[:16]


def _read(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ModelError(f"There is no tokenizer file at {path}.") from None
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is damaged: not UTF-8 text ({error}). Copy the file again.") from None


def _read_bytes(pending: bytearray) -> str:
    try:
        return pending.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # a model wrote half a character
        return pending.decode("utf-8", "replace")


def _runs_without_surrogates(text: str) -> Iterable[tuple[int, int]]:
    """Spans of `text`: each lone surrogate by itself (the library takes none), and what lies between."""
    if text.isascii() or not _SURROGATE.search(text):
        yield 0, len(text)
        return
    last = 0
    for match in _SURROGATE.finditer(text):
        if match.start() > last:
            yield last, match.start()
        yield match.span()
        last = match.end()
    if last < len(text):
        yield last, len(text)


def _with_composed_marks(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return offsets
