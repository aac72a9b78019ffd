"""From a labelled text to what the maps are trained on: token ids, token spans, and which of them belong together.

Post: 8888

Notation
    t  token; row 0 is [CLS], piece i of the tokenizer is row i + 1, the last row is [SEP]
    m  mentions of a text as rows [m, 3]: label, first, last (inclusive)      f  links [f, 3]: mention, label, mention
    A fact (s, p, o) gives the positives (p, first of s, first of o) of the head map and (p, last of s, last of o) of
    the tail map; two arguments of one event give both cells in order, (min, max), of the one label "same event".

A long text is cut into the windows that the extractor reads, so what is learned is what can be found. A mention is a
span of tokens only if it begins and ends where tokens do. Mentions that do not, and those whose label the schema lacks,
are left out with the facts they are part of, and counted. A mention without a type among others that have one is of the
type "", if the schema has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from jaxtyping import Int

from tianwen.extract.annotation import Annotation, Mention
from tianwen.extract.rules import UNTYPED
from tianwen.extract.schema import Schema
from tianwen.extract.windows import Window, windows
from tianwen.text import Tokenizer


@dataclass(frozen=True)
class Labels:
    """The labels of the maps, as `GPLinkerConfig` takes them."""

    entity_labels: tuple[str, ...] = ()
    predicates: tuple[str, ...] = ()
    roles: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, schema: Schema) -> Labels:
        """Events if the schema has any; else its predicates and types, or subject and object if it knows no types."""
        if schema.events:
            return cls(roles=tuple((event.type, role) for event in schema.events for role in event.roles))
        return cls(schema.entities or UNTYPED, schema.predicates)

    @property
    def typed(self) -> bool:
        """Whether mentions have types of their own."""
        return self.entity_labels != UNTYPED


@dataclass(frozen=True)
class Example:
    """One text in tokens; see the notation."""

    ids: Int[np.ndarray, " tokens"]
    mentions: Int[np.ndarray, " mentions 3"]
    links: Int[np.ndarray, " links 3"]

    def __len__(self) -> int:
        return len(self.ids)

    def positives(self, *, events: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positives of the entity, head and tail map of this text, each [n, 3]: label, row, column; each once."""
        first, last = self.mentions[:, 1], self.mentions[:, 2]
        subject, label, object = self.links.T
        heads, tails = [np.stack([ends[subject], ends[object]], 1) for ends in (first, last)]  # [f, 2]
        if events:
            heads.sort(axis=1)
            tails.sort(axis=1)
        linked = [np.concatenate([label[:, None], ends], 1) for ends in (heads, tails)]
        entity, head, tail = (np.unique(rows, axis=0) for rows in (self.mentions, *linked))
        return entity, head, tail


