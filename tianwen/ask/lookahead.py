"""Lookahead: a child counts for more if some entry below it has more words of the question still to come.

Post: 8802 ("前瞻": on KgCLUE about four points).

Notation (-> name in the post)
    Q question, k an entry below the current prefix, v a child of the prefix
    D_k = LCS(k, Q) - LCS(prefix, Q)      longest common subsequences over tokens, END included
    n_v = max over k through v of D_k + 1; the child's probability p becomes p^(1 / n_v) before renormalising
    V   the bits of the column of the LCS table after reading some of k: bit j is 0 where the table rises at Q[j]

One token t of k moves V to (V + U) | (V - U) with U = V & positions of t in Q (Hyyrö, 2004), so the prefix is read
once and every entry continues from there. A column is `words` integers of 62 bits; sums then fit in 63.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float64, Int, Int32, Int64

from tianwen.ask.level_order import NONE, Completions
from tianwen.ask.ragged import filling_kernel, inlined, pointers, slots
from tianwen.ask.trie import Constraint, State

BITS = 62
FULL = (1 << BITS) - 1


class Ragged(NamedTuple):
    """Token sequences end to end."""

    row_ptr: Int64[np.ndarray, " n+1"]
    tokens: Int32[np.ndarray, " t"]


class Questions(NamedTuple):
    """Where each token stands in each question, as bits."""

    ptr: Int64[np.ndarray, " q+1"]  # question i has the distinct tokens ptr[i] .. ptr[i + 1] - 1
    token: Int64[np.ndarray, " d"]  # ascending within a question
    places: Int64[np.ndarray, " d words"]  # bit j % 62 of word j // 62: the token stands at position j


class PathsLike(Protocol):
    """What the lookahead reads of a batch of n paths."""

    @property
    def owner(self) -> Int64[np.ndarray, " n"]: ...

    @property
    def state(self) -> State: ...

    @property
    def tokens(self) -> Int64[np.ndarray, " n width"]: ...

    @property
    def length(self) -> Int64[np.ndarray, " n"]: ...


Reweigh = Callable[[PathsLike, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(paths, row_ptr, token, next_state) -> divisor of each child's log-probability."""


def lookahead_reweigh(
    constraint: Constraint, questions: Sequence[Int[np.ndarray, " tokens"]], *, from_field: int = 1, limit: int = 1000
) -> Reweigh:
    """The lookahead as a search's hook: n_v for each child of the paths that have completed `from_field` fields.

    Children without a brother and children of earlier fields get 1. At most `limit` entries below each child are read.
    """
    positions = question_positions(questions)

    def reweigh(paths: PathsLike, row_ptr: np.ndarray, token: np.ndarray, next_state: State) -> np.ndarray:
        divisor = np.ones(len(token))
        chosen = np.flatnonzero((constraint.field(paths.state) >= from_field) & (np.diff(row_ptr) > 1))
        if len(chosen):
            child_ptr, child = slots(row_ptr, chosen)
            below = constraint.completions(next_state[child], limit=limit)
            length = paths.length[chosen]
            read = np.arange(paths.tokens.shape[1]) < length[:, None]  # [chosen, width]
            prefix = Ragged(pointers(length), paths.tokens[chosen][read].astype(np.int32))
            children = Ragged(child_ptr, token[child])
            divisor[child] = lookahead_weights(positions, paths.owner[chosen], prefix, children, below)
        return divisor

    return reweigh


def question_positions(questions: Sequence[Int[np.ndarray, " tokens"]]) -> Questions:
    """The positions of every token in every question."""
    length = np.array([len(question) for question in questions], np.int64)
    row_ptr = pointers(length)
    token = np.concatenate([np.asarray(question, np.int64) for question in questions] or [np.empty(0, np.int64)])
    row = np.repeat(np.arange(len(length)), length)
    at = np.arange(len(token)) - row_ptr[row]
    order = np.lexsort((token, row))
    new = np.ones(len(order), np.bool_)
    new[1:] = (row[order][1:] != row[order][:-1]) | (token[order][1:] != token[order][:-1])
    number = np.cumsum(new) - 1
    places = np.zeros((int(new.sum()), int(length.max(initial=1)) // BITS + 1), np.int64)  # [d, words]
    np.bitwise_or.at(places, (number, at[order] // BITS), 1 << (at[order] % BITS))
    distinct = order[new]
    return Questions(pointers(np.bincount(row[distinct], minlength=len(length))), token[distinct], places)


def lookahead_weights(
    questions: Questions, owner: Int64[np.ndarray, " n"], prefix: Ragged, children: Ragged, below: Completions
) -> Float64[np.ndarray, " m"]:
    """n_v of each of the m children of n prefixes.

    `owner[i]` is the question of prefix i; `children` are the tokens that may follow each prefix, `below` lists what
    may follow each child. A child with nothing listed gets 1.
    """
    weight = np.ones(len(children.tokens))
    columns = np.empty((3, questions.places.shape[1]), np.int64)  # [3, words]
    below = below._replace(terminal=NONE)  # of one type, whatever the states are
    _weigh(questions, np.asarray(owner, np.int64), (prefix, children, below), columns, weight)
    return weight


@filling_kernel
def _read(questions, question, tokens, span, column):
    """Move the column over the tokens span[0] .. span[1] - 1 of an entry."""
    for at in range(span[0], span[1]):
        low, stop = questions.ptr[question], questions.ptr[question + 1]
        high = stop
        while low < high:
            middle = (low + high) >> 1
            if questions.token[middle] < tokens[at]:
                low = middle + 1
            else:
                high = middle
        if low == stop or questions.token[low] != tokens[at]:
            continue  # U = 0: nothing moves
        carry = np.int64(0)
        for word in range(len(column)):
            used = column[word] & questions.places[low, word]
            total = column[word] + used + carry
            carry = total >> BITS
            column[word] = (total & FULL) | (column[word] & ~used)


@filling_kernel
def _lcs(column):
    """The zeros of the column: length of the longest common subsequence so far (bits beyond the question stay 1)."""
    found = np.int64(0)
    for word in range(len(column)):
        zeros = ~column[word] & FULL
        while zeros:
            zeros &= zeros - 1
            found += 1
    return found


@inlined
def _copy(source, target):
    for word in range(len(source)):
        target[word] = source[word]


@filling_kernel
def _weigh(questions, owner, batch, columns, weight):
    prefix, children, below = batch
    start, behind, column = columns[0], columns[1], columns[2]  # behind the prefix, the child, part of an entry
    for row in range(len(owner)):
        question = owner[row]
        for word in range(len(start)):
            start[word] = FULL
        _read(questions, question, prefix.tokens, (prefix.row_ptr[row], prefix.row_ptr[row + 1]), start)
        before = _lcs(start)
        for child in range(children.row_ptr[row], children.row_ptr[row + 1]):
            _copy(start, behind)
            _read(questions, question, children.tokens, (child, np.int64(child + 1)), behind)
            for entry in range(below.owner_ptr[child], below.owner_ptr[child + 1]):
                _copy(behind, column)
                _read(questions, question, below.tokens, (below.token_ptr[entry], below.token_ptr[entry + 1]), column)
                weight[child] = max(weight[child], _lcs(column) - before + 1.0)
