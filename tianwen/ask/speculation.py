"""Feed what the question spells out before it is chosen: names that stand literally in the question, in one call.

Deciding a name token by token costs a model call at every fork of the tree. But most names stand in the question, so
every stretch of the question that is a complete first field of the tree is fed at once, below the root. The search then
walks on nodes that are already there. Nothing of the result changes: scores, order and ties are those of the search
without speculation; only calls are saved.

Post: 8802 (the subject stands literally in nearly every question of KgCLUE).
"""

from __future__ import annotations

import numpy as np

from tianwen.ask.session import Chunks, TreeSession
from tianwen.ask.trie import Constraint


def literal_names(constraint: Constraint, questions: list[np.ndarray], *, longest: int = 64) -> list[dict[int, int]]:
    """For each question: start -> end of the longest complete first field that is spelled out from that token on."""
    owner = np.repeat(np.arange(len(questions)), [len(q) for q in questions])
    start = np.concatenate([np.arange(len(q)) for q in questions]) if questions else np.zeros(0, np.int64)
    width = max((len(q) for q in questions), default=0)
    ids = np.full((len(questions), width + 1), -1, np.int64)
    for row, question in enumerate(questions):
        ids[row, : len(question)] = question
    state = constraint.root(len(owner))
    end = np.full(len(owner), -1, np.int64)
    alive = np.arange(len(owner))
    for step in range(min(longest, width)):
        token = ids[owner[alive], np.minimum(start[alive] + step, width)]
        state = constraint.advance(state, np.maximum(token, 0))
        living = (token >= 0) & (constraint.field(state) == 0)
        alive, state = alive[living], state[living]
        if not len(alive):
            break
        closed = constraint.field(constraint.advance(state, np.full(len(alive), constraint.end_id))) == 1
        end[alive[closed]] = start[alive[closed]] + step + 1
    found: list[dict[int, int]] = [{} for _ in questions]
    for row in np.flatnonzero(end >= 0):
        found[owner[row]][int(start[row])] = int(end[row])
    return found


def speculate(session: TreeSession, constraint: Constraint, questions: list[np.ndarray], *, most: int = 8) -> None:
    """Feed the literal names of each question below its root, for the `most` likeliest first tokens, in one call."""
    spans = literal_names(constraint, questions)
    owners, chains = [], []
    for row, found in enumerate(spans):
        names = {tuple(questions[row][a:b].tolist()) for a, b in found.items()}
        longest_of = sorted(names)  # deterministic
        owners += [row] * len(longest_of)
        chains += longest_of
    if not chains:
        return
    owner = np.asarray(owners, np.int64)
    first = np.array([chain[0] for chain in chains], np.int64)
    roots = session.states_at(owner, session.roots[owner])
    score = session.log_probabilities(owner, roots, np.arange(len(owner) + 1), first)
    order = np.lexsort((-score, owner))
    rank = np.empty(len(owner), np.int64)
    rank[order] = np.arange(len(owner)) - np.searchsorted(owner[order], owner[order])
    keep = np.flatnonzero(rank < most)
    session.feed(Chunks.of(owner[keep], session.roots[owner[keep]], [chains[i] for i in keep]))
