"""A word table: words with their vectors in one small file that several models share.

A model that was trained with a table records its fingerprint. The table is looked for in the model's folder, and then
among what is bundled, so the models that come with Tianwen share one. A model of your own keeps a copy beside it
(twelve megabytes of the bundled one), because a later version may come with another.

Notation: n words, d numbers of a vector, int8 by rows (`tianwen.training.weights`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int8
from torch import Tensor

from tianwen.errors import InputError, ModelError
from tianwen.training.weights import load_weights, quantise_rows, restore_rows, save_weights
from tianwen.words.lists import units_of
from tianwen.words.vectors import principal_components, read_word_vectors

FILE = "words.safetensors"
ARCHITECTURE = "tianwen words 1"
MOST = 65_504
"""Where fp16 ends; of vectors of length 1 no number is above 1."""
BUNDLED = Path(__file__).parent.parent / "models" / "words" / FILE


@dataclass(frozen=True, eq=False)
class WordTable:
    """Words, frequent ones first, each with the int8 codes [n, d] and the scale [n] of its vector of length 1.

    Nothing changes it, so that copies of a model share theirs; whether two are equal, their fingerprints say.
    """

    words: list[str]
    codes: Int8[Tensor, "words dim"] = field(repr=False)
    scale: Float32[Tensor, " words"] = field(repr=False)

    @classmethod
    def of(cls, words: Sequence[str], vectors: Float32[np.ndarray, "words dim"]) -> WordTable:
        """A table of words with these vectors.

        Raises InputError where they are not one each, where there are none, and for words that no text can hold.
        """
        if len(words) != len(vectors) or len(set(words)) != len(words):
            raise InputError(f"{len(words)} words ({len(set(words))} different) and {len(vectors)} vectors: one each.")
        if vectors.ndim != 2 or not vectors.size or not (np.abs(vectors) < MOST).all():
            raise InputError(
                f"Each word has a row of numbers below {MOST:,}; given was an array of shape {vectors.shape}."
            )
        for word in words:
            if not _can_be_found(word):
                raise InputError(
                    f"{word!r} cannot be found in a text: words are looked up in lower case and normalised (NFKC), "
                    "without spaces and line breaks."
                )
        return cls(list(words), *quantise_rows("the word vectors", torch.from_numpy(vectors)))

    def __deepcopy__(self, memo: object) -> WordTable:
        return self

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.codes.shape[1]

    @cached_property
    def vectors(self) -> Float16[Tensor, "words dim"]:
        """The vectors as they are used: of length 1, but for what int8 loses."""
        return restore_rows(self.codes, self.scale).half()

    @cached_property
    def fingerprint(self) -> str:
        """What a model that was trained with the table records of it."""
        digest = sha256("\n".join(self.words).encode())
        digest.update(self.codes.numpy().tobytes())
        digest.update(self.scale.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, file: str | Path) -> None:
        """Write the table to one file, in one step."""
        text = "\n".join(self.words).encode()
        tensors = {
            "codes": self.codes,
            "scale": self.scale,
            "words": torch.frombuffer(bytearray(text), dtype=torch.uint8),
        }
        save_weights(Path(file), tensors, {"architecture": ARCHITECTURE, "fingerprint": self.fingerprint})

    @classmethod
    def load(cls, file: str | Path) -> WordTable:
        """Read a table. Raises ModelError where it is missing, damaged or something else."""
        weights = load_weights(Path(file))
        if weights.metadata.get("architecture") != ARCHITECTURE:
            raise ModelError(f"{file} holds no word table ({ARCHITECTURE!r}). Make one: tianwen train words")
        held = weights.tensors
        try:
            words, codes, scale = bytes(held["words"].numpy()).decode().split("\n"), held["codes"], held["scale"]
            fingerprint = weights.metadata["fingerprint"]
        except (KeyError, UnicodeDecodeError) as error:
            raise ModelError(f"{file} says that it is a word table, and is none: {error!r}. Fetch it again.") from error
        if not (codes.ndim == 2 and len(words) == len(codes) == len(scale)):
            shapes = f"{len(words)} words, codes {tuple(codes.shape)}, scales {tuple(scale.shape)}"
            raise ModelError(f"{file} says that it is a word table, and is none: {shapes}. Fetch it again.")
        table = cls(words, codes, scale)
        table.__dict__["fingerprint"] = fingerprint  # the file's checksum covers it
        return table


def _can_be_found(word: str) -> bool:
    """Whether the word is made of units as they are looked up."""
    return bool(word) and "".join(units_of(word)) == word


def bundled_table() -> WordTable:
    """The table that comes with Tianwen: Chinese and English."""
    return _shared(BUNDLED)


_held: WeakValueDictionary[tuple[Path, int, int, int], WordTable] = WeakValueDictionary()


def _shared(file: Path) -> WordTable:
    """The table of a file, once for all models of a process that read the file as it is now."""
    now = file.stat() if file.is_file() else None
    key = (file.resolve(), now.st_ino, now.st_size, now.st_mtime_ns) if now else (file, 0, 0, 0)
    table = _held.get(key)
    if table is None:
        table = _held[key] = WordTable.load(file)
    return table


def table_from_vectors(files: Sequence[str | Path], most: Sequence[int], *, width: int | None = None) -> WordTable:
    """The first `most` words of each file of word vectors (one number for all, or one each), in turn.

    `width`: keep so many numbers of each vector, the principal components of its file. A word of several files has the
    vector of the first. Raises InputError for unreadable files, and for vectors of different widths.
    """
    counts = list(most) * len(files) if len(most) == 1 else list(most)
    if not files or len(counts) != len(files):
        raise InputError(f"{len(files)} files of word vectors, and how many words of each: {counts}. One number each.")
    read = [read_word_vectors(file, most=count) for file, count in zip(files, counts, strict=True)]
    if width is not None:
        read = [(words, principal_components(table, width)) for words, table in read]
    widths = [table.shape[1] for _, table in read]
    if len(set(widths)) > 1:
        raise InputError(f"The files have vectors of {widths} numbers. Bring them to one length with width.")
    longest = max(len(words) for words, _ in read)
    places = [(row, one) for row in range(longest) for one, (words, _) in enumerate(read) if row < len(words)]
    chosen: dict[str, tuple[int, int]] = {}
    for one in range(len(read)):  # the first file's words are taken first, whatever their rank
        for row, owner in places:
            if owner == one:
                chosen.setdefault(read[one][0][row], (row, one))
    ordered = sorted(chosen, key=lambda word: chosen[word])
    return WordTable.of(ordered, np.stack([read[one][1][row] for row, one in (chosen[word] for word in ordered)]))


def find_table(folder: Path, fingerprint: str) -> WordTable:
    """The table that a model was trained with: in its folder, or the bundled one. Raises ModelError without it."""
    found = []
    for file in (folder / FILE, BUNDLED):
        if file.is_file():
            table = _shared(file)
            if table.fingerprint == fingerprint:
                return table
            found.append(f"{file} is another ({table.fingerprint})")
    told = "; ".join(found) or "there is none"
    raise ModelError(
        f"The model in {str(folder)!r} was trained with a word table ({fingerprint}), and {told}. "
        f"Copy all files of the model again, {FILE} too."
    )


def keep_table(folder: Path, table: WordTable) -> None:
    """Put the table into a model's folder, unless it is there already."""
    file = folder / FILE
    try:
        known = WordTable.load(file).fingerprint
    except ModelError:  # missing, damaged or something else: hours of training are not lost to it
        known = None
    if known != table.fingerprint:
        table.save(file)
