"""The prefix tree of facts: a tree of subjects, then each subject's sorted rows of (predicate, sense).

Post: 8802 (keys are S [SEP] P [SEP] M [SEP], in this order).

A key of the tree is tokens(S) END tokens(P) END tokens(M) END. Subjects, predicates and senses are tokenised once each; a key is then
one row, and the keys below a prefix are always a contiguous range of rows.

Notation
    s  distinct subjects     v  distinct predicates, then distinct senses ("names")     u  distinct keys (rows)
    subject_ptr [s + 1]      rows of subject i are subject_ptr[i] .. subject_ptr[i + 1] - 1
    pair        [u * w]      w little-endian bytes a row: predicate number << sense_bits | sense number, ascending within a subject
    name_ptr    [v + 1]      name_token [..]: the names' tokens, each closed by END; predicates first, each part in token order
    state       [n, 2]       (node of the subject tree, 0), then (first row, phase << 60 | tokens read of this field << 36 | rows)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Int8, Int32, Int64, Integer

from tianwen.ask import field_rows
from tianwen.ask.ragged import SortedRows, pointers, slots, sort_rows, token_dtype
from tianwen.ask.trie import CatalogueTrie, Completions, RowPointers, State, freeze, load_arrays, save_arrays, shares
from tianwen.errors import InputError

FIELDS = 3
_SUBJECT_ARRAYS = ("token", "first_child", "leaf_rank", "leaf_row", "end_id")
_OWN_ARRAYS = ("subject_ptr", "pair", "name_ptr", "name_token", "layout")


class BatchTokenizer(Protocol):
    """What the build needs of a tokenizer."""

    @property
    def sep_id(self) -> int: ...

    def ids_batch(self, texts: list[str], /) -> tuple[Any, Any]: ...


class FieldedTrie:
    """The prefix tree over facts (subject, predicate, sense). States are [n, 2]; `field` counts the completed fields, 3 when terminal."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        """`arrays` as `build` or `load_arrays` give them; they are never written to."""
        self.subjects = CatalogueTrie({name: arrays["subject_" + name] for name in _SUBJECT_ARRAYS})
        self.end_id = self.subjects.end_id
        self._arrays = arrays
        self._rows = len(arrays["pair"]) // int(arrays["layout"][1])
        own = (arrays[name] for name in _OWN_ARRAYS)
        tree = self.subjects
        self._tree = (tree.token, tree.first_child, tree.leaf_rank, tree.leaf_row, *own)

    @classmethod
    def build(
        cls, subjects: Any, predicates: Any, senses: Any, tokenizer: BatchTokenizer
    ) -> tuple[FieldedTrie, Int64[np.ndarray, " facts"]]:
        """The tree over facts given as three columns (lists of str, polars Series or Arrow arrays), and the key row of each fact.

        Strings with equal tokens are one name; facts with equal names are one key. Raises InputError when the columns differ in length.
        """
        if not len(subjects) == len(predicates) == len(senses):
            raise InputError(
                f"The columns must be equally long, not {len(subjects)} subjects, {len(predicates)} predicates, {len(senses)} senses."
            )
        end_id = int(tokenizer.sep_id)
        subject, predicate, sense = (_names(column, tokenizer, end_id) for column in (subjects, predicates, senses))
        bits = tuple(int(len(names.first) - 1).bit_length() for names, _ in (predicate, sense))
        keys, row_of_fact = _distinct_keys(subject[1], predicate[1], sense[1], bits)
        width = max((sum(bits) + 7) // 8, 1)
        name_ptr, name_token = _name_table(predicate[0], sense[0])
        tree = CatalogueTrie.from_sorted(subject[0], end_id=end_id)
        pair_bytes = keys[1].astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]  # [u, w]
        arrays = {
            "subject_ptr": np.searchsorted(keys[0], np.arange(len(tree) + 1)).astype(np.uint32),
            "pair": np.ascontiguousarray(pair_bytes).reshape(-1),  # [u * w]
            "name_ptr": name_ptr,
            "name_token": name_token,
            "layout": np.array([end_id, width, bits[1], len(predicate[0].first)], np.int64),
        }
        arrays |= {"subject_" + name: array for name, array in tree.arrays.items()}
        return cls(freeze(arrays)), row_of_fact

    def __len__(self) -> int:
        """Number of distinct keys."""
        return self._rows

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, in memory and (but for the small headers) on disk."""
        return sum(array.nbytes for array in self._arrays.values())

    def save(self, folder: str | Path) -> list[str]:
        """Write the arrays into an existing folder; the file names, to be recorded in its manifest."""
        return save_arrays(folder, self._arrays)

    @classmethod
    def open(cls, folder: str | Path) -> FieldedTrie:
        """Memory-map a saved tree. Raises KnowledgeBaseDamaged when a file is missing or is no array."""
        return cls(load_arrays(folder, _OWN_ARRAYS + tuple("subject_" + name for name in _SUBJECT_ARRAYS)))

    def root(self, n: int) -> State:
        return np.zeros((n, 2), np.int64)

    def allowed(self, state: State) -> tuple[RowPointers, Int32[np.ndarray, " m"], State]:
        row_ptr = np.empty(len(state) + 1, np.int64)
        field_rows.allowed(*self._tree, state, row_ptr, np.empty(0, np.int32), np.empty((0, 2), np.int64), False)
        token, after = np.empty(row_ptr[-1], np.int32), np.empty((row_ptr[-1], 2), np.int64)
        field_rows.allowed(*self._tree, state, row_ptr, token, after, True)
        return row_ptr, token, after

    def advance(self, state: State, token: Integer[np.ndarray, " n"]) -> State:
        after = np.array(state)
        field_rows.read(*self._tree, after, np.asarray(token, np.int64)[:, None], np.ones(len(after), np.int64))
        return after

    def walk(self, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]) -> State:
        after = self.root(len(lengths))
        field_rows.read(*self._tree, after, np.asarray(ids, np.int64), np.asarray(lengths, np.int64))
        return after

    def is_terminal(self, state: State) -> Bool[np.ndarray, " n"]:
        return state[:, 1] >> field_rows.PHASE == FIELDS

    def field(self, state: State) -> Int8[np.ndarray, " n"]:
        return (state[:, 1] >> field_rows.PHASE).astype(np.int8)  # -1 >> 60 is -1: dead

    def rows(self, state: State) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        return field_rows.rows_below(*self._tree, state)

    def completions(
        self, state: State, *, limit: int, live_before: Int64[np.ndarray, " u+1"] | None = None
    ) -> Completions:
        """Every entry below each state; with `live_before` (live keys before each key row) only the live ones."""
        low, high = self.rows(state)
        owner_ptr, cut, live = shares(low, high, limit, live_before)
        heads = self._subject_heads(state, limit, live)
        terminal, token_ptr = np.empty((owner_ptr[-1], 2), np.int64), np.zeros(owner_ptr[-1] + 1, np.int64)
        rest = (
            state,
            live,
            heads.owner_ptr,
            heads.terminal,
            heads.token_ptr,
            heads.tokens,
            owner_ptr,
            terminal,
            token_ptr,
        )
        field_rows.completions(*self._tree, *rest, np.empty(0, np.int32), False)
        tokens = np.empty(token_ptr[-1], np.int32)
        field_rows.completions(*self._tree, *rest, tokens, True)
        return Completions(owner_ptr, terminal, token_ptr, tokens, cut)

    def _subject_heads(self, state: State, limit: int, live: Int64[np.ndarray, " any"]) -> Completions:
        """The subjects below each state that still is inside its subject; none for the others."""
        node = np.where(state[:, 1] == 0, state[:, 0], -1)
        live_subjects = None
        if len(live) and (node >= 0).any():
            rows = live[self._arrays["subject_ptr"]]
            live_subjects = pointers(rows[1:] > rows[:-1])
        return self.subjects.completions(node, limit=limit, live_before=live_subjects)


