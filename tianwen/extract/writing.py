"""Our own JSON line: a text with its entities, facts and events, each with offsets and the words at them.

Post: 8888

    {"text": "…", "entities": [M, …], "facts": [{"subject": M, "predicate": "…", "object": M, "score": 1.0}, …],
     "events": [{"type": "…", "arguments": [{"role": "…", "start": 0, "end": 2, "text": "…"}, …], "score": 1.0}, …],
     "source": "…"}
    M = {"start": 0, "end": 2, "label": "person", "score": 1.0, "text": "…"}

`start` and `end` count characters of "text", the end is exclusive. What is written can be read again without loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tianwen.errors import InputError
from tianwen.extract.annotation import Annotation, Argument, Event, Mention, Relation


def to_json(annotation: Annotation) -> dict[str, Any]:
    """The annotation as a dict for `json.dumps`; empty parts but "facts" are left out."""
    text = annotation.text
    content: dict[str, Any] = {"text": text}
    if annotation.entities:
        content["entities"] = [_mention_to_json(text, mention) for mention in annotation.entities]
    content["facts"] = [_fact_to_json(text, relation) for relation in annotation.relations]
    if annotation.events:
        content["events"] = [_event_to_json(text, event) for event in annotation.events]
    if annotation.source:
        content["source"] = annotation.source
    return content


def from_json(content: Mapping[str, Any]) -> Annotation:
    """The annotation that `to_json` wrote. Raises InputError where the content is of another shape.

    `read_annotations` reads the same lines forgivingly: strings without offsets, broken labels left out.
    """
    try:
        return Annotation(
            content["text"],
            tuple(_mention(item) for item in content.get("entities", ())),
            tuple(_fact(item) for item in content.get("facts", ())),
            tuple(_event(item) for item in content.get("events", ())),
            content.get("source", ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"This is no annotation ({type(error).__name__}: {error}). Wanted are text, entities, facts and events as "
            "tianwen.extract.writing.to_json writes them."
        ) from None


def _mention_to_json(text: str, mention: Mention) -> dict[str, Any]:
    return {
        "start": mention.start,
        "end": mention.end,
        "label": mention.label,
        "score": mention.score,
        "text": text[mention.start : mention.end],
    }


def _fact_to_json(text: str, relation: Relation) -> dict[str, Any]:
    return {
        "subject": _mention_to_json(text, relation.subject),
        "predicate": relation.predicate,
        "object": _mention_to_json(text, relation.object),
        "score": relation.score,
    }


def _event_to_json(text: str, event: Event) -> dict[str, Any]:
    arguments = []
    for argument in event.arguments:
        mention = argument.mention
        content: dict[str, Any] = {"role": argument.role, "start": mention.start, "end": mention.end}
        if mention.label:
            content["label"] = mention.label
        if mention.score != 1.0:
            content["score"] = mention.score
        arguments.append(content | {"text": text[mention.start : mention.end]})
    return {"type": event.type, "arguments": arguments, "score": event.score}


def _mention(item: Mapping[str, Any]) -> Mention:
    return Mention(int(item["start"]), int(item["end"]), str(item.get("label", "")), float(item.get("score", 1.0)))


def _fact(item: Mapping[str, Any]) -> Relation:
    score = float(item.get("score", 1.0))
    return Relation(_mention(item["subject"]), str(item["predicate"]), _mention(item["object"]), score)


def _event(item: Mapping[str, Any]) -> Event:
    arguments = tuple(Argument(str(argument["role"]), _mention(argument)) for argument in item["arguments"])
    return Event(str(item["type"]), arguments, float(item.get("score", 1.0)))
