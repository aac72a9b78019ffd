"""The parts of the interface that follow from the others: reading from any state, and listing what lies below one.

Post: 8802

For constraints that keep no list of their entries (spans, markup). Slower than a tree's own way, and the same result.

Notation: n rows of a batch, m completions of all rows together.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from jaxtyping import Int64, Integer

from tianwen.ask.level_order import Completions
from tianwen.ask.ragged import pointers
from tianwen.ask.trie import Constraint, State, as_reading
from tianwen.errors import InputError


def read_from(
    constraint: Constraint, state: State, ids: Integer[np.ndarray, " n width"], lengths: Integer[np.ndarray, " n"]
) -> State:
    """The states after reading the first `lengths` tokens of each row from `state`."""
    ids, lengths = as_reading(state, ids, lengths)
    for k in range(int(lengths.max(initial=0))):
        reads = np.flatnonzero(lengths > k)
        state = state.copy()
        state[reads] = constraint.advance(state[reads], ids[reads, k])
    return state


def completions_below(constraint: Constraint, state: State, *, limit: int) -> Completions:
    """Every entry below each state, the first `limit` of each in key order, found by walking."""
    if limit < 0:
        raise InputError(f"limit must be at least 0, not {limit}.")
    chains: list[list[int]] = []
    terminals, counts = [state[:0]], np.zeros(len(state), np.int64)
    cut = np.zeros(len(state), np.bool_)
    for row in range(len(state)):
        found = list(islice(_entries(constraint, state[row : row + 1]), limit + 1))
        cut[row], counts[row] = len(found) > limit, min(len(found), limit)
        chains += [tokens for tokens, _ in found[:limit]]
        terminals += [terminal for _, terminal in found[:limit]]
    token_ptr = pointers(np.array([len(tokens) for tokens in chains], np.int64))
    tokens = np.array([token for chain in chains for token in chain], np.int32)
    return Completions(pointers(counts), np.concatenate(terminals), token_ptr, tokens, cut)


def _entries(constraint: Constraint, state: State) -> Iterator[tuple[list[int], Int64[np.ndarray, " 1 *parts"]]]:
    """What follows the one state given, in key order, each with the terminal state it ends in."""
    waiting: list[tuple[list[int], State]] = [([], state)]
    while waiting:
        read, here = waiting.pop()
        if constraint.is_terminal(here)[0]:
            yield read, here
            continue
        _, token, after = constraint.allowed(here)
        for k in reversed(range(len(token))):
            waiting.append(([*read, int(token[k])], after[k : k + 1]))
