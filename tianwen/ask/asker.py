"""Ask a knowledge base in plain language; every answer exists in it.

Post: 8802. The way of a batch of questions: encode them; search the subjects (beam or exact best-first, forced chains,
literal names fed on speculation); score every (predicate, sense) of the best subjects as a whole, corrected by the
prior; look the facts up. `scoring="path"` is the post's own way: one beam through subject, predicate and sense with the
lookahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch

from tianwen.ask.beam import Paths, Search, search
from tianwen.ask.candidates import Candidates, Opinion, Wanted, with_prior
from tianwen.ask.entries import entries_below
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.lookahead import lookahead_reweigh
from tianwen.ask.matcher import Matcher
from tianwen.ask.model_files import AskerSettings, load_asker, save_asker
from tianwen.ask.seq2seq import AskModel
from tianwen.ask.session import TreeSession
from tianwen.ask.snapshot import Snapshot
from tianwen.ask.speculation import speculate
from tianwen.backbone.linear import pack_for_inference
from tianwen.errors import InputError
from tianwen.text import Tokenizer

IMPLAUSIBLE = 5.0
"""Subjects this far below the best in log-probability (1 in 150) are not looked into."""

PATIENCE = 24
"""Best-first expansions of a question before its search goes on as a beam."""

SearchKind = Literal["auto", "beam", "exact"]
Scoring = Literal["prior", "path"]

BUNDLED = Path(__file__).parent.parent / "models" / "asker"


@dataclass(frozen=True)
class Answer:
    """One answer: a path of the knowledge base and the objects at its end."""

    subject: str
    predicate: str
    sense: str
    objects: list[str]
    probability: float  # calibrated: of answers with probability p, a share of about p is right
    sources: list[str]  # one for each object, "" where the fact has none
    known: bool = True  # false below the "don't know" threshold


@dataclass(frozen=True)
class AskOptions:
    """How to answer.

    `top` answers a question; `beams` subjects followed. `search`: auto is best-first with an end to its patience (for
    `scoring="path"` a beam); beam prunes at every step; exact proves that nothing scores higher. `threshold`: below it
    an answer is marked as not known (None: the model's own). `prior_weight` and `match_weight` (of the matcher's
    opinion, where the asker has one) None: the model's own.
    """

    top: int = 1
    beams: int = 4
    search: SearchKind = "auto"
    scoring: Scoring = "prior"
    lookahead: bool = True
    threshold: float | None = None
    prior_weight: float | None = None
    match_weight: float | None = None
    forced_chains: bool = True
    speculate: bool = True

    def __post_init__(self) -> None:
        if min(self.top, self.beams) < 1:
            raise InputError(f"top and beams count answers and paths, so the least is 1; given: {self}.")
        if self.search not in get_args(SearchKind) or self.scoring not in get_args(Scoring):
            raise InputError(f"search is one of {get_args(SearchKind)}, scoring of {get_args(Scoring)}; given: {self}.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"threshold is a probability, from 0 to 1, not {self.threshold}.")


@dataclass
class Trace:
    """What answering cost, added up over batches."""

    questions: int = 0
    model_calls: int = 0  # sequential calls, summed over questions
    tokens: int = 0
    raw: list[float] = field(default_factory=list)


class Asker:
    """A model and its tokenizer, ready to ask any knowledge base built with that tokenizer."""

    def __init__(
        self,
        model: AskModel,
        tokenizer: Tokenizer,
        settings: AskerSettings | None = None,
        *,
        matcher: Matcher | None = None,
    ) -> None:
        self.model = model.eval()
        pack_for_inference(self.model)
        self.tokenizer = tokenizer
        self.settings = settings or AskerSettings()
        self.matcher = matcher

    @classmethod
    def load(cls, path: str | Path | None = None) -> Asker:
        """The bundled model, or one saved by training. Raises ModelError when the files are missing or damaged."""
        folder = Path(path) if path is not None else BUNDLED
        model, tokenizer, settings = load_asker(folder)
        return cls(model, tokenizer, settings, matcher=Matcher.load(folder))

    def save(self, path: str | Path, *, storage: Literal["fp32", "fp16", "int8"] = "fp32") -> None:
        """Write model, tokenizer, settings and, if there is one, the matcher into the folder `path`."""
        save_asker(Path(path), self.model, self.tokenizer, self.settings, storage=storage)
        if self.matcher is not None:
            self.matcher.save(Path(path))

    @overload
    def ask(  # pyright: ignore[reportOverlappingOverload]  (a str is a Sequence[str])
        self, question: str, kb: KnowledgeBase | Snapshot, **options: Any
    ) -> list[Answer]: ...
    @overload
    def ask(self, question: Sequence[str], kb: KnowledgeBase | Snapshot, **options: Any) -> list[list[Answer]]: ...
    def ask(
        self, question: str | Sequence[str], kb: KnowledgeBase | Snapshot, **options: Any
    ) -> list[Answer] | list[list[Answer]]:
        """Answers to one question, or a list of answers for each of several; options as in `AskOptions`.

        Raises InputError for an empty or too long question, WrongTokenizer for a knowledge base of another vocabulary.
        """
        how = AskOptions(**options)
        if isinstance(question, str):
            return next(self.answers([question], kb, how))
        return list(self.answers(question, kb, how))

    def answers(
        self,
        questions: Sequence[str],
        kb: KnowledgeBase | Snapshot,
        how: AskOptions,
        *,
        batch: int = 32,
        trace: Trace | None = None,
    ) -> Iterator[list[Answer]]:
        """Answers question by question, `batch` of them decoded together, in the order given."""
        snapshot = kb.snapshot() if isinstance(kb, KnowledgeBase) else kb
        snapshot.require_tokenizer(self.tokenizer)
        for start in range(0, len(questions), batch):
            yield from self._answer_batch(questions[start : start + batch], snapshot, how, trace)

    def _answer_batch(
        self, questions: Sequence[str], snapshot: Snapshot, how: AskOptions, trace: Trace | None
    ) -> list[list[Answer]]:
        ids = [self.question_ids(question) for question in questions]
        if not len(snapshot):
            return [[] for _ in questions]
        device = next(self.model.parameters()).device.type
        fast = torch.autocast(device, dtype=torch.bfloat16) if self.settings.bf16 else nullcontext()
        with torch.inference_mode(), fast:
            session, candidates = self.candidates(ids, snapshot, how)
        if trace is not None:
            trace.questions += len(questions)
            trace.model_calls += int(session.calls.sum())
            trace.tokens += session.fed
        return [self._best_answers(row, question, candidates, snapshot, how) for row, question in enumerate(questions)]

    def question_ids(self, question: str) -> np.ndarray:
        """[CLS] tokens [SEP]; InputError where there is nothing to ask or more than the model can read."""
        limit = self.settings.max_question
        if not isinstance(question, str):
            raise InputError(f"A question is a text, not {type(question).__name__}.")
        if len(question) > 64 * limit:
            raise InputError(_too_long(f"{len(question):,} characters", limit))
        tokens = self.tokenizer.ids(question)
        if not len(tokens):
            raise InputError("The question is empty. Ask something, for example: Where was Ares I-X launched?")
        if len(tokens) > limit:
            raise InputError(_too_long(f"{len(tokens):,} tokens", limit))
        return self._framed(tokens)

    def _framed(self, tokens: np.ndarray) -> np.ndarray:
        return np.concatenate([[self.tokenizer.cls_id], tokens, [self.tokenizer.sep_id]]).astype(np.int64)

    def candidates(self, ids: list[np.ndarray], snapshot: Snapshot, how: AskOptions) -> tuple[TreeSession, Candidates]:
        """Scored entries of the knowledge base for each question, and the session that scored them."""
        session = TreeSession(self.model, ids)
        trie = snapshot.trie
        if how.speculate:
            speculate(session, trie, [question[1:-1] for question in ids])
        start = Paths.start(session, trie)
        exact = how.search == "exact" or (how.search == "auto" and how.scoring == "prior")
        beams = 1 if exact else how.beams  # one expansion a question and round: the fewest model calls
        common = {"beams": beams, "exact": exact, "forced_chains": how.forced_chains}
        if how.scoring == "path":
            reweigh = lookahead_reweigh(trie, ids) if how.lookahead else None
            found = search(session, trie, start, Search(keep=max(how.top, how.beams), reweigh=reweigh, **common))
            return session, Candidates(found.owner, found.state, found.score, found.raw, np.zeros(len(found)))
        rounds = PATIENCE if how.search == "auto" else None
        found = search(
            session, trie, start, Search(keep=how.beams, until_field=1, within=IMPLAUSIBLE, rounds=rounds, **common)
        )
        found = found.take(found.score > _best_of_owner(found) - IMPLAUSIBLE)
        entries = entries_below(session, trie, found, most=self.settings.most_candidates)
        limit = self.settings.max_question
        prompts = [self._framed(found.chain(row)[:-1][:limit]) for row in range(len(found))]
        weight = self.settings.prior_weight if how.prior_weight is None else how.prior_weight
        opinion, wanted = self._opinions(ids, how)
        return session, with_prior(session, found, entries, prompts, weight, opinion=opinion, wanted=wanted)

    def _opinions(self, ids: list[np.ndarray], how: AskOptions) -> tuple[Opinion | None, Wanted | None]:
        """The matcher's scores times its weight, and its fit, as functions of tokens; None without one, or weight.

        It reads what the tokens say, so that what the tokenizer holds for equal gets equal scores.
        """
        matcher = self.matcher
        weight = self.settings.match_weight if how.match_weight is None else how.match_weight
        if matcher is None or not weight:
            return None, None
        decode = self.tokenizer.decode
        texts = [decode(question) for question in ids]

        def opinion(owner: int, subject: np.ndarray, predicates: Sequence[np.ndarray]) -> np.ndarray:
            return weight * matcher.scores(texts[owner], decode(subject), [decode(tokens) for tokens in predicates])

        def wanted(owner: int, subject: np.ndarray, predicate: np.ndarray) -> float:
            return matcher.fit(texts[owner], decode(subject), decode(predicate))

        return opinion, wanted if len(matcher.known) else None

    def fit(self, question: str, subject: str, predicate: str) -> float:
        """The matcher's evidence that the question asks for this predicate (`Matcher.fit`); 0 without a matcher."""
        if self.matcher is None:
            return 0.0
        return self.matcher.fit(*(self.tokenizer.decode(self.tokenizer.ids(t)) for t in (question, subject, predicate)))

    def _best_answers(
        self, row: int, question: str, candidates: Candidates, snapshot: Snapshot, how: AskOptions
    ) -> list[Answer]:
        mine = np.flatnonzero(candidates.owner == row)
        if not len(mine):
            return []
        settings = self.settings
        if how.scoring == "path":  # the calibration belongs to the other way of scoring
            settings = replace(settings, temperature=1.0, evidence=None)
        fit = 0.0
        if settings.evidence is not None:
            best = snapshot.facts(candidates.state[mine[int(candidates.score[mine].argmax())]])[0]
            fit = self.fit(question, best.subject, best.predicate)
        evidence = candidates.subject[mine], candidates.predicate[mine], fit
        probability = settings.calibrated(candidates.score[mine], *evidence)
        order = np.lexsort((mine, -candidates.score[mine]))[: how.top]  # probabilities may be too small for a float
        threshold = self.settings.threshold if how.threshold is None else how.threshold
        answers = []
        for rank in order:
            facts = _as_spelt(snapshot.facts(candidates.state[mine[rank]]), question)
            first = facts[0]
            p = float(probability[rank])
            objects, sources = _by_object(facts)
            answers.append(Answer(first.subject, first.predicate, first.sense, objects, p, sources, p >= threshold))
        return answers


def _by_object(facts: list[Fact]) -> tuple[list[str], list[str]]:
    """Different objects in the order of the facts, with the sources of each: said twice, it is one answer."""
    sources: dict[str, list[str]] = {}
    for fact in facts:
        of_object = sources.setdefault(fact.object, [])
        if fact.source and fact.source not in of_object:
            of_object.append(fact.source)
    return list(sources), ["; ".join(names) for names in sources.values()]


def _as_spelt(facts: list[Fact], question: str) -> list[Fact]:
    """The facts of one key; if the question spells some of their subjects exactly, only those.

    The tokenizer reads "CO" and "Co" alike, but what is true of the one need not be true of the other.
    """
    return [fact for fact in facts if fact.subject in question] or facts


def _best_of_owner(paths: Paths) -> np.ndarray:
    """The best score of each path's question, [n]."""
    best = np.full(int(paths.owner.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(best, paths.owner, paths.score)
    return best[paths.owner]


def _too_long(given: str, limit: int) -> str:
    return f"The question is too long: {given}, at most {limit} tokens are read. Ask one short question at a time."
