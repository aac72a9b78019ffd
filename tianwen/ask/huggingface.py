"""Hold any Hugging Face model to a catalogue: a logits processor for `generate`, and what older code wants instead.

Post: 8802. The form of the plug is that of De Cao et al., Autoregressive Entity Retrieval (GENRE), 2021, whose function
is called for every beam at every step; this one is called once a step and works on all rows together.

Notation: B rows (prompts times beams or returned sequences), T tokens of each, V vocabulary, m allowed tokens of all.

What happens in a step: (1) the tokens behind the prompt are read from the root of the tree, or, where each row goes on
from one of the step before, from where that one stood: rows are compared token by token, so beams may be reordered at
will; (2) the tree gives each row's children, END being written as the model's end token; (3) all other scores become
-inf. A row that has ended gets the padding token, a row that stands outside the tree the end token and a warning.
"""

from __future__ import annotations

import math
import operator
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from tianwen.ask.ragged import filling_kernel, pointers
from tianwen.ask.score_buffers import ScoreBuffers
from tianwen.ask.trie import CatalogueTrie, Constraint, RowPointers, State
from tianwen.errors import InputError

NEARBY = 64
"""How many rows before and behind its own place a row's past is looked for; beyond it the row is read from the root."""

LEAST = -1e6
"""Score of what the catalogue allows where all of it was forbidden: above the -1e9 of the fillers of a beam search."""

WIDE = 16
"""Where all rows stand in one place and may take more than 1 / WIDE of the vocabulary, whole rows are written."""


class _Step(NamedTuple):
    """What the rows may take next."""

    row_ptr: RowPointers  # [B + 1], or [2] where all rows may take the same
    token: Int32[np.ndarray, " m"]
    free: Bool[np.ndarray, " B"]  # whether the row takes its only token whatever the model says: it is over


