"""Search among the entries of a catalogue: many questions at once, beam or exact best-first, forced chains for nothing.

Scores are renormalised over the children that the tree allows, so (1) the score of a path never rises, (2) where only
one child is allowed its probability is 1: the token is taken without a model call, and whole forced chains are fed
together with the next token that needs one. Because of (1) a finished path that is no worse than every open one is
final: with nothing pruned, the first k finished paths are provably the k best.

Post: 8802. Reference defects that must not come back: an END that is no child, a beam that leaves the tree, a finished
path that is forgotten, NaN where all allowed tokens are unlikely, filler when there are fewer entries than beams.

Notation
    n paths: owner [n] question, state [n, ...] of the tree, node [n] last token fed, score [n] log-probability,
    tokens [n, W] and length [n] what was chosen, fed [n] how many of them the model has seen,
    raw [n] log-probability before renormalising: far below `score` where the tree lacks what the model wants to say
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tianwen.ask.session import Chunks, TreeSession
from tianwen.ask.trie import Constraint

Reweigh = Callable[["Paths", np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(paths, row_ptr, token, next_state) -> divisor of each log-probability: the lookahead's hook."""


@dataclass(frozen=True)
class Paths:
    """A batch of paths through the tree; see the notation above."""

    owner: np.ndarray
    state: np.ndarray
    node: np.ndarray
    score: np.ndarray
    tokens: np.ndarray
    length: np.ndarray
    fed: np.ndarray
    raw: np.ndarray

    @classmethod
    def start(cls, session: TreeSession, constraint: Constraint) -> Paths:
        """One empty path a question."""
        n = len(session.source_length)
        zeros = np.zeros(n, np.int64)
        tokens = np.zeros((n, 8), np.int64)
        root = constraint.root(n)
        return cls(np.arange(n), root, session.roots.copy(), np.zeros(n), tokens, zeros, zeros, np.zeros(n))

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, index: np.ndarray) -> Paths:
        """The paths at `index` (integers or a mask)."""
        return Paths(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def plus(self, other: Paths) -> Paths:
        """These paths and the others."""
        width = max(self.tokens.shape[1], other.tokens.shape[1])
        a, b = self.widened(width), other.widened(width)
        return Paths(*(np.concatenate([getattr(a, name), getattr(b, name)]) for name in self.__dataclass_fields__))

    def widened(self, width: int) -> Paths:
        """Room for `width` tokens."""
        missing = width - self.tokens.shape[1]
        return self if missing <= 0 else replace(self, tokens=np.pad(self.tokens, ((0, 0), (0, missing))))

    def appended(self, token: np.ndarray, state: np.ndarray, score: np.ndarray, raw: np.ndarray) -> Paths:
        """Each path one token longer."""
        wide = self.widened(int(self.length.max(initial=0)) + 1) if len(self) else self
        tokens = wide.tokens.copy()
        tokens[np.arange(len(self)), self.length] = token
        return replace(wide, tokens=tokens, length=self.length + 1, state=state, score=score, raw=raw)

    def chain(self, row: int) -> np.ndarray:
        """The tokens chosen by path `row`."""
        return self.tokens[row, : self.length[row]]


@dataclass(frozen=True)
class Search:
    """How to search.

    `beams` paths a question are kept, and expanded in each round. `exact`: best first instead, `beams` expansions a
    round, nothing pruned; after `rounds` of them (None: never) it goes on as a beam of `keep`, so that a question about
    nothing in the catalogue ends too.
    `until_field` stops a path once that many fields are complete (None: at the end of the entry).
    `forced_chains=False` feeds forced tokens one call each: slower, the same result.
    `keep` finished paths are wanted for each question; open paths less likely than the best finished one by more than
    `within` (log-probability) are given up.
    """

    beams: int = 4
    keep: int = 4
    exact: bool = False
    until_field: int | None = None
    forced_chains: bool = True
    reweigh: Reweigh | None = None
    within: float = np.inf
    rounds: int | None = None


def search(session: TreeSession, constraint: Constraint, paths: Paths, how: Search) -> Paths:
    """The best `how.keep` finished paths of each question, best first within a question (fewer if there are fewer)."""
    advance = _best_first_round if how.exact else _beam_round
    done = paths.take(np.zeros(0, np.int64))
    frontier, rounds = paths, 0
    while len(frontier):
        if how.exact and rounds == how.rounds:
            how, advance = replace(how, exact=False, beams=how.keep), _beam_round
            frontier = _pruned(constraint, frontier, how)
        rounds += 1
        finished = _finished(constraint, frontier.state, how)
        done = _best(done.plus(frontier.take(finished)), how.keep)
        frontier = _still_open(frontier.take(~finished), done, how)
        if len(frontier):
            frontier = advance(session, constraint, frontier, how)
    return done


def _best_first_round(session: TreeSession, constraint: Constraint, frontier: Paths, how: Search) -> Paths:
    """Expand the best open paths of each question, whatever their length; prune nothing."""
    chosen = _rank_within_owner(frontier) < how.beams
    best, waiting = frontier.take(chosen), frontier.take(~chosen)
    if how.forced_chains:
        best = _follow_forced(constraint, best, how)
    over = _finished(constraint, best.state, how)
    grown = _expand(session, constraint, best.take(~over), how) if not over.all() else best.take(~over)
    return grown.plus(best.take(over)).plus(waiting)


def _beam_round(session: TreeSession, constraint: Constraint, frontier: Paths, how: Search) -> Paths:
    """One step of a beam search in which each question stands at a depth of its own.

    All paths of a question are equally long. Where none of them forks, the step needs no model: such questions walk on
    until they reach a fork (or an end), then all questions are expanded in one call. What is found is what a beam
    search that calls the model for every token finds.
    """
    if not how.forced_chains:
        return _pruned(constraint, _expand(session, constraint, frontier, how, most=how.beams), how)
    waiting = frontier.take(np.zeros(0, np.int64))
    walking = frontier
    ended = waiting
    while len(walking):
        row_ptr, token, next_state = constraint.allowed(walking.state)
        fork = np.diff(row_ptr) > 1
        halted = np.isin(walking.owner, walking.owner[fork])
        waiting = waiting.plus(walking.take(halted))
        walking, at = walking.take(~halted), row_ptr[:-1][~halted]
        if not len(walking):
            break
        walking = walking.appended(token[at].astype(np.int64), next_state[at], walking.score, walking.raw)
        over = _finished(constraint, walking.state, how)
        ended = ended.plus(walking.take(over))
        walking = walking.take(~over)
    if not len(waiting):
        return ended
    single = _single_child(constraint, waiting)
    forced = _step_forced(constraint, waiting.take(single))
    grown = _expand(session, constraint, waiting.take(~single), how, most=how.beams).plus(forced)
    return _pruned(constraint, grown, how).plus(ended)


def _single_child(constraint: Constraint, paths: Paths) -> np.ndarray:
    return np.diff(constraint.allowed(paths.state)[0]) == 1


def _step_forced(constraint: Constraint, paths: Paths) -> Paths:
    """Each path, which has one child, one token longer; its score stays."""
    row_ptr, token, next_state = constraint.allowed(paths.state)
    at = row_ptr[:-1]
    return paths.appended(token[at].astype(np.int64), next_state[at], paths.score, paths.raw)


def _pruned(constraint: Constraint, paths: Paths, how: Search) -> Paths:
    """The best `beams` open paths of each question, and all finished ones: an end is not forgotten for being second."""
    over = _finished(constraint, paths.state, how)
    still = paths.take(~over)
    return paths.take(over).plus(still.take(_rank_within_owner(still) < how.beams))


def _finished(constraint: Constraint, state: np.ndarray, how: Search) -> np.ndarray:
    if how.until_field is None:
        return constraint.is_terminal(state)
    return constraint.field(state) >= how.until_field


def _rank_within_owner(paths: Paths) -> np.ndarray:
    """0 for the best path of each question, 1 for the next ...; equal scores in the order of their last tokens."""
    last = paths.tokens[np.arange(len(paths)), paths.length - 1]
    order = np.lexsort((last, -paths.score, paths.owner))
    owner = paths.owner[order]
    first = np.searchsorted(owner, owner, side="left")
    rank = np.empty(len(paths), np.int64)
    rank[order] = np.arange(len(paths)) - first
    return rank


def _best(paths: Paths, keep: int) -> Paths:
    kept = paths.take(_rank_within_owner(paths) < keep)
    return kept.take(np.lexsort((-kept.score, kept.owner)))


def _still_open(frontier: Paths, done: Paths, how: Search) -> Paths:
    """Drop open paths that cannot enter the best `keep` finished ones any more (scores never rise) or are hopeless."""
    if not len(done) or not len(frontier):
        return frontier
    count = np.bincount(done.owner, minlength=int(frontier.owner.max()) + 1)
    worst = np.full(len(count), -np.inf)
    full = count >= how.keep
    lowest = np.full(len(count), np.inf)
    np.minimum.at(lowest, done.owner, done.score)
    worst[full] = lowest[full]
    best = np.full(len(count), -np.inf)
    np.maximum.at(best, done.owner, done.score)
    worst = np.maximum(worst, best - how.within)
    return frontier.take(frontier.score > worst[frontier.owner])


def _follow_forced(constraint: Constraint, paths: Paths, how: Search) -> Paths:
    """Walk on while exactly one child is allowed: probability 1, no model call."""
    active = np.flatnonzero(~_finished(constraint, paths.state, how))
    while len(active):
        row_ptr, token, next_state = constraint.allowed(paths.state[active])
        single = np.diff(row_ptr) == 1
        active = active[single]
        if not len(active):
            break
        at = row_ptr[:-1][single]
        part = paths.take(active)
        part = part.appended(token[at].astype(np.int64), next_state[at], part.score, part.raw)
        paths = _put(paths, active, part)
        active = active[~_finished(constraint, paths.state[active], how)]
    return paths


def _put(paths: Paths, index: np.ndarray, part: Paths) -> Paths:
    wide = paths.widened(part.tokens.shape[1])
    part = part.widened(wide.tokens.shape[1])
    columns = []
    for name in paths.__dataclass_fields__:
        column = getattr(wide, name).copy()
        column[index] = getattr(part, name)
        columns.append(column)
    return Paths(*columns)


def _catch_up(session: TreeSession, paths: Paths) -> Paths:
    """Step onto nodes that were fed before (by another path, or on speculation) instead of feeding them again."""
    node, fed = paths.node.copy(), paths.fed.copy()
    for row in range(len(paths)):
        while fed[row] < paths.length[row]:
            child = session.child(int(paths.owner[row]), int(node[row]), int(paths.tokens[row, fed[row]]))
            if child is None:
                break
            node[row], fed[row] = child, fed[row] + 1
    return replace(paths, node=node, fed=fed)


def _feed_pending(session: TreeSession, paths: Paths) -> Paths:
    """One model call for everything that the paths chose and the model has not seen."""
    paths = _catch_up(session, paths)
    late = np.flatnonzero(paths.fed < paths.length)
    if not len(late):
        return paths
    chains = [paths.tokens[row, paths.fed[row] : paths.length[row]] for row in late]
    chunks = Chunks.of(paths.owner[late], paths.node[late], chains)
    nodes, _ = session.feed(chunks)
    node = paths.node.copy()
    node[late] = nodes[chunks.row_ptr[1:] - 1]
    return replace(paths, node=node, fed=paths.length.copy())


def _expand(
    session: TreeSession, constraint: Constraint, paths: Paths, how: Search, *, most: int | None = None
) -> Paths:
    """All allowed continuations of the paths, scored by the model and renormalised over the allowed children.

    With `most`, those that cannot be among the best `most` of their question are left out, ENDs aside.
    """
    paths = _feed_pending(session, paths)
    row_ptr, token, next_state = constraint.allowed(paths.state)
    states = session.states_at(paths.owner, paths.node)
    raw = session.log_probabilities(paths.owner, states, row_ptr, token)
    log_p = raw
    if how.reweigh is not None:
        log_p = raw / how.reweigh(paths, row_ptr, token, next_state)
    log_p = renormalise(row_ptr, log_p)
    row = np.repeat(np.arange(len(paths)), np.diff(row_ptr))
    score = paths.score[row] + log_p
    if most is not None and len(row) > MANY * len(paths):
        likely = np.flatnonzero(_likely(paths.owner[row], score, most) | (token == constraint.end_id))
        row, token, next_state, score, raw = row[likely], token[likely], next_state[likely], score[likely], raw[likely]
    grown = paths.take(row)
    return grown.appended(token.astype(np.int64), next_state, score, grown.raw + raw)


MANY = 64
"""Children a path from which on it pays to look for the likely ones first."""


def _likely(owner: np.ndarray, score: np.ndarray, most: int) -> np.ndarray:
    """Which scores are among the best `most` of their owner, ties included: bool [m]."""
    order = np.argsort(owner, kind="stable")
    least = np.full(int(owner.max()) + 1, -np.inf)
    for part in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
        if len(part) > most:
            least[owner[part[0]]] = np.partition(score[part], len(part) - most)[len(part) - most]
    return score >= least[owner]


def renormalise(row_ptr: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """log-softmax within each ragged row; finite wherever the row has a finite entry."""
    if not len(log_p):
        return log_p
    lengths = np.diff(row_ptr)
    used = np.flatnonzero(lengths)
    row = np.repeat(np.arange(len(used)), lengths[used])
    top = np.maximum.reduceat(log_p, row_ptr[:-1][used])
    shifted = log_p - top[row]
    return shifted - np.log(np.add.reduceat(np.exp(shifted), row_ptr[:-1][used]))[row]
