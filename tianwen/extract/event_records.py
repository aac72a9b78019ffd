"""Labelled events: FewFC's lines and DuEE's.

Post: 8926

    fewfc  {"content": "…", "events": [{"type": "…", "mentions": [{"word", "span": [start, end], "role"}, …]}, …]},
           ends exclusive, the trigger one of the roles
    duee   {"text": "…", "event_list": [{"event_type": "…", "trigger": "…", "trigger_start_index": 0,
            "arguments": [{"role": "…", "argument": "…", "argument_start_index": 0}, …]}, …]};
           DuEE-fin has no indices: its mentions are chosen by the policy, "nearest" means near the trigger
"""

from __future__ import annotations

from typing import Any

from tianwen.extract.annotation import TRIGGER, Annotation, Argument, Event, Mention
from tianwen.extract.labelled_files import Record
from tianwen.extract.mentions import Span, choose_one
from tianwen.extract.reading import LabelledText, Reading, listed, text_of, whole


def fewfc(record: Record, reading: Reading) -> Annotation:
    """One line of FewFC."""
    labels = LabelledText(text_of(record, "content"), reading)
    for item in listed(record, "events"):
        if not _named(item, "type") or not isinstance(item.get("mentions"), list):
            reading.drop("broken-label", item)
            continue
        arguments = []
        for part in item["mentions"]:
            place = part.get("span") if isinstance(part, dict) else None
            if not _named(part, "role") or not isinstance(place, list) or len(place) != 2:
                reading.drop("broken-label", part)
            elif span := reading.span(labels.text, place[0], place[1], part.get("word")):
                arguments.append(Argument(part["role"], Mention(*span)))
        _add(item["type"], arguments, labels)
    return labels.annotation()


def duee(record: Record, reading: Reading) -> Annotation:
    """One line of DuEE or DuEE-fin."""
    labels = LabelledText(text_of(record), reading)
    for item in listed(record, "event_list"):
        if not _named(item, "event_type") or not isinstance(item.get("arguments") or [], list):
            reading.drop("broken-label", item)
            continue
        arguments, near = [], None
        if item.get("trigger"):
            spans = _places(item["trigger"], item.get("trigger_start_index"), labels, None)
            arguments, near = [Argument(TRIGGER, Mention(*span)) for span in spans], spans[0] if spans else None
        for part in item.get("arguments") or []:
            if not _named(part, "role"):
                reading.drop("broken-label", part)
                continue
            for span in _places(part.get("argument"), part.get("argument_start_index"), labels, near):
                arguments.append(Argument(part["role"], Mention(*span)))
        _add(item["event_type"], arguments, labels)
    return labels.annotation()


def _places(words: object, start: object, labels: LabelledText, near: Span | None) -> list[Span]:
    reading, text = labels.reading, labels.text
    if isinstance(words, str) and whole(start) and start >= 0:
        span = reading.span(text, start, start + len(words), words)
        return [span] if span else []
    return choose_one(reading.mentions(text, words), reading.policy, near)


def _add(kind: str, arguments: list[Argument], labels: LabelledText) -> None:
    if arguments:
        labels.event(Event(kind, tuple(dict.fromkeys(arguments))))


def _named(item: Any, key: str) -> bool:
    return isinstance(item, dict) and isinstance(item.get(key), str) and bool(item[key])