def _names(column: Any, tokenizer: BatchTokenizer, end_id: int) -> tuple[SortedRows, Int64[np.ndarray, " facts"]]:
    """The distinct token sequences of a column, and which of them each fact has; every distinct string is tokenised once."""
    distinct, code = distinct_strings(column)
    row_ptr, tokens = tokenizer.ids_batch(distinct)
    names = sort_rows(row_ptr, tokens, end_id=end_id)
    return names, names.rank[code]


def distinct_strings(column: Any) -> tuple[list[str], Int64[np.ndarray, " rows"]]:
    """The different strings of a column in order of appearance, and the number of each row's string among them."""
    if isinstance(column, Sequence):
        number: dict[str, int] = {}
        code = np.fromiter((number.setdefault(text, len(number)) for text in column), np.int64, len(column))
        return list(number), code
    import polars  # only for columns that are Arrow already

    values = polars.Series(column).cast(polars.String)
    kinds = values.unique(maintain_order=True)
    return kinds.to_list(), values.cast(polars.Enum(kinds)).to_physical().to_numpy().astype(np.int64)


def _distinct_keys(subject, predicate, sense, bits):
    """(subject number, pair) of every distinct key in order, and the key row of each fact: one integer a fact is sorted."""
    pair = predicate << bits[1] | sense
    if len(subject) and int(subject.max()).bit_length() + sum(bits) > 63:
        order = np.lexsort((pair, subject))
    else:
        order = np.argsort(subject << sum(bits) | pair, kind="stable")
    subject, pair = subject[order], pair[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (subject[1:] != subject[:-1]) | (pair[1:] != pair[:-1])
    row_of_fact = np.empty(len(order), np.int64)
    row_of_fact[order] = np.cumsum(new) - 1
    return (subject[new], pair[new]), row_of_fact


def _name_table(predicates: SortedRows, senses: SortedRows) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of all predicates and then all senses, in order, and where each name begins."""
    parts = [(slots(names.row_ptr, names.first), names.tokens) for names in (predicates, senses)]
    tokens = np.concatenate([tokens[flat] for (_, flat), tokens in parts])
    lengths = np.concatenate([np.diff(ptr) for (ptr, _), _ in parts])
    if len(tokens) >= 2**32 or lengths.max(initial=0) >= 2**field_rows.DEPTH_BITS:
        raise InputError(
            "A predicate or sense is longer than 16 million tokens, or all of them than 4 billion; shorten them."
        )
    return pointers(lengths).astype(np.uint32), tokens.astype(token_dtype(int(tokens.max(initial=0))))
