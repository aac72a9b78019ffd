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
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from tianwen.ask.fielded import FieldedTrie
from tianwen.ask.held_scores import NEARBY, HeldScores
from tianwen.ask.ragged import filling_kernel, pointers
from tianwen.ask.score_buffers import ScoreBuffers
from tianwen.ask.segment_table import SegmentTable, as_fact_tree
from tianwen.ask.segmented import SegmentedTrie
from tianwen.ask.trie import CatalogueTrie, Constraint, RowPointers, State
from tianwen.errors import InputError

NEVER = np.empty(0, np.bool_)
"""Instead of which children complete an entry: every END does."""


class Step(NamedTuple):
    """What the rows may take next; one list for all of them if `row_ptr` has two entries."""

    row_ptr: RowPointers  # [B + 1] or [2]
    token: Int32[np.ndarray, " m"]
    free: Bool[np.ndarray, " B"]  # whether the row takes its only token whatever the model says: it is over


class _Known(NamedTuple):
    """The last step: what was written before it, and the children that each row was offered."""

    written: Int64[np.ndarray, " B t"]
    row_ptr: RowPointers
    token: Int32[np.ndarray, " m"]  # as the catalogue has them
    after: State


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
        self._end_ids = np.array(self.ends, np.int64)
        self.sources = int(getattr(constraint, "sources", 1))  # roots: one, or for some constraints one a prompt
        self._ends_once = isinstance(constraint, CatalogueTrie)
        self._known: _Known | None = None
        if not len(constraint.allowed(constraint.root(self.sources))[1]):
            raise InputError("The catalogue is empty, so nothing may be written. Build it from at least one entry.")

    def step(self, written: Int64[np.ndarray, " B t"], pad: int) -> Step:
        """The model's tokens that each row may take behind what was written."""
        written = np.array(written, order="C")  # to be kept: what is given may be written on
        if written.shape[1] == 0 and self.sources == 1:  # where every search begins: one list serves all rows
            state, over = self.constraint.root(1), np.zeros(1, np.bool_)
        else:
            state, over = self._states(written)
        children = self.constraint.allowed(state)
        self._known = _Known(written, *children)
        return self.offered(state, over, children, pad)

    def _states(self, written: Int64[np.ndarray, " B t"]) -> tuple[State, Bool[np.ndarray, " B"]]:
        """The state of each row and whether it is over (its state then is dead)."""
        rows, length = written.shape
        over, known = np.empty(rows, np.bool_), self._known
        if known is None or known.written.shape[1] != length - 1:
            known = _Known(written[:0], np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.int64))
        state = np.empty((rows, *known.after.shape[1:]), np.int64)
        lists = known.row_ptr, known.token, _table(known.after)
        if not _follow(written, self._end_ids, (self.sources, known.written), lists, (_table(state), over)):
            state = self.constraint.walk(written, np.where(over, 0, length))
            state[over] = -1
        return state, over

    def ended(self, written: Int64[np.ndarray, " B t"]) -> Bool[np.ndarray, " B t"]:
        """Which tokens are end tokens."""
        found = np.equal(written, self.ends[0])
        for end in self.ends[1:]:
            found |= written == end
        return found

    def offered(
        self,
        state: State,
        over: Bool[np.ndarray, " B"],
        children: tuple[RowPointers, Int32[np.ndarray, " m"], State],
        pad: int,
    ) -> Step:
        """The children of each state as the model writes them, and one token for rows without any.

        The END that completes an entry becomes the model's end token, which nothing else may be.
        """
        row_ptr, token, after = children
        shown = np.empty(len(row_ptr), np.int64), np.empty(len(token) + len(over), np.int32)
        free = np.empty(len(over), np.bool_)
        marks = np.array([self.constraint.end_id, pad], np.int64), self._end_ids
        listed = row_ptr, token, NEVER if self._ends_once else self.constraint.is_terminal(after)
        foreign = _show(listed, over, marks, shown, free)
        if foreign >= 0:
            raise InputError(
                f"The catalogue continues with token {foreign}, which ends the model's output, so entries would be "
                "cut there. Tokenize the entries without it, or generate with another eos_token_id."
            )
        count = int(shown[0][-1])
        if count > len(token):
            outside = state[free & ~over]
            self.warn_of_strangers(int(np.logical_and.reduce(outside < 0, axis=tuple(range(1, state.ndim))).sum()))
        return Step(shown[0], shown[1][:count], free)

    def warn_of_strangers(self, strangers: int) -> None:
        """Say that rows have left the catalogue, if any have."""
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
        self._prepare()

    def _prepare(self) -> None:
        """What a copy in another process has to make anew."""
        self._buffers, self._lock, self._held = ScoreBuffers(), threading.Lock(), None
        constraint = self.reader.constraint
        segments = _segments(constraint)
        if segments is not None:
            at_root = constraint.allowed(constraint.root(1))[1]
            marks = self.reader.prompt_len, self.pad_token_id, self.reader.ends
            self._held = HeldScores(segments, at_root, self._buffers, marks=marks)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_buffers", "_lock", "_held")}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self._prepare()

    def __call__(self, input_ids: Int[Tensor, " B T"], scores: Float[Tensor, " B V"]) -> Float[Tensor, " B V"]:
        """Scores of the same shape and type in which every token that the catalogue does not continue with is -inf.

        Raises InputError where the catalogue has a token beyond the vocabulary or goes on behind the end token.
        """
        if input_ids.shape[1] < self.reader.prompt_len:
            return scores  # start tokens that `generate` forces
        with self._lock:
            if self._held is not None and not self.renormalize:
                held, strangers = self._held.step(input_ids, scores)
                if strangers:
                    self.reader.warn_of_strangers(strangers)
                if held is not None:
                    return held
            step = self.reader.step(_on_cpu(input_ids)[:, self.reader.prompt_len :], self.pad_token_id)
            try:
                return self._buffers.only(scores, *step, renormalize=self.renormalize)
            except IndexError:
                raise InputError(
                    f"The catalogue (or eos_token_id, pad_token_id) has token {int(step.token.max())}, but the model's "
                    f"vocabulary ends at {scores.shape[1] - 1}. Tokenize the entries with the model's own tokenizer."
                ) from None

    def finished(self, sequences: Int[Tensor, " B T"]) -> State:
        """Where each sequence that `generate` returned ends: the state behind its entry, -1 where it is no entry.

        A sequence is none if it was cut off by `max_new_tokens`, or if it is one of the fillers that `generate` returns
        when more beams are asked for than there are entries; a filler may also repeat an entry.
        `constraint.rows(state)` gives the key row, and `Snapshot.facts` the facts of a state of a knowledge base.
        """
        return self.reader.finished(sequences)