class CatalogueReader:
    """Where each row of generated tokens stands in the catalogue, and which tokens of the model may follow."""

    def __init__(self, constraint: Constraint, *, prompt_len: int, eos_token_id: int | Sequence[int]) -> None:
        """`eos_token_id`: the first one is what END is written as; any of them ends a row."""
        self.constraint = constraint
        self.prompt_len = _at_least(0, prompt_len, "prompt_len")
        ends = list(eos_token_id) if isinstance(eos_token_id, Sequence) else [eos_token_id]
        if not ends:
            raise InputError("eos_token_id is empty; name the token that ends a sequence of your model.")
        self.ends = [_at_least(0, end, "eos_token_id") for end in ends]
        self._read: tuple[np.ndarray, np.ndarray, State] | None = None
        if not len(constraint.allowed(constraint.root(_sources(constraint)))[1]):
            raise InputError("The catalogue is empty, so nothing may be written. Build it from at least one entry.")

    def ended(self, written: Int64[np.ndarray, " B t"]) -> Bool[np.ndarray, " B t"]:
        """Which tokens are end tokens."""
        found = np.equal(written, self.ends[0])
        for end in self.ends[1:]:
            found |= written == end
        return found

    def over(self, written: Int64[np.ndarray, " B t"]) -> Bool[np.ndarray, " B"]:
        """Which rows have an end token."""
        return np.logical_or.reduce(self.ended(written), axis=1)

    def states(self, written: Int64[np.ndarray, " B t"]) -> tuple[State, Bool[np.ndarray, " B"]]:
        """The state of each row and whether it is over; the state of a row that is over means nothing."""
        written = np.ascontiguousarray(written)
        over = self.over(written)
        root = self.constraint.root(len(written))
        state = self._continued(written, root) if written.shape[1] else root
        if state is None:
            state = self.constraint.walk(written, np.where(over, 0, written.shape[1]))
        self._read = np.array(written), root, state
        return state, over

    def _continued(self, written: Int64[np.ndarray, " B t"], root: State) -> State | None:
        """The states by one more token each, if every row continues one of the last call; it need not be the same."""
        if self._read is None or self._read[0].shape[1] != written.shape[1] - 1 or not len(self._read[0]):
            return None
        known, known_root, known_state = self._read
        parent = np.empty(len(written), np.int64)
        flat = lambda state: state.reshape(len(state), -1)  # noqa: E731
        _find_parents(written, flat(root), known, flat(known_root), parent)
        if (parent < 0).any():
            return None
        return self.constraint.advance(known_state[parent], written[:, -1])

    def children(self, state: State, over: Bool[np.ndarray, " B"], pad: int) -> _Step:
        """The model's tokens that each row may take."""
        if len(state) > 1 and not over.any() and (state == state[:1]).all():
            state, over = state[:1], over[:1]  # the first step of every search: one list serves all rows
        state = np.where(over.reshape(-1, *[1] * (state.ndim - 1)), -1, state) if over.any() else state
        row_ptr, token, after = self.constraint.allowed(state)
        token = self._as_the_model_writes(token, after)
        stuck = np.diff(row_ptr) == 0
        if stuck.any():
            self._warn_of_strangers(state[stuck & ~over])
            token = np.insert(token, row_ptr[:-1][stuck], np.where(over, pad, self.ends[0])[stuck])
            row_ptr = row_ptr + pointers(stuck)
        return _Step(row_ptr, token, stuck)

    def _as_the_model_writes(self, token: Int32[np.ndarray, " m"], after: State) -> Int32[np.ndarray, " m"]:
        """The END that completes an entry becomes the model's end token, which nothing else may be."""
        closing = np.flatnonzero(token == self.constraint.end_id)
        closing = closing[self.constraint.is_terminal(after[closing])]
        ends = self.ended(token)
        ends[closing] = False
        if ends.any():
            raise InputError(
                f"The catalogue continues with token {int(token[ends][0])}, which ends the model's output, so entries "
                "would be cut there. Tokenize the entries without it, or generate with another eos_token_id."
            )
        if self.ends[0] == self.constraint.end_id or not len(closing):
            return token
        renamed = token.copy()
        renamed[closing] = self.ends[0]
        return renamed

    def _warn_of_strangers(self, state: State) -> None:
        strangers = int(np.logical_and.reduce(state < 0, axis=tuple(range(1, state.ndim))).sum())
        if strangers:
            warnings.warn(
                f"{strangers} rows have left the catalogue and are ended. Is prompt_len ({self.prompt_len}) the width "
                "of the padded prompt (for an encoder-decoder model: the number of its start tokens, mostly 1)? "
                "If so, more beams were asked for than there are continuations, and these rows are fillers.",
                stacklevel=4,
            )

    def finished(self, sequences: Int[Tensor, " B T"]) -> State:
        """The terminal state that each sequence ends in, dead (-1) where it is no entry or was cut off."""
        written = np.ascontiguousarray(_on_cpu(sequences)[:, self.prompt_len :])
        ended = self.ended(written)
        length = ended.argmax(axis=1) if written.shape[1] else np.zeros(len(written), np.int64)
        state = self.constraint.walk(written, np.where(ended.any(axis=1), length, 0))
        state = self.constraint.advance(state, np.full(len(state), self.constraint.end_id))
        state[~(self.constraint.is_terminal(state) & ended.any(axis=1))] = -1
        return state


