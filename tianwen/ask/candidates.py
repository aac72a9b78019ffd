"""Prior-corrected scoring: choose a predicate by what the question adds to it, not by how common it is.

A beam that renormalises at each step commits on the first character of a predicate. Here every predicate P of a found
subject S is scored as a whole, against the same model asked nothing but the subject:

    s(P) = log p(P | S, Q) - weight * log p(P | S, "S") + opinion(P, S, Q)
    p(S, P, M | Q) = p(S | Q) * h(S) * softmax over the predicates of S of s(P) * p(M | S, P, Q)

The opinion is that of a `Matcher` on the words of question and predicate, where the asker has one, else 0.

The search finds subjects by renormalised scores; compared with each other they are by the model's own p(S | Q), for a
name that the tree forces after a lucky first character is renormalised to a probability that nobody gave it. And a
subject that knows only one thing gives it a share of 1, whatever was asked: h(S) says how far what S has is what is
asked for, by the matcher's `fit` of its best predicate, or without a matcher by the model's own probability of all its
predicates, both damped. Where S and P leave one sense M, its probability is 1 and nothing is computed; else it is the
softmax of the same kind of score over the senses that are left.

Post: 8802 (the search); the correction is the pointwise mutual information between question and predicate, as in Li et
al., A Diversity-Promoting Objective Function for Neural Conversation Models, 2016.

Notation: r subject paths, m entries (P, M) below them, g distinct (path, P), c chains of tokens to score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tianwen.ask.beam import Paths, renormalise
from tianwen.ask.ragged import pointers
from tianwen.ask.session import Chunks, TreeSession
from tianwen.ask.trie import Completions, State

ROW_WIDTH = 48
"""Tokens of one row when candidates are scored: wide rows share one copy of the question's cache."""


TOKENS_AT_ONCE = 8_000
"""Tokens of one call, each with a row of logits: what bounds the memory where many large subjects meet in a batch."""


Opinion = Callable[[int, np.ndarray, Sequence[np.ndarray]], np.ndarray]
"""(question, tokens of S, tokens of each P) -> what to add to s(P): [predicates]."""

Wanted = Callable[[int, np.ndarray, np.ndarray], float]
"""(question, tokens of S, tokens of P) -> log of how far the question asks for P, of all there is to ask; at most 0."""

OF_FIT, OF_MASS = 0.3, 0.2
"""Powers of h(S): from there to 1 they choose alike; small ones leave what the question names its say."""


@dataclass(frozen=True)
class Candidates:
    """Scored entries: question [m], terminal state [m, ...], log-probability [m], and the evidence for them.

    `subject` [m] is log p(S | Q) and `predicate` [m] log p(P | S, Q) of the model alone, before tree and prior: low
    where the knowledge base lacks what was asked for.
    """

    owner: np.ndarray
    state: State
    score: np.ndarray
    subject: np.ndarray
    predicate: np.ndarray

    def __len__(self) -> int:
        return len(self.owner)


@dataclass(frozen=True)
class _Chain:
    """Tokens below a subject path of which those from `wanted` on are scored."""

    path: int
    tokens: np.ndarray
    wanted: int = 0


def with_prior(
    session: TreeSession,
    found: Paths,
    entries: Completions,
    prompts: Sequence[np.ndarray],
    weight: float,
    *,
    opinion: Opinion | None = None,
    wanted: Wanted | None = None,
) -> Candidates:
    """Score the entries below each found subject path. `prompts[i]` is the empty question about path i's subject.

    `opinion` and `wanted` are the matcher's; None without one.

    At most three model calls for the whole batch: the prompts, all predicates under question and prompt together, and
    the senses where a predicate leaves a choice.
    """
    group, starts = _predicates(entries, end_id=int(found.tokens[0, found.length[0] - 1]))  # a subject ends with END
    path = np.repeat(np.arange(len(found)), np.diff(entries.owner_ptr))
    scorer = _Scorer(session, found, prompts, weight)
    heads = [_Chain(int(path[first]), entries.tokens[a:b]) for first, a, b in starts]
    asked, corrected = scorer.score(heads, names=True)
    heads_of_path = np.searchsorted([chain.path for chain in heads], np.arange(len(found) + 1))
    if opinion is not None:
        corrected = corrected + _opinions(opinion, found, heads, heads_of_path)
    held = _held(found, heads, heads_of_path, asked, corrected, wanted)
    score = renormalise(heads_of_path, corrected)[group] + (scorer.named + held)[path]
    score = score + _senses(scorer, entries, group, starts, path)
    return Candidates(found.owner[path], entries.terminal, score, scorer.named[path], asked[group])


