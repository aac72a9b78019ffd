"""What was extracted, as a person sees it: sentences with their entities marked, below each its facts and events.

Of overlapping mentions one is marked: rather one that a fact joins, then the surest, then the longest.
Where there are colours a mention is coloured by its type; where there are none it is in brackets: [Ares I-X|rocket].
"""

from __future__ import annotations

import os
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import typer

from tianwen.sentences import sentence_ends

if TYPE_CHECKING:
    from tianwen.extract.annotation import Annotation, Event, Mention, Relation

Thing = TypeVar("Thing")

COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "red")
SHORT = 2000
"""Characters of a text of which sentences without anything are shown, too."""

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def has_colours() -> bool:
    """Whether stdout is a terminal that may be coloured: NO_COLOR and TERM=dumb are respected."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class View:
    """How annotations look; a type keeps its colour from text to text."""

    def __init__(self, *, colours: bool) -> None:
        self.colours = colours
        self._of_label: dict[str, str] = {}

    def show(self, annotation: Annotation) -> str:
        """A text's sentences with what was found in them."""
        lines = [self._style(shown(annotation.source), bold=True)] if annotation.source else []
        blocks = list(self._sentences(annotation))
        if not blocks or not (annotation.entities or annotation.relations or annotation.events):
            lines.append(self._style("nothing found", dim=True))
        return "\n".join(lines + blocks)

    def _sentences(self, annotation: Annotation) -> Iterator[str]:
        text, blocks = annotation.text, _blocks(annotation)
        starts = [start for start, _ in blocks]
        mentions = _by_block(starts, _marked(annotation), lambda one: one.start)
        facts = _by_block(starts, annotation.relations, lambda one: min(one.subject.start, one.object.start))
        events = _by_block(starts, annotation.events, lambda one: min(a.mention.start for a in one.arguments))
        for at, (start, end) in enumerate(blocks):
            joined = {one for fact in facts[at] for one in (fact.subject, fact.object)}
            order = sorted(mentions[at], key=lambda one: (one not in joined, -one.score, one.start - one.end))
            marked = self._marks(text, start, end, order).strip()
            below = [self._fact(annotation, one) for one in _each_once(annotation, facts[at])]
            below += [self._event(annotation, one) for one in events[at]]
            if below or mentions[at] or (marked and len(text) <= SHORT):
                yield "\n".join([marked, *below])

    def _marks(self, text: str, start: int, end: int, mentions: Sequence[Mention]) -> str:
        """The sentence with its mentions marked; of overlapping ones the first in order."""
        taken: list[Mention] = []
        for mention in mentions:
            if all(mention.end <= other.start or other.end <= mention.start for other in taken):
                taken.append(mention)
        parts, at = [], start
        for mention in sorted(taken):
            parts += [shown(text[at : mention.start]), self._mention(text, mention)]
            at = mention.end
        return "".join([*parts, shown(text[at:end])])

    def _mention(self, text: str, mention: Mention) -> str:
        words = shown(text[mention.start : mention.end])
        if not self.colours:
            return f"[{words}|{shown(mention.label)}]" if mention.label else f"[{words}]"
        colour = self._of_label.setdefault(mention.label, COLOURS[len(self._of_label) % len(COLOURS)])
        label = typer.style(f" {shown(mention.label)}", fg=colour, dim=True) if mention.label else ""
        return typer.style(words, fg=colour, bold=True) + label

    def _fact(self, annotation: Annotation, fact: Relation) -> str:
        subject, object = (shown(annotation.words(one)) for one in (fact.subject, fact.object))
        line = f"    {subject} → {shown(fact.predicate)} → {self._style(object, bold=True)}"
        return f"{line}  {self._style(f'{fact.score:.0%}', dim=True)}"

    def _event(self, annotation: Annotation, event: Event) -> str:
        roles = "; ".join(f"{shown(a.role)} {shown(annotation.words(a.mention))}" for a in event.arguments)
        return (
            f"    {self._style(shown(event.type), bold=True)}: {roles}  {self._style(f'{event.score:.0%}', dim=True)}"
        )

    def _style(self, text: str, *, bold: bool | None = None, dim: bool | None = None) -> str:
        return typer.style(text, bold=bold, dim=dim) if self.colours else text


def shown(text: str) -> str:
    """Text that cannot steer a terminal: control characters, and half surrogate pairs, as U+FFFD."""
    return _STEERING.sub("\ufffd", text.replace("\r\n", "\n"))


def _marked(annotation: Annotation) -> list[Mention]:
    """What is marked: the entities, or where there are none the arguments of events."""
    arguments = [argument.mention for event in annotation.events for argument in event.arguments]
    return list(annotation.entities) or arguments


def _each_once(annotation: Annotation, facts: Sequence[Relation]) -> list[Relation]:
    """Of facts with the same words the surest, in the order of the first."""
    best: dict[tuple[str, str, str], Relation] = {}
    for fact in facts:
        key = annotation.words(fact.subject), fact.predicate, annotation.words(fact.object)
        if key not in best or best[key].score < fact.score:
            best[key] = fact
    return list(best.values())


def _blocks(annotation: Annotation) -> list[tuple[int, int]]:
    """Sentences, joined where something reaches across their ends."""
    text = annotation.text
    reaching = [(one.start, one.end) for one in _marked(annotation)]
    for pair in ((fact.subject, fact.object) for fact in annotation.relations):
        reaching.append((min(one.start for one in pair), max(one.end for one in pair)))
    inside = np.zeros(len(text) + 1, bool)
    for start, end in reaching:
        inside[start + 1 : end] = True
    ends = [end for end in (*sentence_ends(text), len(text)) if not inside[end]]
    return [(start, end) for start, end in pairwise([0, *ends]) if start < end]


def _by_block(starts: Sequence[int], things: Sequence[Thing], place: Callable[[Thing], int]) -> list[list[Thing]]:
    """The things of each block, told by where they start."""
    found: list[list[Thing]] = [[] for _ in starts]
    for thing in things:
        found[bisect_right(starts, place(thing)) - 1].append(thing)
    return found
