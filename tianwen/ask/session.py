"""Decoding over a growing tree of tokens: one cache a question, shared by all its beams and candidates.

A beam search usually copies the cache of a beam whenever beams part. Here nothing is copied: every token fed is a node
of its question's tree, attention is masked to a node's ancestors, and a hypothesis is just a node. What a recurrent
model remembers is a state at every node (tree_states.py).

Post: 8802. Idea of the mask: the UniLM mask (8998) with "its own past" read as "its ancestors in the tree".

Notation
    B  questions       T  nodes of the largest tree (source included)      R  rows of one call      C  tokens of a row
    n  tokens of a call, laid end to end: only attention is padded (tree_cache.py)
    ids, parent, depth  [B, T]; sees [B, T, T] (node i may look at node j); states [B, T, width]
    The arrays have room for more than T columns; a question's nodes are the first `count` [B] of its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tianwen.ask.seq2seq import AskModel
from tianwen.ask.tree_cache import Call, Places, TreeCache
from tianwen.ask.tree_states import TreeStates
from tianwen.backbone.mixers import ShellConfig
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


def _stacked_tensors(upper: Tensor, lower: Tensor) -> Tensor:
    """Two batches [B, T, width] one above the other, the shorter one padded with zeros."""
    whole = upper.new_zeros(len(upper) + len(lower), max(upper.shape[1], lower.shape[1]), upper.shape[2])
    whole[: len(upper), : upper.shape[1]], whole[len(upper) :, : lower.shape[1]] = upper, lower
    return whole


def new_memory(model: AskModel, batch: int) -> TreeCache | TreeStates:
    """What the model's kind of backbone remembers of nodes: keys and values, or states."""
    shape = model.config.backbone
    return TreeStates(batch) if isinstance(shape, ShellConfig) else TreeCache(shape.layers, batch)


