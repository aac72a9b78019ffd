"""The keys of made-up facts as plain arrays, for every peer of the index, and what may follow a prefix by brute force.

Post: 8802

Nothing of the index is used: the tokens of the three fields are laid side by side and sorted as strings of bytes.

    notation
    N, L     distinct keys, tokens of the longest one
    keys     [N, L] uint16, ascending, each S END P END M END and then FILL
    length   [N] tokens of each key
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from index_facts import tables

from tianwen.ask.asker import BUNDLED
from tianwen.ask.ragged import pointers, slots
from tianwen.text import Tokenizer

ROWS, VOCABULARY = 128, 12_000
FILL = VOCABULARY - 1
FIELDS = ("subject", "predicate", "sense")


class Keys(NamedTuple):
    """Mapped from the disk, so that a process pays only for what it reads."""

    folder: Path
    keys: np.ndarray  # [N, L] uint16
    length: np.ndarray  # [N] int64
    end_id: int

    @classmethod
    def open(cls, folder: Path) -> Keys:
        tokenizer = Tokenizer.load(BUNDLED / "tokenizer.json")
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("keys", "length")]
        return cls(folder, arrays[0], arrays[1], int(tokenizer.sep_id))

    def columns(self) -> pl.DataFrame:
        """The distinct facts as texts, columns FIELDS, in no order."""
        return pl.read_ipc(self.folder / "facts.arrow")

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """The keys end to end: row_ptr [N + 1], tokens [t]."""
        inside = np.arange(self.keys.shape[1]) < self.length[:, None]  # [N, L]
        return pointers(self.length), self.keys[inside]


def write_keys(folder: Path, facts: int, *, seed: int = 0) -> Keys:
    """Make facts up and write their distinct keys; `facts` of them or a few less."""
    tokenizer = Tokenizer.load(BUNDLED / "tokenizer.json")
    characters = "".join(piece for piece in tokenizer.pieces if len(piece) == 1 and "\u4e00" <= piece <= "\u9fff")
    parts = [split_subjects(frame) for frame in tables(facts, characters, seed=seed)]
    columns = pl.concat(parts).unique(maintain_order=True)
    columns.write_ipc(folder / "facts.arrow")
    keys, length = padded([_tokens(columns[field], tokenizer) for field in FIELDS], int(tokenizer.sep_id))
    order = np.argsort(as_bytes(keys), kind="stable")
    order = order[np.r_[True, (keys[order][1:] != keys[order][:-1]).any(axis=1)]]
    np.save(folder / "keys.npy", keys[order])
    np.save(folder / "length.npy", length[order])
    return Keys.open(folder)


def split_subjects(frame: pl.DataFrame) -> pl.DataFrame:
    """The three fields of a key: a full-width bracket at the end of the subject is its sense."""
    named = pl.col("subject").str.extract_groups(r"^(?<subject>.*?)(?:（(?<sense>[^（）]*)）)?$")
    fields = frame.select(named.alias("named"), "predicate").unnest("named")
    return fields.select("subject", "predicate", pl.col("sense").fill_null(""))


def _tokens(texts: pl.Series, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each text of a column, every different text tokenised once."""
    kinds = texts.unique(maintain_order=True)
    code = texts.cast(pl.Enum(kinds)).to_physical().to_numpy()
    row_ptr, tokens = tokenizer.ids_batch(kinds.to_list())
    ptr, flat = slots(row_ptr, code.astype(np.int64))
    return ptr, np.asarray(tokens)[flat]


def padded(fields: list[tuple[np.ndarray, np.ndarray]], end_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys [n, L] and their lengths out of ragged fields, each closed by END."""
    lengths = [np.diff(ptr) for ptr, _ in fields]
    length = np.sum(lengths, axis=0) + len(fields)
    keys = np.full((len(length), int(length.max())), FILL, np.uint16)
    start = np.zeros(len(length), np.int64)
    for (ptr, tokens), own in zip(fields, lengths, strict=True):
        row = np.repeat(np.arange(len(own)), own)
        keys[row, start[row] + np.arange(len(tokens)) - ptr[row]] = tokens
        start += own
        keys[np.arange(len(own)), start] = end_id
        start += 1
    return keys, length


def as_bytes(keys: np.ndarray) -> np.ndarray:
    """Each row [L] uint16 as one string of bytes that sorts as its tokens do."""
    big = np.ascontiguousarray(keys.astype(">u2"))
    return big.view(f"S{2 * keys.shape[1]}")[:, 0]


def below(keys: np.ndarray, prefix: np.ndarray) -> tuple[int, int]:
    """The rows of sorted keys that begin with a prefix."""
    low, high = 0, len(keys)
    for depth, token in enumerate(prefix):
        column = keys[low:high, depth]
        low, high = (
            low + int(np.searchsorted(column, token)),
            low + int(np.searchsorted(column, token, side="right")),
        )
    return low, high


def children(keys: np.ndarray, prefix: np.ndarray) -> np.ndarray:
    """What may follow a prefix that is no whole key, ascending: read off the sorted keys."""
    low, high = below(keys, prefix)
    return np.unique(keys[low:high, len(prefix)]).astype(np.int64)


def random_paths(keys: np.ndarray, length: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """ROWS keys reached by choosing among the children evenly, so that wide and narrow places are both met."""
    first = children(keys, keys[0, :0])
    found = []
    for _ in range(ROWS):
        prefix = np.array([rng.choice(first)], np.uint16)
        low, high = below(keys, prefix)
        while len(prefix) < length[low]:
            at = len(prefix)
            token = rng.choice(np.unique(keys[low:high, at]))
            column = keys[low:high, at]
            low, high = (
                low + int(np.searchsorted(column, token)),
                low + int(np.searchsorted(column, token, side="right")),
            )
            prefix = np.append(prefix, token)
        found.append(low)
    rows = np.array(found)
    return np.asarray(keys[rows]).astype(np.int64), np.asarray(length[rows])
