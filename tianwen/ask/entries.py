"""All entries below the subjects that a search found, as candidates to be scored as a whole.

Post: 8802. A subject with a handful of facts gives all of them. One with thousands (a country, a year) would cost more
to score than to search: there a wide beam goes on below the subject, and what it finds are the candidates. Either way
nothing depends on the order of the facts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tianwen.ask.beam import Paths, Search, search
from tianwen.ask.ragged import pointers, slots
from tianwen.ask.session import TreeSession
from tianwen.ask.trie import Completions, Constraint

WIDE = 48
"""Beams below a subject with too many entries."""


def entries_below(session: TreeSession, constraint: Constraint, found: Paths, *, most: int) -> Completions:
    """The entries of each path in `found`, in key order: all of them up to `most`, else those of a wide beam."""
    all_of = constraint.completions(found.state, limit=most)
    if not all_of.cut.any():
        return all_of
    parts = [_only(all_of, row) for row in range(len(found))]
    for rows in _one_a_question(found.owner, np.flatnonzero(all_of.cut)):
        ended = search(session, constraint, found.take(rows), Search(beams=WIDE, keep=WIDE))
        for row in rows.tolist():
            parts[row] = _listed(ended.take(ended.owner == found.owner[row]), start=int(found.length[row]))
    counts = np.array([len(part.terminal) for part in parts], np.int64)
    lengths = np.concatenate([np.diff(part.token_ptr) for part in parts])
    return Completions(
        pointers(counts),
        np.concatenate([part.terminal for part in parts]),
        pointers(lengths),
        np.concatenate([part.tokens for part in parts]),
        np.zeros(len(found), bool),
    )


def _only(completions: Completions, row: int) -> Completions:
    """The completions of one state."""
    index = np.arange(completions.owner_ptr[row], completions.owner_ptr[row + 1])
    token_ptr, at = slots(completions.token_ptr, index)
    count = np.array([0, len(index)])
    return Completions(count, completions.terminal[index], token_ptr, completions.tokens[at], np.zeros(1, bool))


def _one_a_question(owner: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in groups where each question comes once: one search for a group, and no two paths of it compete.

    A search for each row alone would widen the session of the whole batch at every step of every one of them.
    """
    while len(rows):
        _, first = np.unique(owner[rows], return_index=True)
        yield rows[first]
        rows = np.delete(rows, first)


def _listed(ended: Paths, *, start: int) -> Completions:
    """Finished paths as completions of their first `start` tokens: sorted by key, as the tree lists them."""
    tails = [ended.chain(row)[start:].astype(np.int32) for row in range(len(ended))]
    order = sorted(range(len(tails)), key=lambda row: tails[row].tolist())
    lengths = np.array([len(tails[row]) for row in order], np.int64)
    tokens = np.concatenate([tails[row] for row in order])
    return Completions(np.array([0, len(order)]), ended.state[order], pointers(lengths), tokens, np.zeros(1, bool))
