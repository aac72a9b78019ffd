"""Extractive reading comprehension over several passages, written token by token or read off masks at once.

Post: 7115 (written by a sequence-to-sequence model that reads each passage), 7148 (masks filled in parallel)

In both the answer must be a span of a passage, which the tree over its windows sees to (`spans.py`), and several
passages are asked about one question and agree on an answer.

Notation (-> in the posts)
    P passages, k of them still asked, b beams, A masks (slots), V vocabulary
    p_i(v)       probability of token v, reading passage i
    merged       sum_i p_i(v)^2 / (sum_i p_i(v) + 1): a vote in which the sure count more; at most k / (k + 1)
    no answer    END is the likeliest first token of all the vocabulary: the passage is not asked any further
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import ArrayLike

from tianwen.ask.seq2seq import AskModel
from tianwen.ask.session import Chunks, TreeSession
from tianwen.ask.spans import SpanConstraint
from tianwen.ask.trie import State
from tianwen.errors import InputError

NextToken = Callable[[Int64[np.ndarray, " k"], Int64[np.ndarray, " b t"]], Float[np.ndarray, " k b V"]]
"""(passages, what was written) -> probability of every token to come next, reading each of these passages."""


@dataclass(frozen=True)
class Reading:
    """An answer: its tokens, how sure the passages together are of it, and where it stands: (passage, first token)."""

    tokens: tuple[int, ...]
    score: float
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Path:
    """An answer being written: its state in the tree of each passage still asked, and its log-probability."""

    tokens: tuple[int, ...]
    state: State
    score: float


def merge(p: Float[np.ndarray, " passages *rest"]) -> Float[np.ndarray, " *rest"]:
    """Several passages' probabilities of the same thing as one number: sum p^2 / (sum p + 1), over the first axis."""
    return (p**2).sum(axis=0) / (p.sum(axis=0) + 1)


def read_by_writing(next_token: NextToken, spans: SpanConstraint, *, beams: int = 1) -> list[Reading]:
    """The answers that the passages agree on token by token, best first; none if no passage has one.

    Each step takes spans of any passage still asked, by the merged probabilities, renormalised over what is allowed.
    (The post adds up the merged ones as they are. They are below a half even where a single passage is sure, which
    favours short answers; for its one beam the choice is the same.)
    """
    if beams < 1:
        raise InputError(f"beams counts paths, so the least is 1, not {beams}.")
    nothing = np.zeros((1, 0), np.int64)
    p = next_token(np.arange(spans.sources), nothing)  # [P, 1, V]
    asked = np.flatnonzero(p[:, 0].argmax(axis=1) != spans.end_id)
    paths, ended = [_Path((), spans.roots(asked), 0.0)], []
    p = p[asked]
    while paths and len(asked):
        grown = _grown(paths, merge(p), spans, beams)
        ended += [path for path in grown if path.tokens[-1] == spans.end_id]
        paths = [path for path in grown if path.tokens[-1] != spans.end_id]
        best = sorted((path.score for path in ended), reverse=True)[:beams]
        if len(best) == beams and all(path.score <= best[-1] for path in paths):
            break  # scores never rise
        if paths:
            p = next_token(asked, np.array([path.tokens for path in paths], np.int64))
    ended.sort(key=lambda path: -path.score)
    return [_reading(path, spans) for path in ended[:beams]]


def _grown(paths: list[_Path], p: Float[np.ndarray, " b V"], spans: SpanConstraint, beams: int) -> list[_Path]:
    """The best continuations of the paths by a token that some passage allows."""
    grown = []
    for path, row in zip(paths, p, strict=True):
        token = np.unique(spans.allowed(path.state)[1])
        with np.errstate(divide="ignore"):
            log_p = np.log(row[token])
        log_p -= np.logaddexp.reduce(log_p) if len(token) and np.isfinite(log_p.max()) else 0.0
        for k in np.argsort(-log_p, kind="stable")[:beams]:
            state = spans.advance(path.state, np.full(len(path.state), token[k]))
            grown.append(_Path((*path.tokens, int(token[k])), state, path.score + float(log_p[k])))
    return sorted(grown, key=lambda path: -path.score)[:beams]


def _reading(path: _Path, spans: SpanConstraint) -> Reading:
    return Reading(path.tokens[:-1], float(np.exp(path.score)), _places(path.state, spans))


def _places(state: State, spans: SpanConstraint) -> tuple[tuple[int, int], ...]:
    found = [zip(passage.tolist(), start.tolist(), strict=True) for passage, start in spans.places(state[state >= 0])]
    return tuple(sorted(place for places in found for place in places))


