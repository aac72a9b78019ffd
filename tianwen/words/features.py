"""The vectors of the words that stand in a text, as an input of a network that reads it piece by piece.

A network of a few million weights that was trained on some thousand texts cannot know that 阿森纳 is a club and 呋塞米
a drug; the word's vector does. Each piece gets the mean vectors of the words of the table that begin there, go on
there, end there, and stand there alone, overlapping ones too: no segmenter decides.

Source: our own form, for post 8888. Soft lexicon: Ma et al., Simplify the Usage of Lexicon in Chinese NER, 2020.

Notation
    B, T       batch, pieces         W, d  words of the table that the vocabulary can spell, numbers of a vector
    hash_k(t)  of the pieces t .. t + k - 1, modulo 2^64: hash_k(t) = hash_{k-1}(t) * FACTOR + id + 1
    feature    [B, T, 4 d]: mean over the words that begin, go on, end, and stand alone at a piece; 0 where none does
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tianwen.backbone.linear import linear
from tianwen.text import Tokenizer
from tianwen.vocabulary import BYTE_PIECES, CONTINUES, SPECIAL_PIECES
from tianwen.words.table import WordTable

FACTOR = 0x5851F42D4C957F2D
LONGEST = 6
"""Pieces of a word at most."""
ROLES = 4
BEGINS, GOES_ON, ENDS, ALONE = range(ROLES)


class Spelling(NamedTuple):
    """The words of a table as a vocabulary spells them: sorted hashes [W], and the row of each in the table."""

    hashes: Int[np.ndarray, " spelt"]
    rows: Int[np.ndarray, " spelt"]


def spelt(table: WordTable, tokenizer: Tokenizer) -> Spelling:
    """The words that the vocabulary spells in at most LONGEST pieces; of words spelt alike, the first."""
    letters = np.array([word.isascii() and word.isalpha() for word in table.words], bool)
    others = np.flatnonzero(~letters)
    row_ptr, ids = tokenizer.ids_batch([table.words[row] for row in others])
    id_of = {piece: i for i, piece in enumerate(tokenizer.pieces)}
    latin = [piece for piece in tokenizer.pieces if piece.isascii() and piece.removeprefix(CONTINUES).isalpha()]
    lengths = [[len(p.removeprefix(CONTINUES)) for p in latin if p.startswith(CONTINUES) is on] for on in (False, True)]
    most = max(lengths[0], default=0), max(lengths[1], default=0)
    cut = [_cut(table.words[row], id_of, most) for row in np.flatnonzero(letters)]
    rows = np.concatenate([others, np.flatnonzero(letters)])
    length = np.concatenate([np.diff(row_ptr), np.fromiter(map(len, cut), np.int64, len(cut))])
    ids = np.concatenate([ids, np.fromiter(chain.from_iterable(cut), np.int64)]).astype(np.int64)
    first = np.cumsum(length) - length
    poor = np.array([piece in _POOR for piece in tokenizer.pieces], bool)[ids]
    poor_before = np.concatenate([[0], np.cumsum(poor)])
    sound = (length > 0) & (length <= LONGEST) & (poor_before[first] == poor_before[first + length])
    rows, length, first = rows[sound], length[sound], first[sound]
    hashes = np.zeros(len(rows), np.int64)
    with np.errstate(over="ignore"):
        for place in range(LONGEST):
            piece = ids[np.minimum(first + place, len(ids) - 1)] if len(ids) else first
            hashes = np.where(length > place, hashes * np.int64(FACTOR) + piece + 1, hashes)
    order = np.argsort(rows, kind="stable")
    unique, chosen = np.unique(hashes[order], return_index=True)
    return Spelling(unique, rows[order][chosen])


def _cut(word: str, id_of: Mapping[str, int], most: tuple[int, int]) -> list[int]:
    """The pieces of a word of Latin letters, as `Tokenizer` cuts it, but quicker; [] where there are too many.

    `most`: letters of a piece at most, of one that begins a word and of one that goes on.
    """
    ids: list[int] = []
    start = 0
    while start < len(word) and len(ids) < LONGEST:
        mark, longest = (CONTINUES, most[1]) if start else ("", most[0])
        ends = range(min(len(word), start + longest), start, -1)
        stop = next((stop for stop in ends if mark + word[start:stop] in id_of), None)
        if stop is None:
            return []
        ids.append(id_of[mark + word[start:stop]])
        start = stop
    return ids if start == len(word) else []


_POOR = {*SPECIAL_PIECES, *BYTE_PIECES}


class WordFeatures(nn.Module):
    """The formula above, and what the network makes of it: a learnt linear map to its width."""

    vectors: Tensor
    hashes: Tensor
    rows: Tensor
    continues: Tensor

    def __init__(self, table: WordTable, tokenizer: Tokenizer, width: int, *, dropout: float = 0.2) -> None:
        super().__init__()
        words = spelt(table, tokenizer)
        held = {
            "vectors": table.vectors,
            "hashes": torch.from_numpy(words.hashes),
            "rows": torch.from_numpy(words.rows),
            "continues": torch.tensor([piece.startswith(CONTINUES) for piece in tokenizer.pieces]),
        }
        for name, tensor in held.items():
            self.register_buffer(name, tensor, persistent=False)
        self.table = table
        self.mix = nn.Linear(ROLES * table.width, width, bias=False)
        nn.init.normal_(self.mix.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)

    @property
    def table_width(self) -> int:
        """Numbers of a word's vector."""
        return self.table.width

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length width"]:
        """What the words at each piece add to its embedding. Padding and special pieces are in no word."""
        return linear(self.dropout(self.feature(ids).to(self.mix.weight.dtype)), self.mix.weight)

    @torch.no_grad()
    def feature(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length features"]:
        """The mean vectors [B, T, 4 d] of the words at each piece, by their role."""
        batch, length = ids.shape
        pieces, start, row = self._found(ids)
        longer = pieces > 1
        slots = [start * ROLES + torch.where(longer, BEGINS, ALONE), (start + pieces - 1)[longer] * ROLES + ENDS]
        words = [row, row[longer]]
        for inner in range(1, LONGEST - 1):
            around = pieces > inner + 1
            slots.append((start[around] + inner) * ROLES + GOES_ON)
            words.append(row[around])
        slot = torch.cat(slots)
        total = torch.zeros(batch * length * ROLES, self.vectors.shape[1], device=ids.device)
        total.index_add_(0, slot, self.vectors[torch.cat(words)].float())
        count = torch.bincount(slot, minlength=batch * length * ROLES)
        return (total / count.clamp(min=1)[:, None]).view(batch, length, ROLES * total.shape[1])  # [B, T, 4 d]

    def _found(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each word found: its pieces, the flat place of its first piece, its row in the table."""
        ids = ids.long()
        most = min(LONGEST, ids.shape[1])
        begins = ~self.continues[ids]  # [B, T]
        whole = F.pad(begins[:, 1:], (0, 1), value=True)  # no piece behind goes on with the word
        value, hashes = torch.zeros_like(ids), []
        for pieces in range(1, most + 1):
            value = value[:, : ids.shape[1] - pieces + 1] * FACTOR + ids[:, pieces - 1 :] + 1
            sound = begins[:, : value.shape[1]] & whole[:, pieces - 1 :]
            hashes.append(F.pad(value.masked_fill(~sound, 0), (0, pieces - 1)))
        wanted = torch.stack(hashes)  # [pieces, B, T]; no word has the hash 0
        if not len(self.hashes):
            return wanted.new_zeros(3, 0).unbind()  # type: ignore[return-value]
        near = torch.searchsorted(self.hashes, wanted).clamp(max=len(self.hashes) - 1)
        pieces, row, column = torch.nonzero((self.hashes[near] == wanted) & (wanted != 0), as_tuple=True)
        return pieces + 1, row * ids.shape[1] + column, self.rows[near[pieces, row, column]]