def _opinions(opinion: Opinion, found: Paths, heads: Sequence[_Chain], heads_of_path: np.ndarray) -> np.ndarray:
    """What the matcher adds to each predicate's score: [g]."""
    parts = []
    for row, (a, b) in enumerate(zip(heads_of_path[:-1].tolist(), heads_of_path[1:].tolist(), strict=True)):
        predicates = [chain.tokens[:-1] for chain in heads[a:b]]  # without END
        parts.append(opinion(int(found.owner[row]), found.chain(row)[:-1], predicates))
    return np.concatenate(parts) if parts else np.zeros(0)


def _held(
    found: Paths,
    heads: Sequence[_Chain],
    heads_of_path: np.ndarray,
    asked: np.ndarray,
    corrected: np.ndarray,
    wanted: Wanted | None,
) -> np.ndarray:
    """log h(S) of each path, [r]. Where a question has one path it decides nothing, and `wanted` is not asked."""
    held = np.zeros(len(found))
    alone = np.bincount(found.owner)[found.owner] == 1
    for row in np.flatnonzero(np.diff(heads_of_path)).tolist():
        a, b = heads_of_path[row : row + 2].tolist()
        if wanted is None:
            held[row] = OF_MASS * np.logaddexp.reduce(asked[a:b])
        elif not alone[row]:
            best = heads[a + int(corrected[a:b].argmax())]
            held[row] = OF_FIT * wanted(int(found.owner[row]), found.chain(row)[:-1], best.tokens[:-1])
    return held


