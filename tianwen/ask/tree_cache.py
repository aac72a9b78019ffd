"""Keys and values of a tree of tokens: written once where they belong, never moved, never copied between beams.

Everything but attention is computed on real tokens laid end to end, without padding. Only the attention itself sees a
padded batch: the rows of one call against the nodes of their questions.

Post: 8802 (decoding), 8998 (the backbone, whose packed form this is).

Notation
    B  questions      T  slots in use (a node's number is its slot)      h, s  heads and their size
    R, C  rows and columns of one call      n  real tokens of the call, token i stands at (row[i], column[i])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from tianwen.ask.seq2seq import AskModel


@dataclass(frozen=True)
class Places:
    """Where the n tokens of a call stand in its padded rows, and whose rows they are."""

    row: Tensor  # int64 [n]
    column: Tensor  # int64 [n]
    owner: Tensor  # int64 [R]: the question of each row
    columns: int  # C

    def padded(self, flat: Tensor) -> Tensor:
        """[n, h, s] -> [R, C, h, s], zeros where no token is."""
        whole = flat.new_zeros(len(self.owner), self.columns, *flat.shape[1:])
        whole[self.row, self.column] = flat
        return whole


@dataclass(frozen=True)
class Call:
    """The n tokens of one model call: what they are, where they hang, what they look at."""

    ids: Tensor  # int64 [n]
    before: Tensor  # int64 [n, 2]
    segments: Tensor  # int64 [n]
    positions: Tensor  # int64 [n]: depth in the tree
    places: Places
    parent: np.ndarray  # int64 [n]: the node above a chain's first token (-1: none); not read for the others
    place: np.ndarray  # int64 [n]: index in its chain; a chain's tokens lie end to end
    sees: np.ndarray  # bool [n, T], or [n, T + C] where nothing is kept
    keep: np.ndarray | None  # int64 [n]: the node that each becomes
    size: int  # T


class TreeCache:
    """What attention remembers of every node: keys and values of each layer, [B, capacity, h, s].

    Capacity doubles when it is too small. Slots that were never written are zero, not garbage: a masked NaN is a NaN.
    """

    def __init__(self, layers: int, batch: int) -> None:
        self.batch = batch
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers

    def run(self, model: AskModel, call: Call) -> Tensor:
        """Hidden states [n, width] of the tokens of a call; those that are kept are remembered."""
        attention = attention_of_call(self, call.places, call.sees, call.keep, call.size)
        return model.hidden_of_tokens(
            call.ids, before=call.before, segments=call.segments, positions=call.positions, attention=attention
        )

    def write(self, layer: int, owner: Tensor, slot: Tensor, key: Tensor, value: Tensor, size: int) -> None:
        """Store keys and values [n, h, s] of the nodes (owner, slot); every slot is below `size`."""
        for store, new in ((self.keys, key), (self.values, value)):
            have = store[layer]
            if have is None or have.shape[1] < size:
                wider = new.new_zeros(self.batch, max(32, 2 ** (size - 1).bit_length()), *new.shape[1:])
                if have is not None:
                    wider[:, : have.shape[1]] = have
                store[layer] = have = wider
            have[owner, slot] = new

    def read(self, layer: int, size: int) -> tuple[Tensor, Tensor]:
        """Views of the first `size` slots of keys and values, each [B, size, h, s]."""
        keys, values = self.keys[layer], self.values[layer]
        if keys is None or values is None:
            raise LookupError("nothing was written to this layer")
        return keys[:, :size], values[:, :size]

    def stacked(self, other: TreeCache, sizes: tuple[int, int]) -> TreeCache:
        """These questions and the other's as one batch; `sizes` are the slots in use of both."""
        union = TreeCache(len(self.keys), self.batch + other.batch)
        for layer in range(len(self.keys)):
            pairs = zip(self.read(layer, sizes[0]), other.read(layer, sizes[1]), strict=True)
            for store, (upper, lower) in zip((union.keys, union.values), pairs, strict=True):
                whole = upper.new_zeros(union.batch, max(sizes), *upper.shape[2:])
                whole[: self.batch, : sizes[0]] = upper
                whole[self.batch :, : sizes[1]] = lower
                store[layer] = whole
        return union


class TreeAttention:
    """One layer's attention for one call: new tokens against the tree, and against each other.

    `keep` [n] gives the slots where the new tokens go (then `mask` [R, 1, C, T] covers them); without it they are
    forgotten after the call (then `mask` is [R, 1, C, T + C], the last C columns being the row's own tokens).
    """

    def __init__(
        self, cache: TreeCache, layer: int, places: Places, mask: Tensor, keep: Tensor | None, size: int
    ) -> None:
        self.cache, self.layer, self.places, self.mask, self.keep, self.size = cache, layer, places, mask, keep, size

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Mixed values [1, h, n, s] of queries, keys and values [1, h, n, s]."""
        places = self.places
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [n, h, s]
        if self.keep is not None:
            self.cache.write(self.layer, places.owner[places.row], self.keep, k, v, self.size)
            keys, values = self._of_rows()
        else:
            keys, values = (
                torch.cat([past, places.padded(new)], dim=1) for past, new in zip(self._of_rows(), (k, v), strict=True)
            )
        mixed = F.scaled_dot_product_attention(
            places.padded(q).transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=self.mask.to(q.dtype),
        )  # [R, h, C, s]
        return mixed.transpose(1, 2)[places.row, places.column].transpose(0, 1)[None]

    def _of_rows(self) -> tuple[Tensor, Tensor]:
        """Keys and values of each row's question, [R, T, h, s]: the cache itself where the rows are all questions."""
        keys, values = self.cache.read(self.layer, self.size)
        owner = self.places.owner
        if len(owner) == self.cache.batch and bool((owner == torch.arange(len(owner), device=owner.device)).all()):
            return keys, values
        return keys[owner], values[owner]


def attention_of_call(
    cache: TreeCache, places: Places, sees: np.ndarray, keep: np.ndarray | None, size: int
) -> Sequence[TreeAttention]:
    """The attention of each layer for one call; `sees` bool [n, T] (or [n, T + C]): what each token looks at."""
    device = places.row.device
    mask = torch.zeros(len(places.owner), places.columns, sees.shape[1], dtype=torch.bool, device=device)
    mask[places.row, places.column] = torch.from_numpy(sees).to(device)
    additive = torch.zeros(mask.shape, device=device).masked_fill_(~mask, float("-inf"))[:, None]  # once for all layers
    slots = None if keep is None else torch.from_numpy(keep).to(device)
    return [TreeAttention(cache, layer, places, additive, slots, size) for layer in range(len(cache.keys))]
