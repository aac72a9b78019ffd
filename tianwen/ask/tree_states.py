"""States of a tree of tokens: what a recurrent asker remembers, one small tensor a node and layer instead of keys.

A chain that is scored and forgotten is one scan from the state of the node it hangs on. Tokens that are kept go level
by level, all chains abreast, for each node keeps the state after it. Of a source only the last token keeps one: nothing
hangs below the others.

Post: 8802 (decoding), 9554 (the recurrences).

Notation
    B  questions      T  slots in use (a node's number is its slot)      n  tokens of a call, c chains
    a layer's states [B, capacity, *state], *state as the mixer has it: [2N] for LRU, [N] SLRU, [3, N] RWKV
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tianwen.ask.tree_cache import Call
from tianwen.backbone.mixers import Shell

if TYPE_CHECKING:
    from tianwen.ask.seq2seq import AskModel


class TreeStates:
    """The state after each node, layer by layer; see the module."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.layers: list[Tensor] = []

    def run(self, model: AskModel, call: Call) -> Tensor:
        """Hidden states [n, width] of the tokens of a call; those that are kept are remembered."""
        shell = model.backbone
        assert isinstance(shell, Shell)
        if not len(call.ids):
            return call.ids.new_zeros(0, shell.config.width, dtype=shell.tokens.weight.dtype)
        owner = call.places.owner[call.places.row].cpu().numpy()  # [n]
        if not self.layers:
            like = shell.init_state(1)
            self.layers = [part.new_zeros(self.batch, max(32, call.size), *part.shape[1:]) for part in like]
        self._reserve(call.size)
        extra = model.neighbours(call.before)
        first = np.flatnonzero(call.place == 0)
        state = self._above(shell, owner[first], call.parent[first])
        if call.keep is None:
            return self._scan(shell, call, extra, first, state)[0]
        source = call.segments.cpu().numpy() == 0
        if source.any():
            return self._source_and_prefix(shell, call, extra, owner, source)
        return self._levels(shell, call, extra, owner, call.place, state)

    def _source_and_prefix(
        self, shell: Shell, call: Call, extra: Tensor, owner: np.ndarray, source: np.ndarray
    ) -> Tensor:
        """The first call: sources as one scan, then what is known of their targets level by level."""
        keep = call.keep
        assert keep is not None
        at = np.flatnonzero(source)
        begins = np.flatnonzero(call.place[at] == 0)
        hidden, state = self._scan(shell, _part(call, at), extra[at], begins, shell.init_state(len(begins)))
        lengths = np.diff(np.append(begins, len(at)))
        last = at[begins + lengths - 1]
        self._write(owner[last], keep[last], state)
        out = hidden.new_zeros(len(source), hidden.shape[1])
        out[at] = hidden
        rest = np.flatnonzero(~source)
        if len(rest):
            after = np.zeros(self.batch, np.int64)
            after[owner[last]] = lengths
            place = call.place[rest] - after[owner[rest]]
            whose = owner[rest][place == 0]
            parts = [part[torch.from_numpy(np.searchsorted(owner[last], whose))] for part in state]
            out[rest] = self._levels(shell, _part(call, rest), extra[rest], owner[rest], place, parts)
        return out

    def _levels(
        self, shell: Shell, call: Call, extra: Tensor, owner: np.ndarray, place: np.ndarray, state: Sequence[Tensor]
    ) -> Tensor:
        """Chains token by token, side by side; the state after each is written where its node is."""
        keep = call.keep
        assert keep is not None
        out = extra.new_zeros(len(place), shell.config.width)
        chain = np.cumsum(place == 0) - 1
        going = np.arange(len(state[0]))  # chains that have a token of this level, in order
        for level in range(int(place.max()) + 1):
            at = np.flatnonzero(place == level)
            rows = torch.from_numpy(np.searchsorted(going, chain[at]))
            state = [part[rows] for part in state]
            out[at], state = shell.step(call.ids[at], state, extra=extra[at])
            self._write(owner[at], keep[at], state)
            going = chain[at]
        return out

    def _scan(
        self, shell: Shell, call: Call, extra: Tensor, first: np.ndarray, state: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Chains in one padded batch, each from its own state: hidden states [n, width] and the states after."""
        lengths = np.diff(np.append(first, len(call.ids)))
        ids = nn.utils.rnn.pad_sequence(list(call.ids.split(lengths.tolist())), batch_first=True)  # [c, longest]
        more = nn.utils.rnn.pad_sequence(list(extra.split(lengths.tolist())), batch_first=True)
        sizes = torch.from_numpy(lengths).to(ids.device)
        hidden, after = shell(ids, state=state, lengths=sizes, extra=more)
        valid = torch.arange(ids.shape[1], device=ids.device) < sizes[:, None]
        return hidden[valid], after

    def _above(self, shell: Shell, owner: np.ndarray, parent: np.ndarray) -> list[Tensor]:
        """The state that each chain goes on from: its parent's, or none."""
        if (parent < 0).all():
            return shell.init_state(len(owner))
        return [part[torch.from_numpy(owner), torch.from_numpy(parent)] for part in self.layers]

    def _write(self, owner: np.ndarray, slot: np.ndarray, state: Sequence[Tensor]) -> None:
        rows, columns = torch.from_numpy(owner), torch.from_numpy(slot)
        for whole, part in zip(self.layers, state, strict=True):
            whole[rows, columns] = part

    def _reserve(self, size: int) -> None:
        have = self.layers[0].shape[1]
        if size > have:
            more = 2 ** (size - 1).bit_length() - have
            self.layers = [
                torch.cat([part, part.new_zeros(self.batch, more, *part.shape[2:])], dim=1) for part in self.layers
            ]

    def stacked(self, other: TreeStates, sizes: tuple[int, int]) -> TreeStates:
        """These questions and the other's as one batch; `sizes` are the slots in use of both."""
        union = TreeStates(self.batch + other.batch)
        for upper, lower in zip(self.layers, other.layers, strict=True):
            whole = upper.new_zeros(union.batch, max(32, *sizes), *upper.shape[2:])
            whole[: self.batch, : sizes[0]] = upper[:, : sizes[0]]
            whole[self.batch :, : sizes[1]] = lower[:, : sizes[1]]
            union.layers.append(whole)
        return union


def _part(call: Call, at: np.ndarray) -> Call:
    """Some tokens of a call; what only attention needs stays as it is."""
    keep = None if call.keep is None else call.keep[at]
    return Call(
        call.ids[at],
        call.before[at],
        call.segments[at],
        call.positions[at],
        call.places,
        call.parent[at],
        call.place[at],
        call.sees,
        keep,
        call.size,
    )
