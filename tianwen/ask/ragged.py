"""Ragged arrays: many token sequences in two flat arrays, sorted, merged and gathered without a Python loop.

Post: 8802 (the catalogue's keys are such sequences).

Notation
    n  sequences       t  tokens of all of them together
    row_ptr  [n + 1]   sequence i is tokens[row_ptr[i]:row_ptr[i + 1]]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from jaxtyping import Int, Int64, Integer, UInt16, UInt32
from numba.core.options import DefaultOptions

from tianwen.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile with numba, keeping the machine code on disk where some folder for it can be written."""
    return _compiled(function, {})


def filling_kernel(function: F) -> F:
    """Compile a kernel that creates no array but fills those it is given.

    Such a kernel needs no counting of references, which on a tree of a dozen arrays costs a hundred times its work.
    """
    return _compiled(function, {"_nrt": False} if hasattr(DefaultOptions, "_nrt") else {})


def inlined(function: F) -> F:
    """Compile into each caller, whatever array types it has there."""
    return cast(F, numba.njit(inline="always")(function))


def _compiled(function: F, options: dict[str, Any]) -> F:
    compiler: Any = numba.njit
    try:
        return compiler(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # a read-only installation without a home: compile anew in each process
        return compiler(nogil=True, **options)(function)


class SortedRows(NamedTuple):
    """The distinct sequences in lexicographic order, each closed by the END token; u of them."""

    row_ptr: Int64[np.ndarray, " n+1"]  # of all sequences as given, END included
    tokens: UInt32[np.ndarray, " t"]
    first: Int64[np.ndarray, " u"]  # which input each distinct sequence is taken from (the earliest)
    shared: Int64[np.ndarray, " u"]  # length of the prefix shared with the distinct sequence before
    rank: Int64[np.ndarray, " n"]  # distinct sequence of each input


def pointers(lengths: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n+1"]:
    """Where each of the ragged rows begins, and where the last one ends."""
    row_ptr = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=row_ptr[1:])
    return row_ptr


def slots(
    row_ptr: Int[np.ndarray, " n+1"], index: Int[np.ndarray, " k"]
) -> tuple[Int64[np.ndarray, " k+1"], Int64[np.ndarray, " total"]]:
    """Row pointers of the chosen rows laid end to end, and the flat positions that fill them."""
    starts = row_ptr[index].astype(np.int64)
    lengths = row_ptr[index + 1].astype(np.int64) - starts
    out_ptr = pointers(lengths)
    return out_ptr, np.arange(out_ptr[-1]) + np.repeat(starts - out_ptr[:-1], lengths)


def ragged(sequences: Sequence[Sequence[int]]) -> tuple[Int64[np.ndarray, " n+1"], Int64[np.ndarray, " t"]]:
    """A small list of sequences as (row_ptr, tokens)."""
    row_ptr = pointers(np.array([len(sequence) for sequence in sequences], np.int64))
    return row_ptr, np.array([token for sequence in sequences for token in sequence], np.int64)


def split_tokens(tokens: Integer[np.ndarray, " t"]) -> tuple[UInt16[np.ndarray, " t"], UInt16[np.ndarray, " high"]]:
    """The lower and the upper 16 bits of each token; the upper plane is empty where the vocabulary needs none.

    Planes instead of a wider type: the kernels then are compiled once, for every vocabulary.
    """
    high = (tokens >> 16).astype(np.uint16)
    return tokens.astype(np.uint16), high if high.any() else high[:0]


@inlined
def joined(low, high, at, bits):
    """An integer kept in two planes, the lower one of `bits` bits."""
    value = np.int64(low[at])
    if len(high):
        value |= np.int64(high[at]) << bits
    return value


def close_rows(
    row_ptr: Int[np.ndarray, " n+1"], tokens: Int[np.ndarray, " t"], end_id: int
) -> tuple[Int64[np.ndarray, " n+1"], UInt32[np.ndarray, " t+n"]]:
    """Append END to every sequence, so that none is a prefix of another.

    Raises InputError when the pointers do not fit the tokens, a token is negative, 2^32 or more, or END itself.
    """
    row_ptr, tokens = np.asarray(row_ptr, np.int64), np.asarray(tokens)
    if len(row_ptr) == 0 or row_ptr[0] != 0 or row_ptr[-1] != len(tokens) or (np.diff(row_ptr) < 0).any():
        raise InputError(
            f"row_ptr must rise from 0 to the number of tokens ({len(tokens)}); build it as [0, cumulative lengths]."
        )
    if not 0 <= end_id < 2**32 or (len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**32):
        raise InputError("Token ids must be at least 0 and below 2^32.")
    if (tokens == end_id).any():
        where = int(np.searchsorted(row_ptr, np.flatnonzero(tokens == end_id)[0], side="right")) - 1
        raise InputError(
            f"Sequence {where} contains the END token {end_id}, which only closes sequences; choose another end_id."
        )
    count = len(row_ptr) - 1
    closed = np.full(len(tokens) + count, end_id, np.uint32)
    closed[np.arange(len(tokens)) + np.repeat(np.arange(count), np.diff(row_ptr))] = tokens
    return row_ptr + np.arange(count + 1), closed


def sort_rows(row_ptr: Int[np.ndarray, " n+1"], tokens: Int[np.ndarray, " t"], *, end_id: int) -> SortedRows:
    """Close every sequence with END, sort them, merge equal ones."""
    ptr, closed = close_rows(row_ptr, tokens, end_id)
    bits = max(int(closed.max(initial=0)).bit_length(), 1)
    words = _first_words(ptr, closed, bits, 63 // bits)
    order = np.argsort(words, kind="stable")
    sort_ties(order, words[order], ptr, closed, 63 // bits)
    shared, new = _shared_prefixes(order, ptr, closed)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.cumsum(new) - 1
    return SortedRows(ptr, closed, order[new], shared[new], rank)


@kernel
def _first_words(ptr, tokens, bits, per_word):
    """The first tokens of every sequence packed into one integer that sorts as they do."""
    words = np.zeros(len(ptr) - 1, np.int64)
    for row in range(len(words)):
        word = np.int64(0)
        for k in range(per_word):
            at = ptr[row] + k
            word = word << bits
            if at < ptr[row + 1]:
                word = word | np.int64(tokens[at])
        words[row] = word
    return words


@kernel
def _comes_before(a, b, ptr, tokens, skip):
    i, j = ptr[a] + skip, ptr[b] + skip
    while i < ptr[a + 1] and j < ptr[b + 1]:
        if tokens[i] != tokens[j]:
            return tokens[i] < tokens[j]
        i += 1
        j += 1
    return False  # closed sequences: both ran out together, so they are equal


@kernel
def _merge_sort(order, spare, ptr, tokens, skip):
    """Stable bottom-up merge sort of row numbers by their tokens from position `skip` on."""
    count = len(order)
    width = 1
    while width < count:
        for low in range(0, count, 2 * width):
            middle, high = min(low + width, count), min(low + 2 * width, count)
            i, j = low, middle
            for k in range(low, high):
                if i < middle and (j >= high or not _comes_before(order[j], order[i], ptr, tokens, skip)):
                    spare[k] = order[i]
                    i += 1
                else:
                    spare[k] = order[j]
                    j += 1
        for k in range(count):
            order[k] = spare[k]
        width *= 2


@kernel
def sort_ties(order, words, ptr, tokens, skip):
    """Finish the order inside each run of rows whose first tokens are equal."""
    spare = np.empty_like(order)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and words[stop] == words[start]:
            stop += 1
        if stop - start > 1:
            _merge_sort(order[start:stop], spare[start:stop], ptr, tokens, skip)
        start = stop


@kernel
def _shared_prefixes(order, ptr, tokens):
    """Length of the prefix each sorted sequence shares with the one before, and whether it differs from it."""
    shared = np.zeros(len(order), np.int64)
    new = np.ones(len(order), np.bool_)
    for k in range(1, len(order)):
        a, b = order[k - 1], order[k]
        length = min(ptr[a + 1] - ptr[a], ptr[b + 1] - ptr[b])
        same = 0
        while same < length and tokens[ptr[a] + same] == tokens[ptr[b] + same]:
            same += 1
        shared[k] = same
        new[k] = same < ptr[b + 1] - ptr[b]
    return shared, new
