"""The place in a labelled file that is being read, and what every reader does there: check a text, a span, a string.

Post: 8888
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from tianwen.extract.annotation import Annotation, Event, Mention, Relation
from tianwen.extract.mentions import Policy, Span, choose_pairs, find_mentions
from tianwen.extract.reading_report import Report


class Unusable(ValueError):
    """A record that gives no annotation; the kind is one of `reading_report.KINDS`."""

    def __init__(self, kind: str, example: object = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.example = example


@dataclass(slots=True)
class Reading:
    """Where a reader stands: file, line, and the report that takes what is wrong there."""

    name: str
    policy: Policy
    report: Report
    place: str = ""

    @property
    def where(self) -> str:
        """File and line for messages."""
        return f"{self.name}, {self.place}" if self.place else self.name

    def note(self, kind: str, example: object = "") -> None:
        """Count something odd; nothing is left out."""
        self.report.add(kind, self.where, example)

    def drop(self, kind: str, example: object = "") -> None:
        """Count a label that is left out."""
        self.report.dropped += 1
        self.report.add(kind, self.where, example)

    def span(self, text: str, start: object, end: object, words: object = None) -> Span | None:
        """A span with exclusive end, put right where `words` prove it to be counted otherwise; None if it is wrong."""
        if not whole(start) or not whole(end) or not (words is None or isinstance(words, str)):
            self.drop("broken-label", f"start {start!r}, end {end!r}, words {words!r}")
            return None
        if isinstance(words, str):
            return self._span_of_words(text, (start, end), words)
        if not 0 <= start <= end <= len(text):
            self.drop("outside-text", f"[{start}, {end}] in {len(text):,} characters")
        elif start == end:
            self.drop("empty-label", f"[{start}, {end}]")
        else:
            return self._trimmed(text, (start, end))
        return None

    def _span_of_words(self, text: str, span: Span, words: str) -> Span | None:
        start, end = span
        for kind, (first, last) in _readings(text, span):
            if 0 <= first < last <= len(text) and _same(text[first:last], words):
                if kind:
                    self.note(kind, f"[{start}, {end}] is said to be {words!r}")
                return self._trimmed(text, (first, last))
        inside = 0 <= start <= end <= len(text)
        there = (
            f"[{start}, {end}] is {text[start:end]!r}" if inside else f"[{start}, {end}] in {len(text):,} characters"
        )
        self.drop("other-words" if inside else "outside-text", f"{there}, not {words!r}")
        return None

    def _trimmed(self, text: str, span: Span) -> Span | None:
        start, end = span
        words = text[start:end]
        if words == words.strip():
            return span
        if not words.strip():
            self.drop("white-space", f"[{start}, {end}]")
            return None
        self.note("trimmed", repr(words))
        return start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())

    def mentions(self, text: str, string: object) -> tuple[Span, ...]:
        """All mentions of a string; none, and a dropped label, when it is not in the text."""
        if not isinstance(string, str) or not (core := _core(string)):
            self.drop("broken-label" if not isinstance(string, str) else "empty-label", repr(string))
            return ()
        found = find_mentions(text, core)
        if not found.spans:
            self.drop("missing-string", f"{string!r} in {text!r}")
        elif found.how:
            self.note(found.how, f"{string!r} in {text!r}")
        return found.spans


@dataclass(slots=True)
class LabelledText:
    """The labels of one text as they come together; each is kept once, in the order of the file."""

    text: str
    reading: Reading
    entities: dict[Mention, None] = field(default_factory=dict)
    relations: dict[Relation, None] = field(default_factory=dict)
    events: dict[Event, None] = field(default_factory=dict)

    def fact(self, subject: tuple[object, str], predicate: object, value: tuple[object, str]) -> None:
        """Take in a fact given as strings, each with its type: its mentions by the policy of the reading.

        A mention whose type is not given has the one that was given to its place before, if any was.
        """
        if not self._sound_names(predicate, subject[1] or "any", value[1] or "any"):
            return
        assert isinstance(predicate, str)
        subjects = self.reading.mentions(self.text, subject[0])
        objects = self.reading.mentions(self.text, value[0]) if subjects else ()
        if not subjects or not objects:
            return
        report, policy = self.reading.report, self.reading.policy
        report.facts += 1
        report.ambiguous += len(subjects) * len(objects) > 1
        pairs = choose_pairs(subjects, objects, policy)
        if policy == "all" and len(pairs) < len(subjects) * len(objects) - min(len(subjects), len(objects)):
            self.reading.note("too-many-pairs", f"{subject[0]!r} and {value[0]!r}")
        kept = 1 if policy == "first" else None
        known = {(one.start, one.end): one.label for one in reversed(self.entities) if one.label}
        first, second = (
            {span: Mention(*span, kind or known.get(span, "")) for span in spans}
            for spans, kind in ((subjects, subject[1]), (objects, value[1]))
        )
        for spans, mentions in ((subjects, first), (objects, second)):
            self.entities.update((mentions[span], None) for span in spans[:kept])
        new = {Relation(first[s], predicate, second[o]) for s, o in pairs}
        if new <= self.relations.keys():
            self.reading.note("twice", f"{subject[0]!r}, {predicate!r}, {value[0]!r}")
        self.relations.update((relation, None) for relation in sorted(new))

    def entity(self, mention: Mention) -> None:
        """Take in an entity with its place."""
        if self._sound_names(mention.label or "any"):
            self._once(self.entities, mention, self.text[mention.start : mention.end])

    def relation(self, relation: Relation) -> None:
        """Take in a fact with its places."""
        if self._sound_names(relation.predicate, relation.subject.label or "any", relation.object.label or "any"):
            self._once(self.relations, relation, relation.predicate)

    def event(self, event: Event) -> None:
        """Take in an event."""
        if self._sound_names(event.type, *(argument.role for argument in event.arguments)):
            self._once(self.events, event, event.type)

    def _sound_names(self, *names: object) -> bool:
        """Whether names are words that can be written to a file; if not, the label is dropped."""
        for name in names:
            if not isinstance(name, str) or "\0" in name or not _encodes(name):
                self.reading.drop("broken-label", f"the name {name!r}")
            elif not name:
                self.reading.drop("empty-label", names)
            else:
                continue
            return False
        return True

    def _once(self, kept: dict[Any, None], label: Any, example: str) -> None:
        if label in kept:
            self.reading.note("twice", example)
        kept[label] = None

    def annotation(self, source: str = "") -> Annotation:
        """The text with all that was taken in; its source is the place in the file when the data name none."""
        return Annotation(
            self.text,
            tuple(self.entities),
            tuple(self.relations),
            tuple(self.events),
            source or self.reading.where,
        )


def text_of(record: Mapping[str, Any], key: str = "text") -> str:
    """The text of a record, usable as a text: not empty, no NUL, no half surrogate pair. Raises Unusable."""
    text = record.get(key)
    if text is None:
        raise Unusable("no-text", f"there is no {key!r} among {', '.join(map(repr, list(record)[:6]))}")
    if not isinstance(text, str):
        raise Unusable("broken-line", f"{key!r} is {type(text).__name__}, not text")
    return sound(text)


def sound(text: str) -> str:
    """The text, if it is one. Raises Unusable."""
    if not text.strip():
        raise Unusable("no-text")
    if "\0" in text:
        raise Unusable("nul", text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        broken_byte = 0xDC80 <= ord(text[error.start]) <= 0xDCFF
        raise Unusable("not-utf8" if broken_byte else "lone-surrogate", f"character {error.start + 1:,}") from None
    return text


def listed(record: Mapping[str, Any], key: str) -> list[Any]:
    """The list under a key; an absent or null one is empty. Raises Unusable when it is something else."""
    value = record.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unusable("broken-line", f"{key!r} is {type(value).__name__}, not a list")
    return value


def whole(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _encodes(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _core(string: str) -> str:
    """A string without white space and invisible characters at its ends, for which no tokenizer has pieces."""
    start, end = 0, len(string)
    while start < end and _invisible(string[start]):
        start += 1
    while end > start and _invisible(string[end - 1]):
        end -= 1
    return string[start:end]


def _invisible(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cf", "Cc")


def _readings(text: str, span: Span) -> Iterator[tuple[str, Span]]:
    """What a pair of numbers may mean, with the kind of the report when it is not what it should."""
    start, end = span
    yield "", span
    yield "mixed-ends", (start, end + 1)
    if not text.isascii():
        yield "utf16-offsets", (_characters(text, start), _characters(text, end))


def _same(there: str, words: str) -> bool:
    return there == words or there.split() == words.split() != []


def _characters(text: str, units: int) -> int:
    """The place in characters of a place in UTF-16 units."""
    encoded = text.encode("utf-16-le")
    if not 0 <= 2 * units <= len(encoded):
        return -1
    return len(encoded[: 2 * units].decode("utf-16-le", "replace"))