class CatalogueLogitsProcessor:
    """Lets `generate` write entries of a catalogue and nothing else; pass it in `logits_processor=[...]`.

    It keeps no record of beams, so it serves greedy and beam search, sampling and several returned sequences,
    decoder-only models (with left padding) and encoder-decoder models, any vocabulary and type of scores.
    """

    def __init__(
        self,
        constraint: Constraint,
        *,
        prompt_len: int,
        eos_token_id: int | Sequence[int],
        pad_token_id: int,
        renormalize: bool = False,
    ) -> None:
        """`prompt_len`: tokens before the first generated one, padding included; 1 for most encoder-decoder models.

        With several `eos_token_id` the first closes an entry. `renormalize`: scores become log-probabilities among the
        allowed tokens, as in post 8802. Raises InputError for an empty catalogue or an id below 0.
        """
        self.reader = CatalogueReader(constraint, prompt_len=prompt_len, eos_token_id=eos_token_id)
        self.pad_token_id = _at_least(0, pad_token_id, "pad_token_id")
        self.renormalize = renormalize
        self._buffers, self._lock = ScoreBuffers(), threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_buffers", "_lock")}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept, _buffers=ScoreBuffers(), _lock=threading.Lock())

    @torch.no_grad()
    def __call__(self, input_ids: Int[Tensor, " B T"], scores: Float[Tensor, " B V"]) -> Float[Tensor, " B V"]:
        """Scores of the same shape and type in which every token that the catalogue does not continue with is -inf.

        Raises InputError where the catalogue has a token beyond the vocabulary or goes on behind the end token.
        """
        if input_ids.shape[1] < self.reader.prompt_len:
            return scores  # start tokens that `generate` forces
        with self._lock:
            written = _on_cpu(input_ids)[:, self.reader.prompt_len :]
            step = self.reader.children(*self.reader.states(written), self.pad_token_id)
            if len(step.token) and int(step.token.max()) >= scores.shape[1]:
                raise InputError(
                    f"The catalogue has token {int(step.token.max())}, but the model's vocabulary ends at "
                    f"{scores.shape[1] - 1}. Tokenize the entries with the model's own tokenizer."
                )
            return self._only_allowed(scores, step)

    def finished(self, sequences: Int[Tensor, " B T"]) -> State:
        """Where each sequence that `generate` returned ends: the state behind its entry, -1 where it is no entry.

        A sequence is none if it was cut off by `max_new_tokens`, or if it is one of the fillers that `generate` returns
        when more beams are asked for than there are entries; a filler may also repeat an entry.
        `constraint.rows(state)` gives the key row, and `Snapshot.facts` the facts of a state of a knowledge base.
        """
        return self.reader.finished(sequences)

    def _only_allowed(self, scores: Float[Tensor, " B V"], step: _Step) -> Float[Tensor, " B V"]:
        rows, vocabulary = scores.shape
        shared = len(step.row_ptr) == 2 and rows > 1
        if shared and not self.renormalize and len(step.token) * WIDE > vocabulary and not step.free.any():
            bias = torch.full((vocabulary,), -math.inf, dtype=scores.dtype)
            bias[torch.from_numpy(step.token.astype(np.int64))] = 0
            masked = self._buffers.plus(scores, bias.to(scores.device))
            if not torch.isneginf(masked.amax(dim=1)).any():
                return masked
        counts = np.full(rows, len(step.token)) if shared else np.diff(step.row_ptr)
        token = np.tile(step.token, rows) if shared else step.token
        row = torch.from_numpy(np.repeat(np.arange(rows), counts)).to(scores.device)  # [m]
        index = torch.from_numpy(token.astype(np.int64)).to(scores.device) + row * vocabulary  # [m]
        values = scores.reshape(-1).index_select(0, index)  # [m]
        if step.free.any():
            free = torch.from_numpy(np.broadcast_to(step.free, rows).copy()).to(scores.device)
            values = torch.where(free[row], torch.zeros_like(values), values)
        values = _possible(values, row, rows)
        if self.renormalize:
            values = _log_softmax(values, row, rows)
        return self._buffers.only(scores, index, values)


def as_prefix_allowed_tokens_fn(
    constraint: Constraint, *, prompt_len: int, eos_token_id: int | Sequence[int], pad_token_id: int | None = None
) -> Callable[[int, Tensor], list[int]]:
    """The catalogue as the function that `generate(prefix_allowed_tokens_fn=...)` calls for every row at every step.

    For code that takes nothing else: the processor gives the same tokens some hundred times faster. A row that has
    ended may take the padding token (without one: the end token).
    """
    reader = CatalogueReader(constraint, prompt_len=prompt_len, eos_token_id=eos_token_id)
    pad = reader.ends[0] if pad_token_id is None else _at_least(0, pad_token_id, "pad_token_id")
    sources = _sources(constraint)

    def allowed(batch_id: int, input_ids: Tensor) -> list[int]:
        written = _on_cpu(input_ids)[None, prompt_len:]  # [1, t]
        over = reader.over(written)
        state = constraint.root(sources)[batch_id % sources][None]
        for token in written.T if not over[0] else []:
            state = constraint.advance(state, token)
        return reader.children(state, over, pad).token.tolist()

    return allowed


