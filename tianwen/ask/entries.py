"""All entries below the subjects that a search found, as candidates to be scored as a whole.

Post: 8802. A subject with a handful of facts gives all of them. One with thousands (a country, a year) would cost more
to score than to search: there a wide beam goes on below the subject, and what it finds are the candidates. Either way
nothing depends on the order of the facts.
"""

from __future__ import annotations

import numpy as np

from tianwen.ask.beam import Paths, Search, search
from tianwen.ask.ragged import pointers, slots
from tianwen.ask.session import TreeSession
from tianwen.ask.trie import Completions, Constraint

WIDE = 48
"""Beams below a subject with too many entries."""


def entries_below(session: TreeSession, constraint: Constraint, found: Paths, *, most: int) -> Completions:
    """The entries of each path in `found`: all of them up to `most`, else those of a wide beam."""
    all_of = constraint.completions(found.state, limit=most)
    if not all_of.cut.any():
        return all_of
    parts = [
        _by_beam(session, constraint, found.take(np.array([row]))) if all_of.cut[row] else _only(all_of, row)
        for row in range(len(found))
    ]
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


def _by_beam(session: TreeSession, constraint: Constraint, path: Paths) -> Completions:
    """What a wide beam finds below one subject."""
    ended = search(session, constraint, path, Search(beams=WIDE, keep=WIDE))
    tails = [ended.chain(row)[int(path.length[0]) :].astype(np.int32) for row in range(len(ended))]
    lengths = np.array([len(tail) for tail in tails], np.int64)
    count = np.array([0, len(tails)])
    return Completions(count, ended.state, pointers(lengths), np.concatenate(tails), np.zeros(1, bool))
