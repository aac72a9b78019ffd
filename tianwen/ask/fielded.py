"""The prefix tree of facts: a tree of subjects, then each subject's sorted rows of (predicate, sense).

Post: 8802 (keys are S [SEP] P [SEP] M [SEP], in this order).

A key of the tree is tokens(S) END tokens(P) END tokens(M) END. Subjects, predicates and senses are tokenised once
each; a key is then one row, and the keys below a prefix are always a contiguous range of rows.

The layout is drawn in `field_rows.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Int8, Int32, Int64, Integer

from tianwen.ask import field_rows, level_order
from tianwen.ask.field_rows import FactTree
from tianwen.ask.level_order import NONE, Completions, LevelOrderTree
from tianwen.ask.ragged import SortedRows, pointers, slots, sort_rows, split_tokens
from tianwen.ask.root_children import RootChildren, own
from tianwen.ask.trie import CatalogueTrie, RowPointers, State, as_reading, freeze, load_arrays, save_arrays
from tianwen.errors import InputError

FIELDS = 3
SORTABLE_BITS = 63
"""Bits of a fact that one integer can hold for sorting."""

FEW, MANY = 4096, 2**20
"""Children of all rows together that there is room for at once, and that are worth it not to be counted first."""

TEXTS_AT_ONCE = 200_000
"""Names that are tokenised together."""

SUBJECT = "subject_tree_"
"""What the names of the subject tree's files begin with."""

_OWN_ARRAYS = ("subject_ptr", "pair", "name_ptr", "name_token", "name_token_high", "layout")


class BatchTokenizer(Protocol):
    """What the build needs of a tokenizer."""

    @property
    def sep_id(self) -> int: ...

    def ids_batch(self, texts: list[str], /) -> tuple[Any, Any]: ...