@dataclass
class Labeller:
    """Annotations to examples; `problems` counts what could not be labelled, `labelled` what could."""

    tokenizer: Tokenizer
    labels: Labels
    length: int = 256  # tokens of a window, without [CLS] and [SEP]
    overlap: int = 64
    problems: Counter[str] = field(default_factory=Counter)
    labelled: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._entity = {name: i for i, name in enumerate(self.labels.entity_labels or self.labels.roles)}
        self._predicate = {name: i for i, name in enumerate(self.labels.predicates)}

    def examples(self, annotation: Annotation) -> list[Example]:
        """The text and its labels in tokens: one example, or one for each window of a long text."""
        wanted = self._events(annotation) if self.labels.roles else self._facts(annotation)
        known = [self._known(label) for _, label in wanted.mentions]
        made, placed, linked, wrong = [], set(), set(), {}
        for window in windows(annotation.text, self.tokenizer, length=self.length, overlap=self.overlap):
            places = _Places(annotation.text, window)
            spans = [places.span(mention) for mention, _ in wanted.mentions]
            good = {
                i: (number, *span)
                for i, (number, span) in enumerate(zip(known, spans, strict=True))
                if number is not None and not isinstance(span, str)
            }
            links = [link for link in wanted.links if link[0] in good and link[2] in good]
            made.append(self._example(window, good, links))
            placed |= good.keys()
            linked.update(links)
            wrong |= {i: span for i, span in enumerate(spans) if isinstance(span, str) and known[i] is not None}
        self.labelled.update(mentions=len(placed), links=len(linked))
        self.problems.update(wrong[i] for i in wrong if i not in placed)
        lost = len(set(wanted.links)) - len(linked)
        self.problems[
            f"{'pair of one event' if self.labels.roles else 'fact'} without both mentions in one window"
        ] += lost
        self.problems = +self.problems
        return made

    def _known(self, label: Hashable) -> int | None:
        """The number of an entity label; one that there is not is counted."""
        number = self._entity.get(label)  # type: ignore[call-overload]
        problem = (
            f"mention with the unknown label {label!r}" if label else "mention without a type (the schema has types)"
        )
        self.problems[problem] += number is None
        return number

    def _example(
        self, window: Window, mentions: dict[int, tuple[int, int, int]], links: list[tuple[int, int, int]]
    ) -> Example:
        """A window with its mentions (number -> label, first, last), each row once, and the links between them."""
        rows: dict[tuple[int, int, int], int] = {}
        row_of = {i: rows.setdefault(mention, len(rows)) for i, mention in mentions.items()}
        ids = np.concatenate([[self.tokenizer.cls_id], window.ids, [self.tokenizer.sep_id]]).astype(np.int64)
        return Example(ids, _table(list(rows)), _table(sorted({(row_of[a], p, row_of[b]) for a, p, b in links})))

    def _facts(self, annotation: Annotation) -> _Wanted:
        wanted = _Wanted()
        for mention, label in self._entities(annotation):
            wanted.mention(mention, label)
        for relation in annotation.relations:
            if relation.predicate not in self._predicate:
                self.problems[f"fact with the unknown predicate {relation.predicate!r}"] += 1
                continue
            names = (relation.subject.label, relation.object.label) if self.labels.typed else UNTYPED
            subject, object = wanted.mention(relation.subject, names[0]), wanted.mention(relation.object, names[1])
            wanted.links.append((subject, self._predicate[relation.predicate], object))
        return wanted

    def _entities(self, annotation: Annotation) -> Iterator[tuple[Mention, str]]:
        """The entities with their labels; without types, those with the words of some subject or of some object."""
        subjects = {annotation.words(one.subject) for one in annotation.relations}
        objects = {annotation.words(one.object) for one in annotation.relations}
        for mention in annotation.entities:
            if self.labels.typed:
                yield mention, mention.label
                continue
            for label, words in zip(UNTYPED, (subjects, objects), strict=True):
                if annotation.words(mention) in words:
                    yield mention, label

    def _events(self, annotation: Annotation) -> _Wanted:
        wanted = _Wanted()
        for event in annotation.events:
            rows = {wanted.mention(argument.mention, (event.type, argument.role)) for argument in event.arguments}
            wanted.links += [(a, 0, b) for a, b in combinations(sorted(rows), 2)]
        return wanted


@dataclass
class _Wanted:
    """What a text's annotation asks for: mentions with the name of their label, and links between them by number."""

    mentions: list[tuple[Mention, Hashable]] = field(default_factory=list)
    links: list[tuple[int, int, int]] = field(default_factory=list)
    _number: dict[tuple[int, int, Hashable], int] = field(default_factory=dict)

    def mention(self, mention: Mention, label: Hashable) -> int:
        """The number of this mention; the same place and label have the same."""
        key = (mention.start, mention.end, label)
        if key not in self._number:
            self._number[key] = len(self.mentions)
            self.mentions.append((mention, label))
        return self._number[key]


class _Places:
    """Where characters begin and end tokens of one window; row 0 is [CLS]."""

    def __init__(self, text: str, window: Window) -> None:
        self.text = text
        self.starts: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        for piece, (start, end) in enumerate(window.offsets.tolist()):
            self.starts.setdefault(start, piece + 1)  # a character spelt in bytes has several pieces
            self.ends[end] = piece + 1
        self.bounds = (int(window.offsets[0, 0]), int(window.offsets[-1, 1])) if len(window.offsets) else (0, 0)

    def span(self, mention: Mention) -> tuple[int, int] | str:
        """First and last token of a mention, or why it has none here."""
        start, end = mention.start, mention.end
        inside = self.text[start:end] if 0 <= start < end <= len(self.text) else ""
        if not inside.strip():
            return "mention that is empty or outside of its text"
        start, end = start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
        if start < self.bounds[0] or end > self.bounds[1]:
            return "mention longer than what two windows share"
        if start not in self.starts or end not in self.ends:
            return "mention that begins or ends inside a token"
        return self.starts[start], self.ends[end]


def _table(rows: Sequence[tuple[int, int, int]]) -> np.ndarray:
    return np.array(rows, np.int64).reshape(-1, 3)
