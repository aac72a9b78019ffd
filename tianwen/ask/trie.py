"""A prefix tree over any catalogue of token sequences: flat arrays in level order, asked for many rows at once.

Post: 8802.

`Constraint` is the one interface that beam search, lookahead and adapters use; `CatalogueTrie` is its general implementation.
Nodes are numbered level by level, siblings side by side in token order, so an edge's position is its child's number:

    token        [N]      token on the edge into each node (2 bytes, 4 for large vocabularies); a node entered by END is a leaf
    first_child  [N + 1]  children of node i are first_child[i] .. first_child[i + 1] - 1 (4 bytes, 8 beyond 2^32 nodes)
    leaf_rank    [N / 64] number of leaves before every 64th node
    leaf_row     [u]      key row (rank in key order) of each leaf, leaves in node order
    N nodes, u distinct keys, n rows of a state batch, m children or completions of all rows together
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Int, Int8, Int32, Int64, Integer

from tianwen.ask import level_order
from tianwen.ask.ragged import SortedRows, pointers, sort_rows, token_dtype
from tianwen.errors import InputError, KnowledgeBaseDamaged

State = Int64[np.ndarray, " n *parts"]
"""One row a position in the tree, [n] or [n, parts]; dead rows are -1 in every part. Index and concatenate along axis 0 only."""

RowPointers = Int64[np.ndarray, " n+1"]


class Completions(NamedTuple):
    """Every entry below each of n states, in key order within a state."""

    owner_ptr: Int64[np.ndarray, " n+1"]  # completions of state i are owner_ptr[i] .. owner_ptr[i + 1] - 1
    terminal: State  # [m] the state at the end of each completion
    token_ptr: Int64[np.ndarray, " m+1"]
    tokens: Int32[np.ndarray, " t"]  # what follows below the state, END included
    cut: Bool[np.ndarray, " n"]  # whether the limit left entries of this state out


class Constraint(Protocol):
    """What may follow: a set of token sequences as an automaton over batches of states."""

    @property
    def end_id(self) -> int:
        """The token that closes every sequence; it is a child like any other."""
        ...

    def root(self, n: int) -> State:
        """`n` rows that have read nothing yet."""
        ...

    def allowed(self, state: State) -> tuple[RowPointers, Int32[np.ndarray, " m"], State]:
        """Legal next tokens of each row, ascending and unique, and the states they lead to: row_ptr [n + 1], token [m], next [m]."""
        ...

    def advance(self, state: State, token: Integer[np.ndarray, " n"]) -> State:
        """Read one token a row; a row whose token is not legal dies, and dead rows stay dead."""
        ...

    def is_terminal(self, state: State) -> Bool[np.ndarray, " n"]:
        """Whether a complete sequence, END included, has been read."""
        ...

    def rows(self, state: State) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """The contiguous range lo .. hi - 1 of key rows below each state; empty for dead rows."""
        ...

    def walk(self, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        """The states after reading the first `lengths` tokens of each row from the root."""
        ...

    def field(self, state: State) -> Int8[np.ndarray, " n"]:
        """Number of completed fields of each row, -1 for dead rows."""
        ...

    def completions(self, state: State, *, limit: int) -> Completions:
        """Every entry below each state, the first `limit` of each in key order."""
        ...


class CatalogueTrie:
    """The general prefix tree: sequences of any length, prefixes of each other, duplicates merged. A state is a node number, [n]."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        """`arrays` as `build` or `load_arrays` give them; they are never written to."""
        self.token, self.first_child = arrays["token"], arrays["first_child"]
        self.leaf_rank, self.leaf_row = arrays["leaf_rank"], arrays["leaf_row"]
        self.end_id = int(arrays["end_id"][0])
        self.arrays = arrays

    @classmethod
    def build(
        cls, row_ptr: Int[np.ndarray, " n+1"], tokens: Int[np.ndarray, " t"], *, end_id: int
    ) -> tuple[CatalogueTrie, Int64[np.ndarray, " n"]]:
        """The tree over the sequences tokens[row_ptr[i]:row_ptr[i + 1]], given without END, and the key row of each of them.

        Raises InputError when a token is negative, 2^32 or more, or equal to `end_id`.
        """
        keys = sort_rows(row_ptr, tokens, end_id=end_id)
        return cls.from_sorted(keys, end_id=end_id), keys.rank

    @classmethod
    def from_sorted(cls, keys: SortedRows, *, end_id: int) -> CatalogueTrie:
        """The tree over sequences that are already sorted, closed and distinct."""
        level_ptr, leaf_ptr = level_order.count_levels(keys.row_ptr, keys.first, keys.shared)
        nodes = int(level_ptr[-1])
        token = np.zeros(nodes, token_dtype(max(end_id, int(keys.tokens.max(initial=0)))))
        token[0] = 0 if end_id else 1  # the root's own token is never read, but must not look like a leaf's
        first_child = np.empty(nodes + 1, np.uint32 if nodes < 2**32 else np.uint64)
        leaf_row = np.empty(len(keys.first), np.uint32)
        level_order.fill_levels(
            keys.row_ptr, keys.tokens, keys.first, keys.shared, level_ptr, leaf_ptr, token, first_child, leaf_row
        )
        leaf_rank = pointers(np.add.reduceat(token == end_id, np.arange(0, nodes, 64)))[:-1].astype(np.uint32)
        arrays = {"token": token, "first_child": first_child, "leaf_rank": leaf_rank, "leaf_row": leaf_row}
        return cls(freeze(arrays | {"end_id": np.array([end_id], np.int64)}))

    def __len__(self) -> int:
        """Number of distinct keys."""
        return len(self.leaf_row)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, in memory and (but for the small headers) on disk."""
        return sum(array.nbytes for array in self.arrays.values())

    def save(self, folder: str | Path) -> list[str]:
        """Write the arrays into an existing folder; the file names, to be recorded in its manifest."""
        return save_arrays(folder, self.arrays)

    @classmethod
    def open(cls, folder: str | Path) -> CatalogueTrie:
        """Memory-map a saved tree. Raises KnowledgeBaseDamaged when a file is missing or is no array."""
        return cls(load_arrays(folder, ("token", "first_child", "leaf_rank", "leaf_row", "end_id")))

    def root(self, n: int) -> State:
        return np.zeros(n, np.int64)

    def allowed(self, state: State) -> tuple[RowPointers, Int32[np.ndarray, " m"], State]:
        row_ptr = np.empty(len(state) + 1, np.int64)
        level_order.count_children(self.first_child, state, row_ptr)
        token, after = np.empty(row_ptr[-1], np.int32), np.empty(row_ptr[-1], np.int64)
        level_order.fill_children(self.token, self.first_child, state, row_ptr, token, after)
        return row_ptr, token, after

    def advance(self, state: State, token: Integer[np.ndarray, " n"]) -> State:
        return level_order.advance_nodes(self.token, self.first_child, state, np.asarray(token, np.int64))

    def is_terminal(self, state: State) -> Bool[np.ndarray, " n"]:
        return (state > 0) & (self.token[np.maximum(state, 0)] == self.end_id)

    def rows(self, state: State) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        return level_order.rows_below(self.token, self.first_child, self.leaf_rank, self.leaf_row, self.end_id, state)

    def walk(self, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        ids, lengths = np.ascontiguousarray(ids, np.int64), np.asarray(lengths, np.int64)
        return level_order.walk_nodes(self.token, self.first_child, ids, lengths)

    def field(self, state: State) -> Int8[np.ndarray, " n"]:
        return np.where(state < 0, -1, self.is_terminal(state)).astype(np.int8)

    def completions(
        self, state: State, *, limit: int, live_before: Int64[np.ndarray, " u+1"] | None = None
    ) -> Completions:
        """Every entry below each state; with `live_before` (live keys before each key row) only the live ones."""
        low, high = self.rows(state)
        owner_ptr, cut, live = shares(low, high, limit, live_before)
        leaf, token_ptr = np.empty(owner_ptr[-1], np.int64), np.zeros(owner_ptr[-1] + 1, np.int64)
        tree = (self.token, self.first_child, self.end_id, state, low, live, owner_ptr, leaf, token_ptr)
        level_order.enumerate_below(*tree, np.empty(0, np.int32), False)
        tokens = np.empty(token_ptr[-1], np.int32)
        level_order.enumerate_below(*tree, tokens, True)
        return Completions(owner_ptr, leaf, token_ptr, tokens, cut)


def shares(
    low: Int64[np.ndarray, " n"], high: Int64[np.ndarray, " n"], limit: int, live: Int64[np.ndarray, " u+1"] | None
) -> tuple[RowPointers, Bool[np.ndarray, " n"], Int64[np.ndarray, " any"]]:
    """How many of the rows low .. high - 1 each state lists: owner_ptr, where the limit cuts, and `live` as the kernels take it."""
    if limit < 0:
        raise InputError(f"limit must be at least 0, not {limit}.")
    live = np.empty(0, np.int64) if live is None else np.ascontiguousarray(live, np.int64)
    count = high - low if len(live) == 0 else live[high] - live[low]
    return pointers(np.minimum(count, limit)), count > limit, live


def freeze(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Forbid writing: a built tree is immutable, and looks to the kernels exactly like a memory-mapped one."""
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def save_arrays(folder: str | Path, arrays: dict[str, np.ndarray]) -> list[str]:
    """Write each array as NAME.npy; the file names."""
    for name, array in arrays.items():
        np.save(Path(folder) / f"{name}.npy", array)
    return [f"{name}.npy" for name in arrays]


def load_arrays(folder: str | Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Memory-map NAME.npy for each name, read-only."""
    arrays = {}
    for name in names:
        path = Path(folder) / f"{name}.npy"
        try:
            arrays[name] = np.asarray(np.load(path, mmap_mode="r"))
        except (OSError, ValueError, EOFError) as error:
            raise KnowledgeBaseDamaged(
                f"{path} is missing or damaged ({error}). Restore the folder from a copy or build it again."
            ) from error
    return arrays
