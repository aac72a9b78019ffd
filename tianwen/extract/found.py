"""From what was decoded in tokens to an annotation in characters of the text.

Post: 8888 (facts), 8926 (events)

Scores become probabilities here: sigmoid of the least score that the thing depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tianwen.counting import count
from tianwen.extract.annotation import TRIGGER, Annotation, Argument, Event, Mention, Relation
from tianwen.extract.decode import Decoded
from tianwen.extract.events import find_events
from tianwen.extract.rules import UNTYPED, probability
from tianwen.extract.windows import Window


@dataclass
class Labels:
    """The names of a model's classes: entity types or, for events, (type, role); and of its predicates."""

    classes: tuple[str, ...]
    predicates: tuple[str, ...] = ()
    roles: tuple[tuple[str, str], ...] = ()

    @property
    def types(self) -> list[str]:
        """Types of events, in the order of their first role."""
        return list(dict.fromkeys(type for type, _ in self.roles))

    def label_of(self, number: int) -> str:
        """The label of a mention: its entity type, "" where there are none."""
        return "" if self.roles or self.classes == UNTYPED else self.classes[number]


@dataclass
class CapReport:
    """How much was left out because a cap was reached; `windows` counts all that were read."""

    texts: int = 0
    windows: int = 0
    mentions_left_out: int = 0
    facts_left_out: int = 0
    events_capped: int = 0  # types of a window that had more cliques than are listed

    @property
    def reached(self) -> bool:
        """Whether any cap was."""
        return bool(self.mentions_left_out or self.facts_left_out or self.events_capped)

    def summary(self) -> str:
        """One sentence on what was left out."""
        return (
            f"Caps were reached, and left out were {count(self.mentions_left_out, 'mention')}, "
            f"{count(self.facts_left_out, 'fact')} and the events of {count(self.events_capped, 'type')}. "
            "A trained model seldom comes near; raise the threshold."
        )


def annotation_of(
    text: str, window: Window, decoded: Decoded, labels: Labels, *, report: CapReport, needs_trigger: bool = False
) -> Annotation:
    """What one window of `text` says; what touches a cut in the middle of a sentence is left out."""
    report.mentions_left_out += decoded.mentions.left_out
    report.facts_left_out += decoded.facts.left_out
    mentions = _mentions(window, decoded, labels)
    if labels.roles:
        return Annotation(text, events=_events(decoded, mentions, labels, report, needs_trigger))
    return Annotation(text, _entities(mentions), _relations(decoded, mentions, labels))


def _mentions(window: Window, decoded: Decoded, labels: Labels) -> list[Mention | None]:
    """One for each decoded mention; None where a cut may have halved it."""
    found = decoded.mentions
    starts, ends = window.offsets[found.first, 0], window.offsets[found.last, 1]
    halved = (found.first == 0) & window.open_start | (found.last == len(window.ids) - 1) & window.open_end
    rows = zip(starts.tolist(), ends.tolist(), found.label.tolist(), probability(found.score).tolist(), strict=True)
    return [
        None if cut else Mention(start, end, labels.label_of(label), score)
        for (start, end, label, score), cut in zip(rows, halved.tolist(), strict=True)
    ]


def _entities(mentions: Sequence[Mention | None]) -> tuple[Mention, ...]:
    best: dict[tuple[int, int, str], Mention] = {}
    for mention in mentions:
        if mention is not None:
            key = mention.start, mention.end, mention.label
            if key not in best or best[key].score < mention.score:
                best[key] = mention
    return tuple(best.values())


def _relations(decoded: Decoded, mentions: Sequence[Mention | None], labels: Labels) -> tuple[Relation, ...]:
    facts = decoded.facts
    rows = zip(facts.subject, facts.predicate, facts.object, probability(decoded.fact_score).tolist(), strict=True)
    found: dict[tuple, Relation] = {}
    for s, p, o, score in rows:
        subject, object = mentions[s], mentions[o]
        if subject is not None and object is not None:
            relation = Relation(subject, labels.predicates[p], object, score)
            key = subject.start, subject.end, subject.label, p, object.start, object.end, object.label
            if key not in found or found[key].score < score:  # two pieces of one character have the same place
                found[key] = relation
    return tuple(found[key] for key in sorted(found, key=lambda key: (key[:3], key[4:], key[3])))


def _events(
    decoded: Decoded, mentions: Sequence[Mention | None], labels: Labels, report: CapReport, needs_trigger: bool
) -> tuple[Event, ...]:
    types = labels.types
    cliques, capped = find_events(decoded, np.array([types.index(type) for type, _ in labels.roles]))
    report.events_capped += capped
    events = []
    for type, members, score in cliques:
        arguments = [(labels.roles[decoded.mentions.label[i]][1], mentions[i]) for i in members]
        whole = [Argument(role, mention) for role, mention in arguments if mention is not None]
        whole.sort(key=lambda argument: (argument.role != TRIGGER, argument.mention, argument.role))
        if whole and (not needs_trigger or whole[0].role == TRIGGER):
            events.append(Event(types[type], tuple(whole), float(probability(np.array([score]))[0])))
    return tuple(events)
