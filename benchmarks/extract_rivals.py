"""CasRel and TPLinker, plainly: what their papers put behind an encoder, for a comparison with GPLinker on one encoder.

Post: 8888. Papers: CasRel (Wei et al. 2020), TPLinker (Wang et al. 2020)

Notation
    B, T, d  texts, tokens with [CLS] and [SEP], width        P  predicates        N  pairs of tokens i <= j
    fact     (first, last of the subject, predicate, first, last of the object), ends inclusive

    CasRel    subjects: two 0/1 tags a token (begins, ends). For one subject v = mean of the states of its two ends:
              objects: 2 P tags a token, from h_t + v, so w.h_t + w.v: objects of one predicate are not told apart by
              subject. A span goes from a beginning to the nearest end. Training takes one stated subject of each text
              by chance. Loss: binary cross entropy, mean over tokens, sum over tags.
    TPLinker  x_ij = tanh(W [h_i; h_j]) for i <= j.  Is i..j an entity: 2 classes; do subject and object of p begin
              (and, apart, end) at i, j: 0 no, 1 subject at i, 2 subject at j: 3 classes each. Cross entropy, mean over
              all pairs (and predicates); weights that move from entities to links, as in the authors' code.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.backbone.masks import valid_tokens
from tianwen.extract.labels import Example

Fact = tuple[int, int, int, int, int]
Span = tuple[int, int]
IMPROBABLE = -5.0  # as GPLinker's labels begin


def facts_of(example: Example) -> set[Fact]:
    """The facts that a text is labelled with."""
    spans = example.mentions[:, 1:].tolist()
    return {(*spans[s], p, *spans[o]) for s, p, o in example.links.tolist()}


# CasRel


def nearest_spans(starts: Iterable[int], ends: Iterable[int]) -> list[Span]:
    """From each beginning to the nearest end at or after it."""
    after = sorted(ends)
    found = ((start, next((end for end in after if end >= start), None)) for start in sorted(starts))
    return [(start, end) for start, end in found if end is not None]


def subject_tags(facts: Iterable[Fact]) -> tuple[set[int], set[int]]:
    """Tokens where subjects begin, and where they end."""
    known = list(facts)
    return {fact[0] for fact in known}, {fact[1] for fact in known}


def object_tags(facts: Iterable[Fact], subject: Span) -> tuple[set[Span], set[Span]]:
    """(token, predicate) where objects of a subject begin, and where they end."""
    own = [(p, first, last) for *s, p, first, last in facts if tuple(s) == subject]
    return {(first, p) for p, first, _ in own}, {(last, p) for p, _, last in own}


def casrel_facts(subject: Span, starts: Iterable[Span], ends: Iterable[Span]) -> set[Fact]:
    """Facts of one subject, from the tags (token, predicate) of its objects."""
    begin, finish = defaultdict(list), defaultdict(list)
    for table, tags in ((begin, starts), (finish, ends)):
        for token, predicate in tags:
            table[predicate].append(token)
    return {(*subject, p, *span) for p, tokens in begin.items() for span in nearest_spans(tokens, finish[p])}


class CasRel(nn.Module):
    """The two taggers on given hidden states."""

    def __init__(self, width: int, predicates: int, *, seed: int = 0) -> None:
        super().__init__()
        self.subjects, self.objects = nn.Linear(width, 2), nn.Linear(width, 2 * predicates)
        for layer in (self.subjects, self.objects):
            nn.init.constant_(layer.bias, IMPROBABLE)
        self.chance = random.Random(seed)

    def loss(self, hidden: Tensor, lengths: Tensor, examples: Sequence[Example]) -> Tensor:
        """Of a batch, one subject a text."""
        valid = _inner(lengths, hidden.shape[1])
        wanted = hidden.new_zeros(*hidden.shape[:2], 2)  # [B, T, 2]
        of_objects = hidden.new_zeros(*hidden.shape[:2], self.objects.out_features)  # [B, T, 2 P]
        ends = torch.zeros(len(examples), 2, dtype=torch.long)
        for row, example in enumerate(examples):
            facts = facts_of(example)
            if not facts:
                continue
            for side, tokens in enumerate(subject_tags(facts)):
                wanted[row, list(tokens), side] = 1
            subject = self.chance.choice(sorted({fact[:2] for fact in facts}))
            ends[row] = torch.tensor(subject)
            for side, tags in enumerate(object_tags(facts, subject)):
                token, predicate = np.array(sorted(tags)).T
                of_objects[row, token, 2 * predicate + side] = 1
        rows = torch.arange(len(examples))[:, None]
        subject = hidden[rows, ends].mean(1, keepdim=True)  # [B, 1, d]
        total = hidden.new_zeros(())
        for logits, gold in ((self.subjects(hidden), wanted), (self.objects(hidden + subject), of_objects)):
            each = F.binary_cross_entropy_with_logits(logits.float(), gold.float(), reduction="none").sum(-1)
            total = total + (each * valid).sum() / valid.sum()
        return total

    def decode(self, hidden: Tensor, lengths: Tensor) -> list[set[Fact]]:
        """Facts of each text: those of each subject that was found, all subjects of a text at once."""
        valid = _inner(lengths, hidden.shape[1])
        tags = (self.subjects(hidden) > 0) & valid[..., None]
        found: list[set[Fact]] = []
        for row, states in enumerate(hidden):
            subjects = nearest_spans(*(tags[row, :, side].nonzero()[:, 0].tolist() for side in (0, 1)))
            facts: set[Fact] = set()
            if subjects:
                each = states[torch.tensor(subjects)].mean(1, keepdim=True)  # [S, 1, d]
                seen = (self.objects(states[: lengths[row]] + each) > 0) & valid[row, : lengths[row], None]
                by_subject: list[tuple[list[Span], list[Span]]] = [([], []) for _ in subjects]
                for s, token, tag in seen.nonzero().tolist():
                    by_subject[s][tag % 2].append((token, tag // 2))
                for subject, (starts, ends) in zip(subjects, by_subject, strict=True):
                    facts |= casrel_facts(subject, starts, ends)
            found.append(facts)
        return found


# TPLinker

Cells = dict[tuple[int, int, int], int]
"""(predicate, i, j), i <= j: 1 where the subject is at i, 2 where it is at j."""


def tplinker_labels(example: Example) -> tuple[set[Span], Cells, Cells]:
    """Entities, links of beginnings, links of ends. Of two opposite links in one cell the last stays."""
    entities = {tuple(span) for span in example.mentions[:, 1:].tolist()}
    heads: Cells = {}
    tails: Cells = {}
    for s_first, s_last, p, o_first, o_last in sorted(facts_of(example)):
        for cells, s, o in ((heads, s_first, o_first), (tails, s_last, o_last)):
            cells[p, min(s, o), max(s, o)] = 1 if s <= o else 2
    return entities, heads, tails


def tplinker_facts(entities: Iterable[Span], heads: Cells, tails: Cells) -> set[Fact]:
    """For each link of beginnings: the entities that begin there, and whose ends are linked too."""
    starting = defaultdict(list)
    for first, last in entities:
        starting[first].append(last)
    found = set()
    for (p, i, j), way in heads.items():
        s_first, o_first = (i, j) if way == 1 else (j, i)
        for s_last in starting[s_first]:
            for o_last in starting[o_first]:
                at = (p, min(s_last, o_last), max(s_last, o_last))
                right = tails.get(at) == (1 if s_last <= o_last else 2)
                if right or (s_last == o_last and tails.get(at)):
                    found.add((s_first, s_last, p, o_first, o_last))
    return found


class TPLinker(nn.Module):
    """The handshaking tagger on given hidden states."""

    def __init__(self, width: int, predicates: int, *, steps: int) -> None:
        super().__init__()
        self.predicates, self.steps, self.step = predicates, steps, 0
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width, bias=False)  # W of [h_i; h_j]
        self.entities, self.links = nn.Linear(width, 2), nn.Linear(width, 2 * predicates * 3)
        for layer, classes in ((self.entities, 2), (self.links, 3)):
            bias = torch.zeros(layer.out_features // classes, classes)
            bias[:, 0] = -IMPROBABLE
            layer.bias.data = bias.flatten()

    def scores(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of entities [B, N, 2] and of links [B, N, 2, P, 3], pairs in order of `torch.triu_indices`."""
        i, j = torch.triu_indices(hidden.shape[1], hidden.shape[1])
        pairs = (self.first(hidden)[:, i] + self.second(hidden)[:, j]).tanh()  # [B, N, d]
        return self.entities(pairs), self.links(pairs).unflatten(-1, (2, self.predicates, 3))

    def loss(self, hidden: Tensor, lengths: Tensor, examples: Sequence[Example]) -> Tensor:
        """Of a batch."""
        length = hidden.shape[1]
        valid = _valid_pairs(lengths, length)  # [B, N]
        of_entities, of_links = self.scores(hidden)
        gold = torch.zeros(of_entities.shape[:2], dtype=torch.long)
        linked = torch.zeros(of_links.shape[:-1], dtype=torch.long)  # [B, N, 2, P]
        for row, example in enumerate(examples):
            entities, *links = tplinker_labels(example)
            gold[row, [_place(i, j, length) for i, j in entities]] = 1
            for side, cells in enumerate(links):
                for (p, i, j), way in cells.items():
                    linked[row, _place(i, j, length), side, p] = way
        on_entities = F.cross_entropy(of_entities[valid].float(), gold[valid])
        on_links = -of_links[valid].float().log_softmax(-1).gather(-1, linked[valid][..., None])  # [n, 2, P, 1]
        parts = 2 * self.predicates + 1
        done = self.step / self.steps
        self.step += 1
        first = max(1 / parts + 1 - done, 1 / parts)
        second = min(self.predicates / parts * done, self.predicates / parts)
        return first * on_entities + second * 2 * on_links.mean()

    def decode(self, hidden: Tensor, lengths: Tensor) -> list[set[Fact]]:
        """Facts of each text."""
        i, j = torch.triu_indices(hidden.shape[1], hidden.shape[1])
        valid = _valid_pairs(lengths, hidden.shape[1])
        of_entities, of_links = self.scores(hidden)
        entity = (of_entities[..., 1] > of_entities[..., 0]) & valid
        way = of_links.argmax(-1) * valid[..., None, None]  # [B, N, 2, P]
        spans: list[list[Span]] = [[] for _ in hidden]
        for row, pair in entity.nonzero().tolist():
            spans[row].append((int(i[pair]), int(j[pair])))
        cells: list[tuple[Cells, Cells]] = [({}, {}) for _ in hidden]
        where = way.nonzero()
        for (row, pair, side, p), value in zip(where.tolist(), way[tuple(where.T)].tolist(), strict=True):
            cells[row][side][p, int(i[pair]), int(j[pair])] = value
        return [tplinker_facts(own, *links) for own, links in zip(spans, cells, strict=True)]


def _place(i: int, j: int, length: int) -> int:
    """Where the pair (i, j) stands among the pairs of so many tokens."""
    return i * length - i * (i - 1) // 2 + j - i


def _inner(lengths: Tensor, longest: int) -> Tensor:
    """True at the tokens of the text, without [CLS] and [SEP]: [B, T]."""
    valid = valid_tokens(lengths - 1, longest)
    valid[:, 0] = False
    return valid


def _valid_pairs(lengths: Tensor, longest: int) -> Tensor:
    valid = _inner(lengths, longest)
    i, j = torch.triu_indices(longest, longest)
    return valid[:, i] & valid[:, j]