def as_prefix_allowed_tokens_fn(
    constraint: Constraint, *, prompt_len: int, eos_token_id: int | Sequence[int], pad_token_id: int | None = None
) -> Callable[[int, Tensor], list[int]]:
    """The catalogue as the function that `generate(prefix_allowed_tokens_fn=...)` calls for every row at every step.

    For code that takes nothing else: the processor gives the same tokens some hundred times faster. A row that has
    ended may take the padding token (without one: the end token).
    """
    reader = CatalogueReader(constraint, prompt_len=prompt_len, eos_token_id=eos_token_id)
    pad = reader.ends[0] if pad_token_id is None else _at_least(0, pad_token_id, "pad_token_id")

    def allowed(batch_id: int, input_ids: Tensor) -> list[int]:
        written = _on_cpu(input_ids)[None, prompt_len:]  # [1, t]
        over = np.logical_or.reduce(reader.ended(written), axis=1)
        state = constraint.root(reader.sources)[batch_id % reader.sources][None]
        for token in written.T:
            state = constraint.advance(state, token)
        state[over] = -1
        return reader.offered(state, over, constraint.allowed(state), pad).token.tolist()

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


def _segments(constraint: Constraint) -> SegmentTable | None:
    """The trees of a constraint that consists of trees of one kind."""
    if isinstance(constraint, CatalogueTrie | FieldedTrie):
        return SegmentTable([as_fact_tree(constraint.tree)])
    if isinstance(constraint, SegmentedTrie):
        segments = constraint.segments
        return segments if segments.are_catalogues or segments.are_facts else None
    return None


def _table(state: State) -> Int64[np.ndarray, " n parts"]:
    """The same states, their parts as columns."""
    return state.reshape(len(state), math.prod(state.shape[1:]))


def _on_cpu(ids: Int[Tensor, " *shape"]) -> Int64[np.ndarray, " *shape"]:
    return (ids if ids.is_cpu else ids.cpu()).numpy().astype(np.int64, copy=False)


def _at_least(least: int, value: int, name: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return operator.index(value)


@filling_kernel
def _follow(ids, ends, origin, children, found):
    """The state of each row out of the children of the step before, and whether it is over; False if some row is new.

    The row that it goes on from is found by comparing. Rows of different roots (`sources` equal shares of all rows) are
    never taken for each other. A row that is over or has left the catalogue is dead: -1.
    """
    sources, known = origin
    row_ptr, token, after = children
    state, over = found
    last, all_known = ids.shape[1] - 1, True
    for i in range(len(ids)):
        over[i] = False
        for part in range(state.shape[1]):
            state[i, part] = -1
        for k in range(last + 1):
            for end in ends:
                over[i] = over[i] or ids[i, k] == end
        if over[i]:
            continue
        parent = np.int64(-1)
        for step in range(2 * NEARBY + 1):
            j = i + (step + 1) // 2 if step % 2 else i - step // 2
            if j < 0 or j >= len(known) or j * sources // len(known) != i * sources // len(ids):
                continue
            k = last - 1
            while k >= 0 and ids[i, k] == known[j, k]:
                k -= 1
            if k < 0:
                parent = j
                break
        if parent < 0:
            all_known = False
            continue
        row = parent if len(row_ptr) == len(known) + 1 else 0
        low, high = row_ptr[row], row_ptr[row + 1]
        while low < high:
            middle = (low + high) >> 1
            if token[middle] < ids[i, last]:
                low = middle + 1
            else:
                high = middle
        if low < row_ptr[row + 1] and token[low] == ids[i, last]:
            for part in range(state.shape[1]):
                state[i, part] = after[low, part]
    return all_known


@filling_kernel
def _show(listed, over, marks, shown, free):
    """Lists as the model writes them, a single token where there is none; an end token inside an entry, or -1."""
    row_ptr, token, terminal = listed
    (end_id, pad), ends = marks[0], marks[1]
    shown_ptr, shown_token = shown
    shown_ptr[0] = 0
    for i in range(len(over)):
        at = shown_ptr[i]
        for k in range(row_ptr[i], row_ptr[i + 1]):
            shown_token[at] = token[k]
            if token[k] == end_id and (len(terminal) == 0 or terminal[k]):
                shown_token[at] = ends[0]
            else:
                for end in ends:
                    if token[k] == end:
                        return np.int64(token[k])
            at += 1
        free[i] = row_ptr[i] == row_ptr[i + 1]
        if free[i]:
            shown_token[at] = pad if over[i] else ends[0]
            at += 1
        shown_ptr[i + 1] = at
    return np.int64(-1)
