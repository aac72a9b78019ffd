"""Decoding over a growing tree of tokens: one cache a question, shared by all its beams and candidates.

A beam search usually copies the cache of a beam whenever beams part. Here nothing is copied: every token fed is a node
of its question's tree, attention is masked to a node's ancestors, and a hypothesis is just a node.

Post: 8802. Idea of the mask: the UniLM mask (8998) with "its own past" read as "its ancestors in the tree".

Notation
    B  questions       T  nodes in the largest tree (source included)       R  rows of one call       C  tokens of a row
    ids, parent, depth  [B, T]; sees [B, T, T] (node i may look at node j); states [B, T, width]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tianwen.ask.seq2seq import AskModel
from tianwen.errors import ModelError


@dataclass(frozen=True)
class Chunks:
    """Token chains to feed: chain i hangs below node `parent[i]` of question `owner[i]`; ragged tokens."""

    owner: np.ndarray  # int64 [n]
    parent: np.ndarray  # int64 [n]
    row_ptr: np.ndarray  # int64 [n + 1]
    tokens: np.ndarray  # int64 [m]

    @classmethod
    def of(cls, owner: ArrayLike, parent: ArrayLike, chains: Sequence[ArrayLike]) -> Chunks:
        """Chunks from one sequence of token ids a chain."""
        parts = [np.asarray(chain, np.int64) for chain in chains]
        lengths = [len(part) for part in parts]
        return cls(
            np.asarray(owner, np.int64),
            np.asarray(parent, np.int64),
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            np.concatenate(parts) if parts else np.zeros(0, np.int64),
        )


@dataclass(frozen=True)
class Layout:
    """Where each token of a call stands: row of the padded batch, column, and its chain."""

    row: np.ndarray  # int64 [m]
    column: np.ndarray  # int64 [m]
    owner: np.ndarray  # int64 [R]: the question of each row
    width: int  # C


def lay_out(chunks: Chunks, *, width: int | None = None) -> Layout:
    """Place chains side by side: one row a question, or rows of about `width` tokens each."""
    lengths = np.diff(chunks.row_ptr)
    order = np.argsort(chunks.owner, kind="stable")
    limit = width if width is not None else int(lengths.sum()) + 1
    row_of, start_of, owners, used, previous = np.empty_like(lengths), np.empty_like(lengths), [], 0, -1
    for chain in order:
        if chunks.owner[chain] != previous or used + lengths[chain] > max(limit, int(lengths[chain])):
            owners.append(int(chunks.owner[chain]))
            used, previous = 0, int(chunks.owner[chain])
        row_of[chain], start_of[chain] = len(owners) - 1, used
        used += int(lengths[chain])
    chain_of = np.repeat(np.arange(len(lengths)), lengths)
    column = start_of[chain_of] + np.arange(len(chunks.tokens)) - chunks.row_ptr[chain_of]
    return Layout(row_of[chain_of], column, np.asarray(owners, np.int64), int(column.max(initial=-1)) + 1)


def _stacked(upper: np.ndarray, lower: np.ndarray, fill: int | bool) -> np.ndarray:
    """Two batches one above the other, the narrower one padded."""
    size = np.maximum(upper.shape[1:], lower.shape[1:])
    grown = [
        np.pad(a, [(0, 0), *((0, n - have) for n, have in zip(size, a.shape[1:], strict=True))], constant_values=fill)
        for a in (upper, lower)
    ]
    return np.concatenate(grown)


def _stacked_tensors(upper: Tensor, lower: Tensor, *, axis: int) -> Tensor:
    """Two batches one above the other, the shorter one padded with zeros along `axis`."""
    length = max(upper.shape[axis], lower.shape[axis])
    grown = []
    for part in (upper, lower):
        shape = list(part.shape)
        shape[axis] = length - part.shape[axis]
        grown.append(torch.cat([part, part.new_zeros(shape)], dim=axis) if shape[axis] else part)
    return torch.cat(grown)


class TreeSession:
    """The questions of a batch and every token fed below them.

    `calls` [B] counts the model calls that each question took part in, `fed` the tokens (padding not counted).
    """

    def __init__(
        self, model: AskModel, questions: Sequence[np.ndarray], *, prefixes: Sequence[np.ndarray] | None = None
    ) -> None:
        """Encode the questions; where the start of a target is known (`prefixes`), in the same call."""
        self.model = model
        self.calls = np.ones(len(questions), np.int64)
        self.fed = 0
        self.children: dict[tuple[int, int, int], int] = {}
        self.source_length = np.array([len(q) for q in questions], np.int64)
        longest = int(self.source_length.max(initial=1))
        self.source_ids = np.full((len(questions), longest), -1, np.int64)
        for row, question in enumerate(questions):
            self.source_ids[row, : len(question)] = question
        self._encode(prefixes if prefixes is not None else [np.zeros(0, np.int64)] * len(questions))

    @torch.inference_mode()
    def _encode(self, prefixes: Sequence[np.ndarray]) -> None:
        """One call: each source sees itself; its prefix, in the columns after all sources, sees source and own past."""
        batch, source = self.source_ids.shape
        lengths = np.array([len(prefix) for prefix in prefixes], np.int64)
        total = source + int(lengths.max(initial=0))
        column, is_target = np.arange(total), np.arange(total) >= source
        self.ids = np.full((batch, total), -1, np.int64)
        self.ids[:, :source] = self.source_ids
        for row, prefix in enumerate(prefixes):
            self.ids[row, source : source + len(prefix)] = prefix
        present = self.ids >= 0
        first = self.source_length[:, None]
        self.depth = np.where(is_target, first + column - source, column)
        self.parent = np.where(column == source, first - 1, np.broadcast_to(column - 1, (batch, total)))
        past_of_target = column[None, :] <= column[:, None]  # [total, total]
        self.sees = present[:, None, :] & (~is_target[None, None, :] | (is_target[:, None] & past_of_target)[None])
        before = np.stack([self._above(1), self._above(2)], axis=-1)  # [B, T, 2]
        segments = np.broadcast_to(is_target.astype(np.int64), (batch, total))
        ids = np.where(present, self.ids, 0)
        self.states, self.past = self._call(ids, before, segments, self.depth, self.sees, None)
        self.tips = np.where(lengths > 0, source + lengths - 1, self.source_length - 1)
        self.fed += int(present.sum())

    def _above(self, steps: int) -> np.ndarray:
        """Id of the token `steps` above each node of the tree, -1 above the root: [B, T]."""
        node = np.broadcast_to(np.arange(self.ids.shape[1]), self.ids.shape)
        for _ in range(steps):
            node = np.where(node >= 0, np.take_along_axis(self.parent, np.maximum(node, 0), axis=1), -1)
        return np.where(node >= 0, np.take_along_axis(self.ids, np.maximum(node, 0), axis=1), -1)

    def joined(self, other: TreeSession) -> TreeSession:
        """Both sessions' questions as one batch, these first; neither is changed. For scoring in one call."""
        union = object.__new__(TreeSession)
        union.model, union.fed, union.children = self.model, 0, {}
        union.calls = np.concatenate([self.calls, other.calls])
        union.source_length = np.concatenate([self.source_length, other.source_length])
        pad = lambda name, fill: _stacked(getattr(self, name), getattr(other, name), fill)  # noqa: E731
        union.source_ids, union.ids = pad("source_ids", -1), pad("ids", -1)
        union.depth, union.parent, union.sees = pad("depth", 0), pad("parent", -1), pad("sees", False)
        union.states = _stacked_tensors(self.states, other.states, axis=1)
        union.past = [
            (_stacked_tensors(k, other_k, axis=2), _stacked_tensors(v, other_v, axis=2))
            for (k, v), (other_k, other_v) in zip(self.past, other.past, strict=True)
        ]
        return union

    def _call(
        self,
        ids: np.ndarray,
        before: np.ndarray,
        segments: np.ndarray,
        position: np.ndarray,
        mask: np.ndarray,
        past: list[tuple[Tensor, Tensor]] | None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        device = next(self.model.parameters()).device
        onto = lambda array: torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)  # noqa: E731
        return self.model.hidden(
            onto(ids),
            before=onto(before),
            segments=onto(segments),
            positions=onto(position),
            mask=onto(mask)[:, None],
            past=past,
        )

    @property
    def roots(self) -> np.ndarray:
        """The node below which the target starts: the last source token of each question."""
        return self.source_length - 1

    @torch.inference_mode()
    def feed(self, chunks: Chunks, *, keep: bool = True, width: int | None = None) -> tuple[np.ndarray, Tensor]:
        """Feed chains in ONE model call.

        Returns the node of each token ([m]; -1 when `keep` is false) and its hidden state ([m, width]).
        With `keep=False` the tokens are scored and forgotten, in rows of about `width` tokens.
        """
        layout = lay_out(chunks, width=None if keep else width)
        rows, columns = len(layout.owner), layout.width
        chain = np.repeat(np.arange(len(chunks.owner)), np.diff(chunks.row_ptr))
        place = np.arange(len(chunks.tokens)) - chunks.row_ptr[chain]
        owner, parent = chunks.owner[chain], chunks.parent[chain]
        ids = np.zeros((rows, columns), np.int64)
        ids[layout.row, layout.column] = chunks.tokens
        before = np.full((rows, columns, 2), -1, np.int64)
        before[layout.row, layout.column] = self._before(chunks, owner, parent, place)
        position = np.zeros((rows, columns), np.int64)
        position[layout.row, layout.column] = self.depth[owner, parent] + 1 + place
        mask = self._mask(layout, chain, place, owner, parent)
        if len(layout.owner) == len(self.ids) and np.array_equal(layout.owner, np.arange(len(self.ids))):
            past = self.past
        else:
            rows_of = torch.from_numpy(layout.owner).to(self.states.device)
            past = [(k[rows_of], v[rows_of]) for k, v in self.past]
        segments = np.ones_like(ids)
        states, present = self._call(ids, before, segments, position, mask, past)
        self.fed += len(chunks.tokens)
        self.calls[np.unique(chunks.owner)] += 1
        flat = states[torch.from_numpy(layout.row), torch.from_numpy(layout.column)]  # [m, width]
        if not keep:
            return np.full(len(chunks.tokens), -1, np.int64), flat
        return self._append(layout, chunks, (owner, parent, place), mask, (states, present)), flat

    def _before(self, chunks: Chunks, owner: np.ndarray, parent: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Ids of the two tokens before each token to be fed: in its chain, else in the tree above."""
        token = chunks.tokens
        above = self.ids[owner, parent]
        grandparent = self.parent[owner, parent]
        above2 = np.where(grandparent >= 0, self.ids[owner, grandparent], -1)
        index = np.arange(len(token))
        one = np.where(place >= 1, token[np.maximum(index - 1, 0)], above)
        two = np.where(place >= 2, token[np.maximum(index - 2, 0)], np.where(place == 1, above, above2))
        return np.stack([one, two], axis=-1)

    def _mask(
        self, layout: Layout, chain: np.ndarray, place: np.ndarray, owner: np.ndarray, parent: np.ndarray
    ) -> np.ndarray:
        """[R, C, T + C]: a new token sees its parent's ancestors in the cache, and its own chain so far."""
        rows, columns = len(layout.owner), layout.width
        total = self.ids.shape[1]
        mask = np.zeros((rows, columns, total + columns), bool)
        mask[layout.row, layout.column, :total] = self.sees[owner, parent]
        mask[:, np.arange(columns), total + np.arange(columns)] = True  # padding sees itself: no empty softmax row
        chain_grid = np.full((rows, columns), -1, np.int64)
        chain_grid[layout.row, layout.column] = chain
        place_grid = np.zeros((rows, columns), np.int64)
        place_grid[layout.row, layout.column] = place
        own = (chain_grid[:, :, None] == chain_grid[:, None, :]) & (chain_grid[:, :, None] >= 0)
        mask[:, :, total:] |= own & (place_grid[:, None, :] <= place_grid[:, :, None])
        return mask

    def _append(
        self,
        layout: Layout,
        chunks: Chunks,
        where: tuple[np.ndarray, np.ndarray, np.ndarray],
        mask: np.ndarray,
        result: tuple[Tensor, list[tuple[Tensor, Tensor]]],
    ) -> np.ndarray:
        """Keep what was fed: the cache and the tree grow by C columns for every question."""
        owner, parent, place = where
        states, present = result
        batch, total = self.ids.shape
        columns = layout.width
        node = total + layout.column
        row_of = torch.from_numpy(layout.owner)
        whole = len(layout.owner) == batch and np.array_equal(layout.owner, np.arange(batch))
        if whole:
            self.past = present
            new_states = states
        else:
            grown = []
            for (k, v), (new_k, new_v) in zip(self.past, present, strict=True):
                pad = k.new_zeros(batch, k.shape[1], columns, k.shape[3])
                pad_v = torch.zeros_like(pad)
                pad[row_of], pad_v[row_of] = new_k[:, :, total:], new_v[:, :, total:]
                grown.append((torch.cat([k, pad], dim=2), torch.cat([v, pad_v], dim=2)))
            self.past = grown
            new_states = states.new_zeros(batch, columns, states.shape[-1])
            new_states[row_of] = states
        self.states = torch.cat([self.states, new_states], dim=1)
        wider = lambda array, fill: np.concatenate([array, np.full((batch, columns), fill, array.dtype)], axis=1)  # noqa: E731
        self.ids, self.depth, self.parent = wider(self.ids, -1), wider(self.depth, 0), wider(self.parent, -1)
        sees = np.zeros((batch, total + columns, total + columns), bool)
        sees[:, :total, :total] = self.sees
        sees[layout.owner, total:] = mask
        self.sees = sees
        self.ids[owner, node] = chunks.tokens
        self.depth[owner, node] = self.depth[owner, parent] + 1 + place
        above = np.where(place == 0, parent, node - 1)
        self.parent[owner, node] = above
        keys = zip(owner.tolist(), above.tolist(), chunks.tokens.tolist(), strict=True)
        self.children.update(zip(keys, node.tolist(), strict=True))
        return node

    def child(self, owner: int, node: int, token: int) -> int | None:
        """The node of `token` below `node` if it was fed before."""
        return self.children.get((owner, node, token))

    @torch.inference_mode()
    def log_probabilities(
        self, owner: np.ndarray, states: Tensor, wanted_ptr: np.ndarray, wanted: np.ndarray
    ) -> np.ndarray:
        """log p of wanted tokens (ragged, `wanted_ptr` [rows + 1]) after each state ([rows, width]); float64 [m].

        Raises ModelError where the model gives something that is no number.
        """
        row = np.repeat(np.arange(len(owner)), np.diff(wanted_ptr))
        length = self.source_ids.shape[1]
        values = self.model.log_probabilities(
            states,
            self.states[:, :length],
            torch.from_numpy(self.source_ids).to(states.device),
            torch.from_numpy(owner).to(states.device),
            torch.from_numpy(wanted.astype(np.int64)).to(states.device),
            torch.from_numpy(row).to(states.device),
        )
        log_p = values.double().cpu().numpy()
        if not np.isfinite(log_p).all():
            raise ModelError("The model's scores are not numbers: its weights are damaged. Fetch them again, or train.")
        return log_p

    def states_at(self, owner: np.ndarray, node: np.ndarray) -> Tensor:
        """Hidden states of nodes, [rows, width]."""
        return self.states[torch.from_numpy(owner), torch.from_numpy(node)]