def read_by_slots(p: Float[np.ndarray, " P A V"], spans: SpanConstraint) -> list[Reading]:
    """The passages' answers, filled slot by slot with the likeliest token of a span; best first, equal ones merged.

    A passage whose first slot says END has none (only with `spans` that allow an empty answer). An answer's score in
    one passage is the mean probability of its tokens, END included, and those of several passages are merged.
    """
    if p.ndim != 3 or len(p) != spans.sources:
        raise InputError(f"One row of slots for each of {spans.sources} passages is needed, not {p.shape}.")
    state = spans.root(spans.sources)
    chosen, sums = [[] for _ in range(spans.sources)], np.zeros(spans.sources)
    for slot in range(p.shape[1]):
        row_ptr, token, after = spans.allowed(state)
        for i in np.flatnonzero(np.diff(row_ptr)):  # passages whose answer goes on
            allowed = slice(row_ptr[i], row_ptr[i + 1])
            best = int(p[i, slot, token[allowed]].argmax())
            chosen[i].append(int(token[allowed][best]))
            sums[i] += p[i, slot, chosen[i][-1]]
            state[i] = after[allowed][best]
        state[np.diff(row_ptr) == 0] = -1  # ended in the slot before, or with nothing to say
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, tokens in enumerate(chosen):
        answer = tuple(tokens[:-1] if tokens[-1:] == [spans.end_id] else tokens)
        if answer:
            found[answer].append(i)
    score = lambda passages: float(merge(np.array([sums[i] / len(chosen[i]) for i in passages])))  # noqa: E731
    readings = [Reading(answer, score(where), _whole(answer, where, spans)) for answer, where in found.items()]
    return sorted(readings, key=lambda reading: -reading.score)


def _whole(answer: tuple[int, ...], passages: Sequence[int], spans: SpanConstraint) -> tuple[tuple[int, int], ...]:
    """Where the answer stands in these passages."""
    state = spans.roots(np.asarray(passages))
    for token in answer:
        state = spans.advance(state, np.full(len(state), token))
    return _places(state, spans)


def slotted(question: ArrayLike, passage: ArrayLike, *, slots: int, marks: tuple[int, int, int]) -> np.ndarray:
    """The input of 7148: [CLS] [MASK] * slots [SEP] question [SEP] passage [SEP]; `marks` are CLS, MASK and SEP.

    The slots stand first, so that their positions do not depend on the question's length.
    """
    cls, mask, sep = marks
    parts = [[cls], [mask] * slots, [sep], np.asarray(question), [sep], np.asarray(passage), [sep]]
    return np.concatenate(parts).astype(np.int64)


class WritingModel:
    """An asker's model as `next_token`: each passage with the question is a source, read once and kept."""

    def __init__(self, model: AskModel, sources: Sequence[np.ndarray]) -> None:
        """`sources`: token ids of each passage with the question, as the model was trained on them."""
        self.session = TreeSession(model.eval(), sources)
        self.vocabulary = model.config.backbone.vocabulary
        self._node: dict[tuple[int, tuple[int, ...]], int] = {}

    def __call__(
        self, passages: Int64[np.ndarray, " k"], written: Int64[np.ndarray, " b t"]
    ) -> Float[np.ndarray, " k b V"]:
        prefixes = [tuple(row) for row in written.tolist()]
        wanted = [(passage, prefix) for passage in passages.tolist() for prefix in prefixes]
        self._feed([(passage, prefix) for passage, prefix in wanted if prefix])
        owner = np.array([passage for passage, _ in wanted], np.int64)
        states = self.session.states_at(owner, np.array([self._at(*each) for each in wanted], np.int64))
        every, one = np.arange(self.vocabulary), np.array([0, self.vocabulary])
        log_p = [
            self.session.log_probabilities(owner[i : i + 1], states[i : i + 1], one, every) for i in range(len(owner))
        ]
        return np.exp(np.reshape(log_p, (len(passages), len(prefixes), self.vocabulary)))

    def _feed(self, wanted: list[tuple[int, tuple[int, ...]]]) -> None:
        """Feed the last token of what was not read yet; all before it was read in the step before."""
        new = [each for each in dict.fromkeys(wanted) if each not in self._node]
        if new:
            owner = [passage for passage, _ in new]
            parent = [self._at(passage, prefix[:-1]) for passage, prefix in new]
            nodes, _ = self.session.feed(Chunks.of(owner, parent, [prefix[-1:] for _, prefix in new]))
            self._node.update(zip(new, nodes.tolist(), strict=True))

    def _at(self, passage: int, prefix: tuple[int, ...]) -> int:
        return self._node[passage, prefix] if prefix else int(self.session.roots[passage])