def _predicates(entries: Completions, *, end_id: int) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Group of each entry (equal path and P), and for each group its first entry and where its P stands in the tokens.

    Entries come in key order, so equal predicates stand together. P ends with the first END of an entry.
    """
    ends = np.flatnonzero(entries.tokens == end_id)
    stops = ends[np.searchsorted(ends, entries.token_ptr[:-1])] + 1
    path = np.repeat(np.arange(len(entries.owner_ptr) - 1), np.diff(entries.owner_ptr))
    group, starts = np.zeros(len(path), np.int64), []
    previous: tuple[int, bytes] | None = None
    for entry, (a, b) in enumerate(zip(entries.token_ptr[:-1].tolist(), stops.tolist(), strict=True)):
        key = (int(path[entry]), entries.tokens[a:b].tobytes())
        if key != previous:
            starts.append((entry, a, b))
            previous = key
        group[entry] = len(starts) - 1
    return group, starts


def _senses(
    scorer: _Scorer, entries: Completions, group: np.ndarray, starts: list[tuple[int, int, int]], path: np.ndarray
) -> np.ndarray:
    """log p(M | S, P, Q) of each entry: 0 where there is one sense."""
    share = np.zeros(len(group))
    sizes = np.bincount(group, minlength=len(starts))
    several = np.flatnonzero(sizes[group] > 1)
    if not len(several):
        return share
    chains = []
    for entry in several:
        _, a, b = starts[group[entry]]
        tokens = entries.tokens[entries.token_ptr[entry] : entries.token_ptr[entry + 1]]
        chains.append(_Chain(int(path[entry]), tokens, b - a))
    _, corrected = scorer.score(chains)
    chosen = pointers(sizes[sizes > 1])
    share[several] = renormalise(chosen, corrected)
    return share


class _Scorer:
    """log p of chains below the subject paths, under the question and minus the prior.

    `named` is log p(S | Q) of each path, once `score` was asked for it: forced tokens count here, for what the tree
    leaves no choice in may still be what the question does not say.
    """

    def __init__(self, session: TreeSession, found: Paths, prompts: Sequence[np.ndarray], weight: float) -> None:
        self.session, self.found, self.weight = session, found, weight
        self.pending = [found.tokens[row, found.fed[row] : found.length[row]] for row in range(len(found))]
        self.both = session
        self.named = np.full(len(found), np.nan)
        if weight:
            names = [found.chain(row) for row in range(len(found))]
            self.prior = TreeSession(session.model, prompts, prefixes=names)
            self.both = session.joined(self.prior)
            session.calls[np.unique(found.owner)] += 1
            session.fed += self.prior.fed

    def score(self, chains: Sequence[_Chain], *, names: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """log p(chain | S, Q), and the same minus weight * log p(chain | S): both [c], one model call."""
        path = np.array([chain.path for chain in chains], np.int64)
        owner, parent = self.found.owner[path], self.found.node[path]
        full = [np.concatenate([self.pending[chain.path], chain.tokens]) for chain in chains]
        first = np.array([len(self.pending[chain.path]) + chain.wanted for chain in chains], np.int64)
        if self.weight:
            owner = np.concatenate([owner, len(self.session.source_length) + path])
            parent = np.concatenate([parent, self.prior.tips[path]])
            full += [chain.tokens for chain in chains]
            first = np.concatenate([first, np.array([chain.wanted for chain in chains], np.int64)])
        fed, scored = self.both.fed, len(full)
        if names:  # what of them is still to be fed rides in the same call
            owner, parent = np.concatenate([owner, self.found.owner]), np.concatenate([parent, self.found.node])
            full, first = full + self.pending, np.concatenate([first, np.zeros(len(self.found), np.int64)])
        log_p = _chain_scores(self.both, owner, parent, full, first)
        if names:
            self.named = self._fed_part() + log_p[scored:]
            log_p = log_p[:scored]
        self.session.fed += self.both.fed - fed
        self.session.calls[np.unique(self.found.owner[path])] += 1
        asked = log_p[: len(chains)]
        return asked, asked - self.weight * log_p[len(chains) :] if self.weight else asked

    def _fed_part(self) -> np.ndarray:
        """log p of those tokens of each path that the session has read, each predicted by the node before it: [r]."""
        rows, nodes, tokens = [], [], []
        for row in range(len(self.found)):
            owner, node = int(self.found.owner[row]), int(self.found.node[row])
            while node != self.session.roots[owner]:
                above = int(self.session.parent[owner, node])
                rows.append(row)
                nodes.append(above)
                tokens.append(self.session.ids[owner, node])
                node = above
        row = np.array(rows, np.int64)
        owner = self.found.owner[row]
        states = self.session.states_at(owner, np.array(nodes, np.int64))
        wanted_ptr = np.arange(len(row) + 1)
        log_p = self.session.log_probabilities(owner, states, wanted_ptr, np.array(tokens, np.int64))
        return np.bincount(row, weights=log_p, minlength=len(self.found))


def _chain_scores(
    session: TreeSession, owner: np.ndarray, parent: np.ndarray, chains: Sequence[np.ndarray], first: np.ndarray
) -> np.ndarray:
    """Sum of log p of the tokens of each chain from index `first` on, in one model call, or a few for very many."""
    part = np.cumsum([len(chain) for chain in chains]) // TOKENS_AT_ONCE
    sums = []
    for chosen in np.split(np.arange(len(chains)), np.flatnonzero(np.diff(part)) + 1):
        some = [chains[i] for i in chosen]
        sums.append(_scores_at_once(session, owner[chosen], parent[chosen], some, first[chosen]))
    return np.concatenate(sums)


def _scores_at_once(
    session: TreeSession, owner: np.ndarray, parent: np.ndarray, chains: Sequence[np.ndarray], first: np.ndarray
) -> np.ndarray:
    """Sum of log p of the tokens of each chain from index `first` on; each is predicted by the token before it."""
    chunks = Chunks.of(owner, parent, [chain[:-1] for chain in chains])
    _, states = session.feed(chunks, keep=False, width=ROW_WIDTH)
    counts = np.array([len(chain) for chain in chains], np.int64) - first
    wanted_ptr = pointers(counts)
    chain = np.repeat(np.arange(len(chains)), counts)
    place = np.arange(wanted_ptr[-1]) - wanted_ptr[chain] + first[chain]
    at_parent = place == 0
    predictors = states[np.where(at_parent, 0, chunks.row_ptr[chain] + place - 1)]
    if at_parent.any():
        rows = np.flatnonzero(at_parent)
        predictors[rows] = session.states_at(owner[chain[rows]], parent[chain[rows]])
    wanted = np.concatenate([tokens[start:] for tokens, start in zip(chains, first, strict=True)])
    log_p = session.log_probabilities(owner[chain], predictors, np.arange(len(wanted) + 1), wanted)
    return np.bincount(chain, weights=log_p, minlength=len(chains))
