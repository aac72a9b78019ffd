"""The loud check before training: what in labelled texts cannot be learned, or will be learned wrongly.

Post: 8888 (a silent loss of labels looks like a model that does not learn)

Two sources are put together: what the readers noted (strings that are not in their text, ends counted both ways) and
what shows only on the whole set and with the model's own eyes (its schema, its tokenizer, its length, the other set).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from tianwen.counting import count
from tianwen.extract.annotation import Annotation, Mention
from tianwen.extract.mentions import inside_word
from tianwen.extract.reading_report import Finding, Report, merged
from tianwen.extract.schema import Schema
from tianwen.text import Tokenizer

RARE = 5  # examples; a label with fewer is not learned
SPECIAL = 2  # [CLS] and [SEP] of the model's length


@dataclass(slots=True)
class DataReport:
    """What was counted in a set of labelled texts and what is wrong with it; errors first, then by frequency."""

    texts: int = 0
    entities: Counter[str] = field(default_factory=Counter)
    predicates: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)  # "event type/role"
    facts: int = 0  # as the data state them; `predicates` counts them by every pair of mentions
    ambiguous: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings are allowed."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Everything as a dict for `json.dumps`."""
        return {
            "ok": self.ok,
            "texts": self.texts,
            "facts": self.facts,
            "ambiguous": self.ambiguous,
            "entities": dict(self.entities.most_common()),
            "predicates": dict(self.predicates.most_common()),
            "roles": dict(self.roles.most_common()),
            "problems": [
                {
                    "kind": finding.kind,
                    "severity": finding.severity,
                    "count": finding.count,
                    "first": finding.where,
                    "example": finding.example,
                    "meaning": finding.meaning,
                }
                for finding in self.findings
            ],
        }

    def table(self) -> str:
        """Counts and problems for people, a few lines each."""
        lines = [count(self.texts, "text")]
        nouns = ("entity", "entities"), ("fact", "facts"), ("argument", "arguments")
        for noun, counts in zip(nouns, (self.entities, self.predicates, self.roles), strict=True):
            if counts:
                lines[0] += f", {count(counts.total(), *noun)} of {count(len(counts), 'kind')}"
        if self.ambiguous:
            stand = "stands" if self.ambiguous == 1 else "stand"
            lines.append(
                f"{self.ambiguous:,} of {count(self.facts, 'fact')} {stand} at several places: a policy chose."
            )
        for finding in self.findings:
            lines.append(f"{finding.severity:7} {finding.count:>8,} x {finding.kind}: {finding.meaning}")
            lines.append(f"{'':18} first: {finding.where}{': ' if finding.example else ''}{finding.example}")
        if not self.findings:
            lines.append("No problem was found.")
        return "\n".join(lines)

    __str__ = table


def check_data(
    annotations: Iterable[Annotation],
    schema: Schema | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    length: int | None = None,
    report: Report | None = None,
    against: Iterable[Annotation] = (),
) -> DataReport:
    """Check a set of labelled texts, in one pass that keeps a few bytes of each.

    `schema` finds labels that it lacks, `tokenizer` and `length` (pieces, [CLS] and [SEP] included) what the model
    cannot see, `report` is that of the reader (give it the stream still to be read, or what it gave), `against` is the
    training set when `annotations` is the development set.
    """
    check = _Check(schema, tokenizer, length)
    for other in against:
        check.remember_training(other)
    for annotation in annotations:
        check.text(annotation)
    check.labels()
    found, own = check.found, check.own.findings.values()
    if report is not None:
        found.facts, found.ambiguous = report.facts, report.ambiguous
        own = [*report.findings.values(), *own]
    found.findings = merged(own)
    return found