class TreeSession:
    """The questions of a batch and every token fed below them.

    `calls` [B] counts the model calls that each question took part in, `fed` the tokens.
    """

    def __init__(
        self, model: AskModel, questions: Sequence[np.ndarray], *, prefixes: Sequence[np.ndarray] | None = None
    ) -> None:
        """Encode the questions; where the start of a target is known (`prefixes`), in the same call."""
        self.model = model
        batch = len(questions)
        self.calls = np.ones(batch, np.int64)
        self.fed = 0
        self.children: dict[tuple[int, int, int], int] = {}
        self.source_length = np.array([len(q) for q in questions], np.int64)
        self.source_ids = np.full((batch, int(self.source_length.max(initial=1))), -1, np.int64)
        for row, question in enumerate(questions):
            self.source_ids[row, : len(question)] = question
        self.count = np.zeros(batch, np.int64)
        self.ids = np.full((batch, 0), -1, np.int64)
        self.depth, self.parent = np.zeros((batch, 0), np.int64), np.full((batch, 0), -1, np.int64)
        self.sees = np.zeros((batch, 0, 0), bool)
        weight = next(model.parameters())
        self.states = weight.new_zeros(batch, 0, model.config.backbone.width)
        self.cache: TreeCache | TreeStates = new_memory(model, batch)
        self._encode(questions, prefixes if prefixes is not None else [np.zeros(0, np.int64)] * batch)

    @torch.inference_mode()
    def _encode(self, questions: Sequence[np.ndarray], prefixes: Sequence[np.ndarray]) -> None:
        """One call: each source sees itself; a prefix sees its source and its own past."""
        targets = np.array([len(prefix) for prefix in prefixes], np.int64)
        lengths = self.source_length + targets
        row = np.repeat(np.arange(len(questions)), lengths)
        column = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        parts = [part for pair in zip(questions, prefixes, strict=True) for part in pair]
        ids = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        size = int(lengths.max(initial=0))
        self._reserve(size)
        self.ids[row, column], self.depth[row, column], self.parent[row, column] = ids, column, column - 1
        source, at = self.source_length[row][:, None], np.arange(size)[None]
        sees = (at < source) | ((at <= column[:, None]) & (column[:, None] >= source))  # [n, T]
        self.sees[row, column, :size] = sees
        self.count = lengths
        before = np.stack(
            [np.where(column >= k, self.ids[row, np.maximum(column - k, 0)], -1) for k in (1, 2)], axis=-1
        )
        places = self._places(Layout(row, column, np.arange(len(questions)), size))
        segments, none = (column >= source[:, 0]).astype(np.int64), np.full_like(column, -1)
        hangs = {"parent": none, "place": column, "sees": sees, "keep": column}
        states = self._call(ids, before, segments, column, places=places, size=size, **hangs)
        self.states[places.row, places.column] = states
        self.tips = lengths - 1
        self.fed += len(ids)
        self.copy_keys = self.model.copy_key(self.states[:, : self.source_ids.shape[1]])  # [B, source, copy]

    def _reserve(self, size: int) -> None:
        """Room for `size` nodes a question."""
        have = self.ids.shape[1]
        if size <= have:
            return
        more = max(32, 2 ** (size - 1).bit_length()) - have
        wider = lambda array, fill: np.pad(array, ((0, 0), (0, more)), constant_values=fill)  # noqa: E731
        self.ids, self.depth, self.parent = wider(self.ids, -1), wider(self.depth, 0), wider(self.parent, -1)
        self.sees = np.pad(self.sees, ((0, 0), (0, more), (0, more)))
        grown = self.states.new_zeros(len(self.ids), have + more, self.states.shape[-1])
        grown[:, :have] = self.states
        self.states = grown

    def joined(self, other: TreeSession) -> TreeSession:
        """Both sessions' questions as one batch, these first; neither is changed. For scoring in one call."""
        union = object.__new__(TreeSession)
        union.model, union.fed, union.children = self.model, 0, {}
        for name in ("calls", "source_length", "count", "tips"):
            setattr(union, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        for name, fill in (("source_ids", -1), ("ids", -1), ("depth", 0), ("parent", -1), ("sees", False)):
            setattr(union, name, _stacked(getattr(self, name), getattr(other, name), fill))
        union.states = _stacked_tensors(self.states, other.states)
        union.copy_keys = _stacked_tensors(self.copy_keys, other.copy_keys)
        sizes = int(self.count.max(initial=0)), int(other.count.max(initial=0))
        union.cache = self.cache.stacked(other.cache, sizes)  # pyright: ignore[reportArgumentType]  # one model, one kind
        return union

    def _places(self, layout: Layout) -> Places:
        device = self.states.device
        row, column, owner = (torch.from_numpy(a).to(device) for a in (layout.row, layout.column, layout.owner))
        return Places(row, column, owner, layout.width)

    def _call(
        self, ids: np.ndarray, before: np.ndarray, segments: np.ndarray, positions: np.ndarray, **hangs: Any
    ) -> Tensor:
        """Hidden states of n tokens laid end to end, [n, width]."""
        onto = lambda array: torch.from_numpy(np.require(array, np.int64, ["C", "W"])).to(self.states.device)  # noqa: E731
        return self.cache.run(self.model, Call(onto(ids), onto(before), onto(segments), onto(positions), **hangs))

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
        chain = np.repeat(np.arange(len(chunks.owner)), np.diff(chunks.row_ptr))
        place = np.arange(len(chunks.tokens)) - chunks.row_ptr[chain]
        owner, parent = chunks.owner[chain], chunks.parent[chain]
        node = self.count[owner] + layout.column if keep else None
        size = int(self.count.max(initial=0)) if node is None else int(max(self.count.max(), node.max(initial=-1) + 1))
        self._reserve(size)
        sees = self._seen(owner, parent, place, node, layout.column, layout.width, size)
        depth = self.depth[owner, parent] + 1 + place
        before = self._before(chunks, owner, parent, place)
        hangs = {"parent": parent, "place": place, "sees": sees, "keep": node}
        segments, places = np.ones_like(owner), self._places(layout)
        states = self._call(chunks.tokens, before, segments, depth, places=places, size=size, **hangs)
        self.fed += len(chunks.tokens)
        self.calls[np.unique(chunks.owner)] += 1
        if node is None:
            return np.full(len(owner), -1, np.int64), states
        above = np.where(place == 0, parent, node - 1)
        self.ids[owner, node], self.depth[owner, node], self.parent[owner, node] = chunks.tokens, depth, above
        self.sees[owner, node, :size] = sees
        self.states[torch.from_numpy(owner), torch.from_numpy(node)] = states
        self.count += np.bincount(owner, minlength=len(self.count))
        keys = zip(owner.tolist(), above.tolist(), chunks.tokens.tolist(), strict=True)
        self.children.update(zip(keys, node.tolist(), strict=True))
        return node, states

    def _seen(
        self,
        owner: np.ndarray,
        parent: np.ndarray,
        place: np.ndarray,
        node: np.ndarray | None,
        column: np.ndarray,
        columns: int,
        size: int,
    ) -> np.ndarray:
        """What each new token looks at: its parent's ancestors and its own chain so far, bool [n, T] or [n, T + C]."""
        above = self.sees[owner, parent, :size]  # [n, T]
        if node is not None:
            at = np.arange(size)
            return above | ((at > (node - place - 1)[:, None]) & (at <= node[:, None]))
        at = np.arange(columns)
        return np.concatenate([above, (at >= (column - place)[:, None]) & (at <= column[:, None])], axis=1)

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
        values = self.model.log_probabilities(
            states,
            self.copy_keys,
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
