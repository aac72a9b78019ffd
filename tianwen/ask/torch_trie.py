"""The prefix tree as tensors on any device: for decoding that never leaves it, and for `torch.compile`.

Post: 8802.

The same interface and the same numbers of states as `CatalogueTrie` and `FieldedTrie` have (`Constraint`, in
`trie.py`), from gathers and searches over whole batches. Reading a token is 16 small operations for a catalogue and
some 120 for facts, which `torch.compile` fuses, and nothing waits for the host. On a CPU the trees are faster.

Notation: n rows of a state batch, m children of all rows together, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int, Int8, Int64
from torch import Tensor

from tianwen.ask.fielded import FieldedTrie
from tianwen.ask.level_order import LevelOrderTree
from tianwen.ask.torch_facts import FactStates
from tianwen.ask.torch_forest import Device, Forest, Lists, forest_of
from tianwen.ask.trie import CatalogueTrie
from tianwen.errors import InputError

State = Int64[Tensor, " n *parts"]
"""One row a position in the tree, [n] for a catalogue, [n, 2] for facts; dead rows are -1 in every part."""


class TorchTrie:
    """A `CatalogueTrie` or `FieldedTrie` on a device. States are the tree's own, as int64 tensors there.

    Reorder beams by indexing: `state[beam]`. `advance`, `walk`, `is_terminal`, `field`, `rows` and `mask` have shapes
    that do not depend on the data: nothing waits for the device, and `torch.compile` makes one graph of them. `allowed`
    must know how many children there are and waits (once for a catalogue, twice for facts). There is no `completions`.
    """

    def __init__(self, trie: CatalogueTrie | FieldedTrie, device: Device = "cpu") -> None:
        """Copies the tree's arrays, as int32 where their numbers allow it; later changes of a base are not seen.

        Raises InputError for any other constraint, and for a tree whose numbers do not fit 63 bits.
        """
        if isinstance(trie, CatalogueTrie):
            self._states: NodeStates | FactStates = NodeStates(trie.tree, device)
        elif isinstance(trie, FieldedTrie):
            self._states = FactStates(trie.tree, device)
        else:
            raise InputError(
                f"A TorchTrie holds one CatalogueTrie or FieldedTrie, not a {type(trie).__name__}. The snapshot of a "
                "knowledge base that was changed has several; compact() it first."
            )
        self._forest = self._states.forest
        self._widest = max(self._forest.widest, self._states.widest)
        first, count = (int(number) for number in self._forest.span(self.root(1).view(-1)[:1]))
        self._root_token = self._forest.token(torch.arange(first, first + count, device=self.device))

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._forest.edge.device

    @property
    def end_id(self) -> int:
        """The token that closes every sequence (of facts: every field)."""
        return self._forest.end_id

    def root(self, n: int) -> State:
        """`n` rows that have read nothing yet."""
        return self._states.root(n)

    def advance(self, state: State, token: Int[Tensor, " n"]) -> State:
        """Read one token a row; a row whose token is not legal dies, and dead rows stay dead."""
        if len(state) != len(token):
            raise InputError(f"{len(state)} states need as many tokens, not {len(token)}.")
        return self._states.enter(state, self._forest.child(self._states.node(state), token.long()))

    def walk(self, ids: Int[Tensor, " n width"], lengths: Int[Tensor, " n"]) -> State:
        """The states after reading the first `lengths` tokens of each row (all, if there are fewer) from the root."""
        if len(ids) != len(lengths):
            raise InputError(f"{len(ids)} rows of tokens need as many lengths, not {len(lengths)}.")
        state = self.root(len(lengths))
        for k in range(ids.shape[1]):
            reads = (lengths > k).view(-1, *(1,) * (state.ndim - 1))  # [n] or [n, 1]
            state = torch.where(reads, self.advance(state, ids[:, k]), state)
        return state

    def is_terminal(self, state: State) -> Bool[Tensor, " n"]:
        """Whether a complete sequence, END included, has been read."""
        return self._states.is_terminal(state)

    def field(self, state: State) -> Int8[Tensor, " n"]:
        """Number of completed fields of each row, -1 for dead rows."""
        return self._states.field(state)

    def rows(self, state: State) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """The contiguous range lo .. hi - 1 of key rows below each state; empty for dead rows."""
        return self._states.rows(state)

    def allowed(self, state: State) -> tuple[Int64[Tensor, " n+1"], Int64[Tensor, " m"], State]:
        """Legal next tokens of each row and the states they lead to: row_ptr [n + 1], token [m], next [m].

        Tokens are ascending and unique within a row. Waits for the device.
        """
        lists = self._states.lists(state)
        row_ptr = _pointers(lists.length)
        total = int(row_ptr[-1])
        owner = torch.repeat_interleave(lists.length, output_size=total)
        k = torch.arange(total, device=self.device) - row_ptr[owner]
        own = state[owner]
        child = self._states.candidate(own, lists.of(owner), k)
        after = self._states.enter(own, child)
        if self._states.repeats:
            kept = (after[:, 0] >= 0) & ((k == 0) | (child != child.roll(1)))
            place = kept.nonzero()[:, 0]
            row_ptr, child, after = _pointers(kept)[row_ptr], child[place], after[place]
        return row_ptr, self._forest.token(child), after

    def mask(self, state: State, scores: Float[Tensor, " n V"]) -> Float[Tensor, " n V"]:
        """The scores, but -inf wherever the token is not legal; rows without children (dead, complete) are all -inf.

        Raises InputError where the tree has a token beyond the vocabulary.
        """
        rows, vocabulary = scores.shape
        if len(state) != rows:
            raise InputError(f"{len(state)} states need as many rows of scores, not {rows}.")
        if self._forest.greatest >= vocabulary:
            raise InputError(
                f"The tree has token {self._forest.greatest}, but the scores end at {vocabulary - 1}. "
                "Tokenize the entries with the model's own tokenizer."
            )
        lists, own = self._states.lists(state[:, None]), state[:, None]  # [n, 1], [n, 1, *parts]
        k = torch.arange(self._widest, device=self.device)[None]  # [1, widest]
        child = self._states.candidate(own, lists, k)  # [n, widest]
        listed = k < lists.length
        if not self._states.all_lead_on:
            listed &= self._states.enter(own, child)[..., 0] >= 0
        column = torch.where(listed, self._forest.token(child), vocabulary)  # one column more for what is not listed
        allowed = torch.zeros((rows, vocabulary + 1), dtype=torch.bool, device=self.device).scatter_(1, column, True)
        from_root = torch.zeros(vocabulary, dtype=torch.bool, device=self.device).index_fill_(0, self._root_token, True)
        at_root = self._states.node(state) == 0  # by far the widest node, so it is not listed above
        legal = torch.where(at_root[:, None], from_root, allowed[:, :vocabulary])
        return scores.masked_fill(~legal, -math.inf)


class NodeStates:
    """The part of `TorchTrie` that knows what the states of a catalogue mean: nodes of its one tree."""

    repeats = False
    all_lead_on = True
    widest = 0

    def __init__(self, tree: LevelOrderTree, device: Device) -> None:
        self.forest: Forest = forest_of([tree], None, device)

    def root(self, n: int) -> Int64[Tensor, " n"]:
        return torch.zeros(n, dtype=torch.int64, device=self.forest.edge.device)

    def node(self, state: Int64[Tensor, " *shape"]) -> Int64[Tensor, " *shape"]:
        return state

    def enter(self, state: Int64[Tensor, " *shape"], child: Int64[Tensor, " *shape"]) -> Int64[Tensor, " *shape"]:
        return child

    def lists(self, state: Int64[Tensor, " *shape"]) -> Lists:
        return Lists(*self.forest.span(state), by_row=None)

    def candidate(
        self, state: Int64[Tensor, " *shape"], lists: Lists, k: Int64[Tensor, " *shape"]
    ) -> Int64[Tensor, " *shape"]:
        return (lists.first + k).clamp(max=len(self.forest.edge) - 1)

    def field(self, state: Int64[Tensor, " n"]) -> Int8[Tensor, " n"]:
        return torch.where(state < 0, -1, self.is_terminal(state)).to(torch.int8)

    def is_terminal(self, state: Int64[Tensor, " n"]) -> Bool[Tensor, " n"]:
        return self.forest.is_leaf(state)

    def rows(self, state: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        return self.forest.rows(state)


def _pointers(lengths: Int[Tensor, " n"] | Bool[Tensor, " n"]) -> Int64[Tensor, " n+1"]:
    """Where each of the ragged rows begins, and where the last one ends."""
    return torch.cat([lengths.new_zeros(1, dtype=torch.int64), lengths.cumsum(0)])
