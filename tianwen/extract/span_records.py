"""LabelledText with places: SpERT's and PFN's tokens, CLUENER's entities, and our own JSON lines.

Post: 8888

    spert    {"tokens": […], "entities": [{"type", "start", "end"}], "relations": [{"type", "head", "tail"}]}:
             places count tokens, ends are exclusive, head and tail number the entities. The text is the tokens with
             one space between two.
    cluener  {"text": "…", "label": {type: {words: [[start, end], …]}}}: places count characters, ends are INCLUSIVE.
    jsonl    ours, see `writing`. Whoever writes it by hand may leave the places out - "subject": "Ares" or
             {"text": "Ares", "label": "god"} - and gets the mentions by the policy.
"""

from __future__ import annotations

import math
from typing import Any

from tianwen.extract.annotation import TRIGGER, Annotation, Argument, Event, Mention, Relation
from tianwen.extract.labelled_files import Record
from tianwen.extract.mentions import Span, choose_one
from tianwen.extract.reading import LabelledText, Reading, Unusable, listed, sound, text_of, whole


def spert(record: Record, reading: Reading) -> Annotation:
    """One sentence of tokens; places of the tokens become places in the text."""
    tokens = listed(record, "tokens")
    if not all(isinstance(token, str) for token in tokens):
        raise Unusable("broken-line", "a token is not text")
    labels = LabelledText(sound(" ".join(tokens)), reading)
    ends, place = [], 0
    for token in tokens:
        ends.append(place + len(token))
        place += len(token) + 1
    entities = [_token_mention(item, tokens, ends, reading) for item in listed(record, "entities")]
    for mention in entities:
        if mention:
            labels.entity(mention)
    for item in listed(record, "relations"):
        head, tail, name = (item.get(key) if isinstance(item, dict) else None for key in ("head", "tail", "type"))
        subject, value = _numbered(entities, head), _numbered(entities, tail)
        if not isinstance(name, str) or not name:
            reading.drop("broken-label", item)
        elif not subject or not value:
            reading.drop("unknown-mention", item)
        else:
            labels.relation(Relation(subject, name, value))
    return labels.annotation()


def cluener(record: Record, reading: Reading) -> Annotation:
    """One line of CLUENER; words and places are compared, so that a file with exclusive ends is noticed."""
    text = text_of(record)
    labels = LabelledText(text, reading)
    given = record.get("label") or {}
    if not isinstance(given, dict):
        raise Unusable("broken-line", f"'label' is {type(given).__name__}, not an object")
    for kind, strings in given.items():
        for words, places in strings.items() if isinstance(strings, dict) else [(None, None)]:
            for place in places if isinstance(places, list) else [None]:
                if not isinstance(place, list) or len(place) != 2:
                    reading.drop("broken-label", {kind: strings})
                elif not kind:
                    reading.drop("empty-label", words)
                elif span := _inclusive(text, place[0], place[1], words, reading):
                    labels.entity(Mention(*span, kind))
    return labels.annotation()


def own(record: Record, reading: Reading) -> Annotation:
    """One of our own lines, with places or without."""
    labels = LabelledText(text_of(record), reading)
    for item in listed(record, "entities"):
        label = item.get("label", "") if isinstance(item, dict) else None
        if not isinstance(label, str):
            reading.drop("broken-label", item)
            continue
        for span in _places(item, labels):
            labels.entity(Mention(*span, label, _score(item)))
    for item in [*listed(record, "facts"), *listed(record, "relations")]:
        _own_fact(item, labels)
    for item in listed(record, "events"):
        _own_event(item, labels)
    source = record.get("source")
    return labels.annotation(source if isinstance(source, str) else "")


def _own_fact(item: Any, labels: LabelledText) -> None:
    if isinstance(item, list) and len(item) == 3:
        item = dict(zip(("subject", "predicate", "object"), item, strict=True))
    if not isinstance(item, dict) or not isinstance(item.get("predicate"), str) or not item["predicate"]:
        labels.reading.drop("broken-label", item)
        return
    subject, value = _as_mention(item.get("subject")), _as_mention(item.get("object"))
    if "start" not in subject and "start" not in value:
        parts = ((part.get("text"), _label(part)) for part in (subject, value))
        labels.fact(next(parts), item["predicate"], next(parts))
        return
    first, second = _places(subject, labels), _places(value, labels)
    for s in first[:1]:
        for o in choose_one(second, "nearest", s):
            given, found = Mention(*s, _label(subject), _score(subject)), Mention(*o, _label(value), _score(value))
            labels.relation(Relation(given, item["predicate"], found, _score(item)))


def _own_event(item: Any, labels: LabelledText) -> None:
    arguments = item.get("arguments") if isinstance(item, dict) else None
    if not isinstance(arguments, list) or not isinstance(item.get("type"), str) or not item["type"]:
        labels.reading.drop("broken-label", item)
        return
    kept: list[Argument] = []
    trigger: Span | None = None
    for argument in sorted(arguments, key=lambda a: isinstance(a, dict) and a.get("role") != TRIGGER):
        role = argument.get("role") if isinstance(argument, dict) else None
        if not isinstance(role, str) or not role:
            labels.reading.drop("broken-label", argument)
            continue
        spans = choose_one(_places(argument, labels), labels.reading.policy, trigger)
        trigger = spans[0] if role == TRIGGER and spans else trigger
        kept += [Argument(role, Mention(*span, _label(argument), _score(argument))) for span in spans]
    if kept:
        labels.event(Event(item["type"], tuple(kept), _score(item)))


def _places(item: dict[str, Any], labels: LabelledText) -> list[Span]:
    """The span that a mention names, or all mentions of its string."""
    if "start" in item or "end" in item:
        span = labels.reading.span(labels.text, item.get("start"), item.get("end"), item.get("text"))
        return [span] if span else []
    return list(labels.reading.mentions(labels.text, item.get("text")))


def _as_mention(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"text": value}


def _label(item: dict[str, Any]) -> str:
    label = item.get("label")
    return label if isinstance(label, str) else ""


def _score(item: dict[str, Any]) -> float:
    score = item.get("score")
    if isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score):
        return float(score)
    return 1.0


def _inclusive(text: str, start: object, end: object, words: object, reading: Reading) -> Span | None:
    """A span whose end is inclusive by its format; exclusive ends among them are put right and reported."""
    if not whole(start) or not whole(end) or not isinstance(words, str):
        reading.drop("broken-label", f"{words!r}: [{start!r}, {end!r}]")
        return None
    if 0 <= start <= end < len(text) and text[start : end + 1] == words:
        return start, end + 1
    if 0 <= start < end <= len(text) and text[start:end] == words:
        reading.note("mixed-ends", f"[{start}, {end}] is said to be {words!r}")
        return start, end
    return reading.span(text, start, end + 1, words)


def _token_mention(item: Any, tokens: list[str], ends: list[int], reading: Reading) -> Mention | None:
    start, end, kind = (item.get(key) if isinstance(item, dict) else None for key in ("start", "end", "type"))
    if not whole(start) or not whole(end) or not isinstance(kind, str) or not kind:
        reading.drop("broken-label", item)
    elif not 0 <= start <= end <= len(tokens):
        reading.drop("outside-text", f"tokens {start} to {end} of {len(tokens)}")
    elif start == end:
        reading.drop("empty-label", item)
    else:
        return Mention(ends[start] - len(tokens[start]), ends[end - 1], kind)
    return None


def _numbered(entities: list[Mention | None], number: object) -> Mention | None:
    return entities[number] if whole(number) and 0 <= number < len(entities) else None