class _Check:
    """The state of one pass."""

    def __init__(self, schema: Schema | None, tokenizer: Tokenizer | None, length: int | None) -> None:
        self.schema, self.tokenizer, self.length = schema, tokenizer, length
        self.found, self.own = DataReport(), Report()
        self._predicates = set(schema.predicates) if schema else set()
        self._first: dict[bytes, tuple[bytes, str]] = {}  # digest of a text: digest of its labels, place
        self._training: set[bytes] = set()
        self._training_labels: set[tuple[str, str]] = set()
        self._label_places: dict[tuple[str, str], str] = {}

    def remember_training(self, annotation: Annotation) -> None:
        self._training.add(_digest(annotation.text))
        self._training_labels.update(_labels(annotation))

    def text(self, annotation: Annotation) -> None:
        found = self.found
        found.texts += 1
        where = annotation.source or f"text {found.texts:,}"
        found.entities.update(mention.label for mention in annotation.entities)
        found.predicates.update(relation.predicate for relation in annotation.relations)
        found.roles.update(f"{event.type}/{a.role}" for event in annotation.events for a in event.arguments)
        for label in _labels(annotation):
            self._label_places.setdefault(label, where)
        self._same_text(annotation, where)
        if self.schema:
            self._schema(annotation, self.schema, where)
        mentions = list(_mentions(annotation))
        if not mentions:
            self.own.add("no-label", where, annotation.text)
        sound = [mention for mention in mentions if self._sound(annotation, mention, where)]
        if self.tokenizer:
            self._pieces(annotation, sound, self.tokenizer, where)

    def labels(self) -> None:
        """What shows at the end: labels with too few examples, labels that training lacks."""
        for counts in (self.found.entities, self.found.predicates, self.found.roles):
            for label, times in counts.items():
                if times < RARE and label and not self._training:
                    self.own.add("rare", "the whole set", f"{label}: {times}")
        for label, where in self._label_places.items():
            if self._training and label not in self._training_labels:
                self.own.add("not-in-training", where, " ".join(label))

    def _same_text(self, annotation: Annotation, where: str) -> None:
        text, labels = _digest(annotation.text), _digest(repr(_unscored(annotation)))
        if text in self._training:
            self.own.add("leak", where, annotation.text)
        if text not in self._first:
            self._first[text] = labels, where
        elif self._first[text][0] == labels:
            self.own.add("duplicate", where, f"as {self._first[text][1]}: {annotation.text}")
        else:
            self.own.add("contradiction", where, f"unlike {self._first[text][1]}: {annotation.text}")
        for group in _unscored(annotation):
            for label, times in Counter(group).items():
                if times > 1:
                    self.own.add("twice", where, label)

    def _schema(self, annotation: Annotation, schema: Schema, where: str) -> None:
        for mention in annotation.entities:
            if mention.label and mention.label not in schema.entities:
                self.own.add("unknown-entity", where, mention.label)
        if schema.entities and "" not in schema.entities and not self._training:  # of dev texts the words are compared
            for mention in sorted(_without_type(annotation)):
                self.own.add("unknown-entity", where, f"{annotation.words(mention)!r} has no type")
        for relation in annotation.relations:
            types = relation.subject.label, relation.object.label
            if relation.predicate not in self._predicates:
                self.own.add("unknown-predicate", where, relation.predicate)
            elif not schema.allows(types[0], relation.predicate, types[1]):
                self.own.add("wrong-types", where, f"{types[0]}, {relation.predicate}, {types[1]}")
        for event in annotation.events:
            for name in sorted({a.role for a in event.arguments} - set(schema.roles(event.type))):
                self.own.add("unknown-event", where, f"{event.type}/{name}")

    def _sound(self, annotation: Annotation, mention: Mention, where: str) -> bool:
        text, words = annotation.text, annotation.words(mention)
        if not 0 <= mention.start <= mention.end <= len(text):
            self.own.add("outside-text", where, f"[{mention.start}, {mention.end}] in {len(text):,} characters")
        elif mention.start == mention.end:
            self.own.add("empty-label", where, f"[{mention.start}, {mention.end}]")
        elif words != words.strip():
            self.own.add("white-space", where, repr(words))
        else:
            if inside_word(text, (mention.start, mention.end)):
                around = text[max(mention.start - 10, 0) : mention.end + 10]
                self.own.add("ends-in-word", where, f"{words!r} in {around!r}")
            return True
        return False

    def _pieces(self, annotation: Annotation, mentions: list[Mention], tokenizer: Tokenizer, where: str) -> None:
        """What the model cannot see: spans that no run of pieces covers exactly, and what its length cuts off."""
        offsets = tokenizer.encode(annotation.text).offsets
        starts, ends = set(offsets[:, 0].tolist()), set(offsets[:, 1].tolist())
        room = len(offsets) if self.length is None else max(self.length - SPECIAL, 0)
        if len(offsets) > room:
            self.own.add("too-long", where, f"{len(offsets):,} pieces, {room:,} have room")
        # A character spelt in bytes has several pieces; it is there only if its last one is.
        cut = len(annotation.text) if len(offsets) <= room else int(min(offsets[room, 0], offsets[max(room - 1, 0), 1]))
        for mention in mentions:
            words = annotation.words(mention)
            if mention.start >= cut:
                self.own.add("cut-off", where, words)
            elif mention.end > cut:
                self.own.add("truncated", where, words)
            elif mention.start not in starts or mention.end not in ends:
                touched = ((offsets[:, 0] < mention.end) & (offsets[:, 1] > mention.start)).any()
                self.own.add("inside-piece" if touched else "no-piece", where, repr(words))


def _mentions(annotation: Annotation) -> Iterator[Mention]:
    """Every place of an annotation, each once."""
    places = [*annotation.entities]
    places += [mention for relation in annotation.relations for mention in (relation.subject, relation.object)]
    places += [argument.mention for event in annotation.events for argument in event.arguments]
    yield from {(mention.start, mention.end): mention for mention in places}.values()


def _without_type(annotation: Annotation) -> set[Mention]:
    """Entities, subjects and objects that have no type."""
    linked = (mention for relation in annotation.relations for mention in (relation.subject, relation.object))
    return {mention for mention in (*annotation.entities, *linked) if not mention.label}


def _labels(annotation: Annotation) -> set[tuple[str, str]]:
    """The labels of an annotation as (what it is, name)."""
    return (
        {("entity", mention.label) for mention in annotation.entities if mention.label}
        | {("predicate", relation.predicate) for relation in annotation.relations}
        | {("role", f"{event.type}/{argument.role}") for event in annotation.events for argument in event.arguments}
    )


def _unscored(annotation: Annotation) -> tuple[list[str], list[str], list[str]]:
    """Entities, facts and events as sorted strings, to compare two annotations of one text."""
    text = annotation.text

    def place(mention: Mention) -> str:
        return f"{mention.label}[{mention.start}:{mention.end}] {text[mention.start : mention.end]}"

    entities = [place(mention) for mention in annotation.entities]
    facts = [f"{place(r.subject)}, {r.predicate}, {place(r.object)}" for r in annotation.relations]
    events = [
        f"{event.type}: {', '.join(sorted(f'{a.role} {place(a.mention)}' for a in event.arguments))}"
        for event in annotation.events
    ]
    return sorted(entities), sorted(facts), sorted(events)


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