def tokenized_catalogue(
    entries: Sequence[str], tokenizer: Any, *, eos_token_id: int | None = None, prefix: str = ""
) -> tuple[CatalogueTrie, Int64[np.ndarray, " entries"]]:
    """The tree over texts as a Hugging Face tokenizer cuts them, and the key row of each text.

    `prefix` is put before each text: " " for vocabularies in which the first word of an answer begins with a space.
    Texts with equal tokens are one key. END is `eos_token_id`, or the tokenizer's. Raises InputError for no entry, an
    entry without tokens, or one that contains the end token.
    """
    if isinstance(entries, str) or not len(entries):
        raise InputError("A catalogue is a list of at least one text.")
    end = tokenizer.eos_token_id if eos_token_id is None else eos_token_id
    if end is None:
        raise InputError("The tokenizer has no end token; name the one that your model ends its output with.")
    texts = [prefix + entry for entry in entries]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for text, tokens in zip(entries, ids, strict=True):
        if not tokens or end in tokens:
            what = f"contains the end token ({end})" if tokens else "has no tokens"
            raise InputError(f"The entry {text!r} {what}. Leave it out, or write it in another way.")
    flat = np.fromiter((token for tokens in ids for token in tokens), np.int64)
    return CatalogueTrie.build(pointers(np.array([len(tokens) for tokens in ids])), flat, end_id=end)


def _possible(values: Float[Tensor, " m"], row: Int64[Tensor, " m"], rows: int) -> Float[Tensor, " m"]:
    """The values; where a row has nothing but -inf, because something before us forbade it all, `LEAST` instead.

    Such a row stays in the catalogue, last of all.
    """
    if not torch.isneginf(values).any():
        return values
    top = torch.full((rows,), -math.inf, dtype=values.dtype, device=values.device)
    top = top.scatter_reduce(0, row, values, "amax")
    floor = torch.full_like(values, max(LEAST, torch.finfo(values.dtype).min / 64))
    return torch.where(torch.isneginf(top)[row], floor, values)


def _log_softmax(values: Float[Tensor, " m"], row: Int64[Tensor, " m"], rows: int) -> Float[Tensor, " m"]:
    """Log-probabilities among the allowed tokens of each row."""
    wide = values.float() if values.dtype != torch.float64 else values
    top = wide.new_full((rows,), -math.inf).scatter_reduce(0, row, wide, "amax")
    shifted = wide - top[row]
    total = wide.new_zeros(rows).index_add(0, row, shifted.exp())
    return (shifted - total.log()[row]).to(values.dtype)


def _on_cpu(ids: Int[Tensor, " *shape"]) -> Int64[np.ndarray, " *shape"]:
    return ids.detach().to("cpu", torch.int64).numpy()


def _sources(constraint: Constraint) -> int:
    """How many different roots the rows begin at: one, but for constraints that have a catalogue a prompt."""
    return int(getattr(constraint, "sources", 1))


def _at_least(least: int, value: int, name: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return operator.index(value)


@filling_kernel
def _find_parents(ids, root, known, known_root, parent):
    """The row of `known` that each row of `ids` is without its last token, with the same root; -1 if none is near."""
    for i in range(len(ids)):
        parent[i] = -1
        for step in range(2 * NEARBY + 1):
            offset = (step + 1) // 2 if step % 2 else -(step // 2)
            j = i + offset
            if j < 0 or j >= len(known):
                continue
            same = True
            for part in range(root.shape[1]):
                same = same and root[i, part] == known_root[j, part]
            k = known.shape[1] - 1
            while same and k >= 0:
                same = ids[i, k] == known[j, k]
                k -= 1
            if same:
                parent[i] = j
                break
