"""A prefix tree over any catalogue of token sequences: flat arrays in level order, asked for many rows at once.

Post: 8802.

`Constraint` is the one interface that beam search, lookahead and adapters use; `CatalogueTrie` is its general
implementation, on the level-order layout.

Notation: n rows of a state batch, m children or completions of all rows together, u distinct keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from jaxtyping import Bool, Int, Int8, Int32, Int64, Integer

from tianwen.ask import level_order
from tianwen.ask.level_order import NONE, Completions, LevelOrderTree
from tianwen.ask.ragged import sort_rows
from tianwen.ask.root_children import RootChildren, own
from tianwen.errors import InputError, KnowledgeBaseDamaged

Tree = TypeVar("Tree", bound=NamedTuple)

State = Int64[np.ndarray, " n *parts"]
"""One row a position in the tree, [n] or [n, parts]; dead rows are -1 in every part. Index along axis 0 only."""

RowPointers = Int64[np.ndarray, " n+1"]


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
        """Legal next tokens of each row and the states they lead to: row_ptr [n + 1], token [m], next [m].

        Tokens are ascending and unique within a row.
        """
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
    """The general prefix tree: sequences of any length, duplicates merged. States are node numbers, [n]."""

    def __init__(self, tree: LevelOrderTree) -> None:
        """`tree` is never written to."""
        self.tree = freeze(tree)
        self._at_root = RootChildren(self._allowed)

    def __reduce__(self) -> tuple[type[CatalogueTrie], tuple[LevelOrderTree]]:
        return CatalogueTrie, (self.tree,)  # frozen anew: arrays come out of a pickle writable

    @classmethod
    def build(
        cls, row_ptr: Int[np.ndarray, " n+1"], tokens: Int[np.ndarray, " t"], *, end_id: int
    ) -> tuple[CatalogueTrie, Int64[np.ndarray, " n"]]:
        """The tree over the sequences tokens[row_ptr[i]:row_ptr[i + 1]], given without END, and the key row of each.

        Raises InputError when a token is negative, 2^32 or more, or equal to `end_id`.
        """
        keys = sort_rows(row_ptr, tokens, end_id=end_id)
        return cls(level_order.build_tree(keys, end_id)), keys.rank

    @property
    def end_id(self) -> int:
        """The token that closes every sequence."""
        return self.tree.end_id

    def __len__(self) -> int:
        """Number of distinct keys."""
        return len(self.tree.leaf_row)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, in memory and (but for the small headers) on disk."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, np.ndarray]:
        """The tree as named arrays."""
        return self.tree._asdict() | {"end_id": np.array([self.end_id], np.int64)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> CatalogueTrie:
        """The tree of arrays named as `arrays` names them."""
        flat = {name: arrays[name] for name in LevelOrderTree._fields if name != "end_id"}
        return cls(LevelOrderTree(**flat, end_id=int(arrays["end_id"][0])))

    def save(self, folder: str | Path) -> list[str]:
        """Write the arrays into an existing folder; the file names, to be recorded in its manifest."""
        return save_arrays(folder, self.arrays())

    @classmethod
    def open(cls, folder: str | Path) -> CatalogueTrie:
        """Memory-map a saved tree. Raises KnowledgeBaseDamaged when a file is missing or is no array."""
        return cls.from_arrays(load_arrays(folder, LevelOrderTree._fields))

    def root(self, n: int) -> State:
        return np.zeros(n, np.int64)

    def allowed(self, state: State) -> tuple[RowPointers, Int32[np.ndarray, " m"], State]:
        return self._allowed(state) if state.any() else self._at_root.of(state)

    def _allowed(self, state: State) -> tuple[RowPointers, Int32[np.ndarray, " m"], State]:
        state = own(state)
        row_ptr = np.empty(len(state) + 1, np.int64)
        level_order.count_children(self.tree, state, row_ptr)
        token, after = np.empty(row_ptr[-1], np.int32), np.empty(row_ptr[-1], np.int64)
        level_order.children(self.tree, state, row_ptr, token, after)
        return row_ptr, token, after

    def advance(self, state: State, token: Integer[np.ndarray, " n"]) -> State:
        return self._read(np.array(state, order="C"), token[:, None], np.ones(len(state), np.int64))

    def walk(self, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        return self._read(self.root(len(lengths)), ids, lengths)

    def _read(self, state: State, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        level_order.read(self.tree, state, *as_reading(state, ids, lengths))
        return state

    def is_terminal(self, state: State) -> Bool[np.ndarray, " n"]:
        ended = np.empty(len(state), np.bool_)
        level_order.at_end(self.tree, own(state), ended)
        return ended

    def rows(self, state: State) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        low, high = np.empty(len(state), np.int64), np.empty(len(state), np.int64)
        level_order.rows_below(self.tree, own(state), low, high)
        return low, high

    def field(self, state: State) -> Int8[np.ndarray, " n"]:
        return np.where(state < 0, -1, self.is_terminal(state)).astype(np.int8)

    def completions(self, state: State, *, limit: int, dead: Int64[np.ndarray, " d"] = NONE) -> Completions:
        """The first `limit` entries below each state, without those whose key rows are in `dead` (ascending)."""
        return level_order.completions(self.tree, own(state), limit, dead)


def as_reading(
    state: State, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " n width"], Int64[np.ndarray, " n"]]:
    """Tokens and lengths as the kernels take them. Raises InputError where they do not fit the states."""
    ids, lengths = np.ascontiguousarray(ids, np.int64), np.ascontiguousarray(lengths, np.int64)
    if not len(state) == len(ids) == len(lengths) or int(lengths.max(initial=0)) > ids.shape[1]:
        raise InputError(
            f"{len(state)} states need as many rows of tokens, each at least as wide as its length; given were "
            f"{len(ids)} rows of {ids.shape[1]} tokens and {len(lengths)} lengths up to {lengths.max(initial=0)}."
        )
    return ids, lengths


def freeze(tree: Tree) -> Tree:
    """The same arrays, read-only: a built tree is immutable, and looks to the kernels like a memory-mapped one."""
    views = {name: array.view() for name, array in tree._asdict().items() if isinstance(array, np.ndarray)}
    for view in views.values():
        view.flags.writeable = False
    return tree._replace(**views)


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
