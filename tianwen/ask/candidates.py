"""Prior-corrected scoring: choose a predicate by what the question adds to it, not by how common it is.

A beam that renormalises at each step commits on the first character of a predicate. Here every completion k = (P, M) of
a found subject S is scored as a whole, against the same model asked nothing but the subject:

    s(k) = log p(k | S, Q) - weight * log p(k | S, "S")
    p(S, k | Q) = p(S | Q) * softmax over the completions of S of s(k)

p(S | Q) is the renormalised path probability of the search. Post: 8802 (the search); the correction is pointwise mutual
information between question and completion, as in Li et al., A Diversity-Promoting Objective Function, 2016.

Notation: r subject paths, m completions of all of them, t their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tianwen.ask.beam import Paths, renormalise
from tianwen.ask.ragged import pointers
from tianwen.ask.session import Chunks, TreeSession
from tianwen.ask.trie import Completions, State

ROW_WIDTH = 96
"""Tokens of one row when candidates are scored: wide rows share one copy of the question's cache."""


@dataclass(frozen=True)
class Candidates:
    """Scored entries: question [m], subject path [m], terminal state [m, ...], log-probability [m], and its raw parts."""

    owner: np.ndarray
    path: np.ndarray
    state: State
    score: np.ndarray
    raw: np.ndarray  # log p(S, k | Q) of the model alone, before the tree and the prior

    def __len__(self) -> int:
        return len(self.owner)


def with_prior(
    session: TreeSession, found: Paths, completions: Completions, prompts: Sequence[np.ndarray], weight: float
) -> Candidates:
    """Score the completions of each found subject path. `prompts[i]` is the empty question about path i's subject.

    Two model calls for the whole batch: the prompts, then all completions under question and prompt together.
    """
    prior = TreeSession(session.model, prompts, prefixes=[found.chain(row) for row in range(len(found))])
    both = session.joined(prior) if weight else session
    questions = len(session.source_length)
    path = np.repeat(np.arange(len(found)), np.diff(completions.owner_ptr))
    tails = [completions.tokens[a:b] for a, b in zip(completions.token_ptr[:-1], completions.token_ptr[1:], strict=True)]
    pending = [found.tokens[row, found.fed[row] : found.length[row]] for row in range(len(found))]
    owner, parent = found.owner[path], found.node[path]
    chains = [np.concatenate([pending[row], tail[:-1]]) for row, tail in zip(path, tails, strict=True)]
    heads = np.array([len(pending[row]) for row in path], np.int64)
    if weight:
        owner = np.concatenate([owner, questions + path])
        parent = np.concatenate([parent, prior.tips[path]])
        chains = chains + [tail[:-1] for tail in tails]
        heads = np.concatenate([heads, np.zeros(len(path), np.int64)])
        tails = tails + tails
    log_p = _chain_scores(both, Chunks.of(owner, parent, chains), heads, tails)
    asked = log_p[: len(path)]
    raw = asked - weight * log_p[len(path) :] if weight else asked
    within = renormalise(completions.owner_ptr, raw)
    session.calls[np.unique(found.owner)] += 2 if weight else 1
    return Candidates(found.owner[path], path, completions.terminal, found.score[path] + within, found.raw[path] + asked)


def _chain_scores(
    session: TreeSession, chunks: Chunks, heads: np.ndarray, tails: Sequence[np.ndarray]
) -> np.ndarray:
    """log p of each tail: its first token is predicted by the last token of the head (or the parent), and so on."""
    _, states = session.feed(chunks, keep=False, width=ROW_WIDTH)
    lengths = np.array([len(tail) for tail in tails], np.int64)
    tail_ptr = pointers(lengths)
    chain = np.repeat(np.arange(len(tails)), lengths)
    place = np.arange(tail_ptr[-1]) - tail_ptr[chain]
    # the predicting state of tail token j is fed token head + j - 1; of j = 0 without a head it is the parent's
    at = chunks.row_ptr[chain] + heads[chain] + place - 1
    from_parent = (place == 0) & (heads[chain] == 0)
    predictors = states[np.where(from_parent, 0, at)]
    if from_parent.any():
        rows = np.flatnonzero(from_parent)
        predictors[rows] = session.states_at(chunks.owner[chain[rows]], chunks.parent[chain[rows]])
    wanted = np.concatenate(tails) if len(tails) else np.zeros(0, np.int64)
    one_each = np.arange(len(wanted) + 1)
    log_p = session.log_probabilities(chunks.owner[chain], predictors, one_each, wanted)
    return np.add.reduceat(log_p, tail_ptr[:-1]) if len(tails) else np.zeros(0)
