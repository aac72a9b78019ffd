"""A text with what is said in it: entities, facts and events, as people labelled it or as a model found it.

Post: 8888 (facts), 8926 (events)

All offsets count characters of the text as given; the end is exclusive, so `text[start:end]` is the mention. Gold data
and a model's findings have the same type: whatever scores one against the other, or writes one, reads the other too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Mention:
    """A span of a text with its type; `label` is "" where the data knows no types."""

    start: int
    end: int
    label: str = ""
    score: float = 1.0


@dataclass(frozen=True, slots=True, order=True)
class Relation:
    """A fact as the text states it: subject, predicate, object."""

    subject: Mention
    predicate: str
    object: Mention
    score: float = 1.0


@dataclass(frozen=True, slots=True, order=True)
class Argument:
    """What plays a role in an event; the trigger is one more argument, its role "trigger"."""

    role: str
    mention: Mention


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """An event of one type with its arguments, the trigger (where there is one) among them."""

    type: str
    arguments: tuple[Argument, ...]
    score: float = 1.0


TRIGGER = "trigger"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One text and what is said in it. `source` says where it came from (file and line, or document and offset)."""

    text: str
    entities: tuple[Mention, ...] = ()
    relations: tuple[Relation, ...] = ()
    events: tuple[Event, ...] = ()
    source: str = ""

    def words(self, mention: Mention) -> str:
        """The characters of a mention."""
        return self.text[mention.start : mention.end]

    def triples(self) -> list[tuple[str, str, str]]:
        """The facts as strings, in order, each once."""
        found = ((self.words(r.subject), r.predicate, self.words(r.object)) for r in self.relations)
        return list(dict.fromkeys(found))