class FieldedTrie:
    """The prefix tree over facts (subject, predicate, sense). States are [n, 2]; `field` is 3 when all is read."""

    def __init__(self, tree: FactTree) -> None:
        """`tree` is never written to."""
        self.tree = freeze(tree)
        self._subjects = CatalogueTrie(LevelOrderTree(*self.tree[:7]))
        self._at_root = RootChildren(self._allowed)

    def __reduce__(self) -> tuple[type[FieldedTrie], tuple[FactTree]]:
        return FieldedTrie, (self.tree,)  # frozen anew: arrays come out of a pickle writable

    @classmethod
    def build(
        cls, subjects: Any, predicates: Any, senses: Any, tokenizer: BatchTokenizer
    ) -> tuple[FieldedTrie, Int64[np.ndarray, " facts"]]:
        """The tree over facts in three columns (lists of str, polars Series or Arrow arrays), and each fact's key row.

        Strings with equal tokens are one name; facts with equal names are one key.
        Raises InputError when the columns differ in length.
        """
        columns = (subjects, predicates, senses)
        if len({len(column) for column in columns}) != 1:
            raise InputError(
                "One subject, one predicate and one sense a fact are needed, "
                f"but the columns are {', '.join(str(len(column)) for column in columns)} long."
            )
        names, numbers = zip(*map(distinct_strings, columns), strict=True)
        return cls.of_numbered(names, numbers, tokenizer)

    @classmethod
    def of_numbered(
        cls, texts: Sequence[Sequence[str]], numbers: Sequence[np.ndarray], tokenizer: BatchTokenizer
    ) -> tuple[FieldedTrie, Int64[np.ndarray, " facts"]]:
        """As `build`, from the distinct subjects, predicates and senses, and each fact's three numbers into them."""
        end_id = int(tokenizer.sep_id)
        names = [_names(kind, tokenizer, end_id) for kind in texts]
        bits = [max(len(kind.first) - 1, 0).bit_length() for kind in names]
        codes = [kind.rank[number] for kind, number in zip(names, numbers, strict=True)]
        subject, pair, row_of_fact = _distinct_keys(codes, bits)
        width = max((bits[1] + bits[2] + 7) // 8, 1)
        pair_bytes = np.ascontiguousarray(pair.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width])  # [u, w]
        name_ptr, name_token, name_token_high = _name_table(names[1], names[2])
        tree = FactTree(
            *level_order.build_tree(names[0], end_id),
            np.searchsorted(subject, np.arange(len(names[0].first) + 1)).astype(np.uint32),
            pair_bytes.reshape(-1),  # [u * w]
            name_ptr,
            name_token,
            name_token_high,
            pair_bytes=width,
            sense_bits=bits[2],
            predicates=len(names[1].first),
        )
        return cls(tree), row_of_fact

    @property
    def end_id(self) -> int:
        """The token that closes every field."""
        return self.tree.end_id

    def __len__(self) -> int:
        """Number of distinct keys."""
        return len(self.tree.pair) // self.tree.pair_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, in memory and (but for the small headers) on disk."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, np.ndarray]:
        """The tree as named arrays."""
        layout = np.array(self.tree[12:], np.int64)
        own = dict(zip(_OWN_ARRAYS, (*self.tree[7:12], layout), strict=True))
        return own | {SUBJECT + name: array for name, array in self._subjects.arrays().items()}

    def save(self, folder: str | Path) -> list[str]:
        """Write the arrays into an existing folder; the file names, to be recorded in its manifest."""
        return save_arrays(folder, self.arrays())

    @classmethod
    def open(cls, folder: str | Path) -> FieldedTrie:
        """Memory-map a saved tree. Raises KnowledgeBaseDamaged when a file is missing or is no array."""
        own = load_arrays(folder, _OWN_ARRAYS)
        subjects = load_arrays(folder, tuple(SUBJECT + name for name in LevelOrderTree._fields))
        tree = CatalogueTrie.from_arrays({name.removeprefix(SUBJECT): array for name, array in subjects.items()}).tree
        pair_bytes, sense_bits, predicates = (int(number) for number in own.pop("layout"))
        return cls(FactTree(*tree, **own, pair_bytes=pair_bytes, sense_bits=sense_bits, predicates=predicates))

    def root(self, n: int) -> State:
        return np.zeros((n, 2), np.int64)

    def allowed(self, state: State) -> tuple[RowPointers, Int32[np.ndarray, " m"], State]:
        return self._allowed(state) if state.any() else self._at_root.of(state)

    def _allowed(self, state: State) -> tuple[RowPointers, Int32[np.ndarray, " m"], State]:
        state = own(state)
        row_ptr = np.empty(len(state) + 1, np.int64)
        token, after = np.empty(FEW, np.int32), np.empty((FEW, 2), np.int64)
        count = field_rows.few_children(self.tree, state, row_ptr, token, after)
        if count < 0:
            room = -1 - count
            if room > MANY:
                field_rows.children(self.tree, state, row_ptr, token[:0], after[:0])
                room = int(row_ptr[-1])
            token, after = np.empty(room, np.int32), np.empty((room, 2), np.int64)
            field_rows.children(self.tree, state, row_ptr, token, after)
            count = int(row_ptr[-1])
        return row_ptr, token[:count], after[:count]

    def advance(self, state: State, token: Integer[np.ndarray, " n"]) -> State:
        return self._read(np.array(state, order="C"), token[:, None], np.ones(len(state), np.int64))

    def walk(self, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        return self._read(self.root(len(lengths)), ids, lengths)

    def _read(self, state: State, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        field_rows.read(self.tree, state, *as_reading(state, ids, lengths))
        return state

    def is_terminal(self, state: State) -> Bool[np.ndarray, " n"]:
        return state[:, 1] >> field_rows.PHASE == FIELDS

    def field(self, state: State) -> Int8[np.ndarray, " n"]:
        return (state[:, 1] >> field_rows.PHASE).astype(np.int8)  # -1 >> 60 is -1: dead

    def rows(self, state: State) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        low, high = np.empty(len(state), np.int64), np.empty(len(state), np.int64)
        field_rows.rows_below(self.tree, own(state), low, high)
        return low, high

    def completions(self, state: State, *, limit: int, dead: Int64[np.ndarray, " d"] = NONE) -> Completions:
        """The first `limit` entries below each state, without those whose key rows are in `dead` (ascending)."""
        state = own(state)
        owner_ptr, cut = level_order.shares(*self.rows(state), limit, dead)
        heads = self._subjects_below(state, limit, dead)
        terminal, token_ptr = np.empty((owner_ptr[-1], 2), np.int64), np.zeros(owner_ptr[-1] + 1, np.int64)
        out = Completions(owner_ptr, terminal, token_ptr, np.empty(0, np.int32), cut)
        field_rows.enumerate_below(self.tree, state, heads, dead, out)
        out = out._replace(tokens=np.empty(token_ptr[-1], np.int32))
        field_rows.enumerate_below(self.tree, state, heads, dead, out)
        return out

    def _subjects_below(self, state: State, limit: int, dead: Int64[np.ndarray, " d"]) -> Completions:
        """The subjects below each state that is still inside its subject, none for the others."""
        inside = state[:, 1] == 0
        if not inside.any():
            zeros = np.zeros(len(state) + 1, np.int64)
            return Completions(zeros, NONE, zeros[:1], np.empty(0, np.int32), inside)
        node = np.where(inside, state[:, 0], -1)
        return self._subjects.completions(node, limit=limit, dead=self._dead_subjects(dead))

    def _dead_subjects(self, dead: Int64[np.ndarray, " d"]) -> Int64[np.ndarray, " subjects"]:
        """The subjects all of whose rows are dead."""
        if len(dead) == 0:
            return NONE
        subject_ptr = self.tree.subject_ptr
        subject, dead_rows = np.unique(np.searchsorted(subject_ptr, dead, side="right") - 1, return_counts=True)
        return subject[dead_rows == subject_ptr[subject + 1] - subject_ptr[subject]]


def _names(texts: Sequence[str], tokenizer: BatchTokenizer, end_id: int) -> SortedRows:
    """The distinct token sequences of some texts, tokenised a part at a time: Python strings are costly."""
    lengths, tokens = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        row_ptr, ids = tokenizer.ids_batch(list(texts[start : start + TEXTS_AT_ONCE]))
        lengths.append(np.diff(row_ptr))
        tokens.append(np.asarray(ids))
    return sort_rows(pointers(np.concatenate(lengths)), np.concatenate(tokens), end_id=end_id)


def distinct_strings(column: Any) -> tuple[list[str], Int64[np.ndarray, " rows"]]:
    """The different strings of a column in order of appearance, and the number of each row's string among them."""
    if isinstance(column, Sequence):
        number: dict[str, int] = {}
        code = np.fromiter((number.setdefault(text, len(number)) for text in column), np.int64, len(column))
        return list(number), code
    import polars  # only for columns that are Arrow already

    values = polars.Series(column).cast(polars.String).fill_null("")
    kinds = values.unique(maintain_order=True)
    return kinds.to_list(), values.cast(polars.Enum(kinds)).to_physical().to_numpy().astype(np.int64)


def _distinct_keys(
    codes: list[Int64[np.ndarray, " facts"]], bits: list[int]
) -> tuple[Int64[np.ndarray, " u"], Int64[np.ndarray, " u"], Int64[np.ndarray, " facts"]]:
    """Subject and pair of every distinct key in order, and the key row of each fact; `codes` is emptied on the way.

    One integer a fact is sorted where it can hold all three numbers, as it can for billions of facts.
    """
    sense, predicate, subject = codes.pop(), codes.pop(), codes.pop()
    pair = predicate << bits[2] | sense
    del predicate, sense
    if sum(bits) > SORTABLE_BITS:
        order = np.lexsort((pair, subject))
        subject, pair = subject[order], pair[order]
    else:
        key = subject << (bits[1] + bits[2]) | pair
        del subject, pair
        order = np.argsort(key, kind="stable")
        key = key[order]
        subject, pair = key >> (bits[1] + bits[2]), key & ((1 << (bits[1] + bits[2])) - 1)
        del key
    new = np.ones(len(order), np.bool_)
    new[1:] = (subject[1:] != subject[:-1]) | (pair[1:] != pair[:-1])
    row_of_fact = np.empty(len(order), np.int64)
    row_of_fact[order] = np.cumsum(new) - 1
    return subject[new], pair[new], row_of_fact


def _name_table(predicates: SortedRows, senses: SortedRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of all predicates and then all senses, in order, in planes, and where each name begins."""
    parts = [(slots(names.row_ptr, names.first), names.tokens) for names in (predicates, senses)]
    tokens = np.concatenate([tokens[flat] for (_, flat), tokens in parts])
    lengths = np.concatenate([np.diff(ptr) for (ptr, _), _ in parts])
    check_name_table(len(tokens), int(lengths.max(initial=0)))
    return pointers(lengths).astype(np.uint32), *split_tokens(tokens)


def check_name_table(tokens: int, longest: int) -> None:
    """Raise InputError where the tokens of all predicates and senses, or of the longest, are too many."""
    if tokens >= 2**32 or longest >= 2**field_rows.DEPTH_BITS:
        raise InputError(
            "A predicate or sense is longer than 16 million tokens, or all of them than 4 billion; shorten them."
        )
