"""What there is to find: entity types, predicates with the types they hold between, event types with their roles.

Post: 8888 (typed constraints: subject type, object type)

A schema is inferred from data or read from a file: our own JSON, the lines that come with DuIE
(`{"subject_type": …, "predicate": …, "object_type": …}`) and DuEE (`{"event_type": …, "role_list": …}`), or the
`rel2id.json` that comes with WebNLG and NYT.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tianwen.errors import InputError
from tianwen.extract.annotation import TRIGGER, Annotation

VALUE = "@value"  # DuIE 2: the role that is the object itself; every other role is a predicate of its own


@dataclass(frozen=True, slots=True, order=True)
class RelationType:
    """A predicate between two types; the type "" is any type."""

    predicate: str
    subject_type: str = ""
    object_type: str = ""


@dataclass(frozen=True, slots=True, order=True)
class EventType:
    """An event type with its roles, "trigger" among them where the data have triggers."""

    type: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """Types of entities, relations and events, each once; the type "" among the entities is mentions without a type."""

    entities: tuple[str, ...] = ()
    relations: tuple[RelationType, ...] = ()
    events: tuple[EventType, ...] = ()

    @property
    def predicates(self) -> tuple[str, ...]:
        """The predicates, each once, in order."""
        return tuple(dict.fromkeys(relation.predicate for relation in self.relations))

    def allows(self, subject_type: str, predicate: str, object_type: str) -> bool:
        """Whether a fact may hold between these types; "" on either side of the comparison is any type."""
        return any(
            relation.predicate == predicate
            and (not subject_type or relation.subject_type in ("", subject_type))
            and (not object_type or relation.object_type in ("", object_type))
            for relation in self.relations
        )

    def roles(self, event_type: str) -> tuple[str, ...]:
        """The roles of an event type; none when there is no such type."""
        return next((event.roles for event in self.events if event.type == event_type), ())

    def save(self, path: str | Path) -> None:
        """Write the schema as JSON."""
        content = json.dumps(self.to_json(), ensure_ascii=False, indent=1)
        Path(path).write_text(content + "\n", encoding="utf-8")

    def to_json(self) -> dict[str, Any]:
        """The schema as a dict for `json.dumps`."""
        return {
            "entities": list(self.entities),
            "relations": [
                {"predicate": r.predicate, "subject_type": r.subject_type, "object_type": r.object_type}
                for r in self.relations
            ],
            "events": [{"type": event.type, "roles": list(event.roles)} for event in self.events],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Schema:
        """The schema that `to_json` wrote. Raises InputError where the content is of another shape."""
        try:
            relations = [
                RelationType(_name(r["predicate"]), _type(r.get("subject_type", "")), _type(r.get("object_type", "")))
                for r in content.get("relations", ())
            ]
            events = [EventType(_name(e["type"]), tuple(map(_name, e["roles"]))) for e in content.get("events", ())]
            return cls(_each_once(map(_type, content.get("entities", ()))), _each_once(relations), _each_once(events))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"This is no schema ({type(error).__name__}: {error}). Wanted are entities (names), relations "
                "(predicate, subject_type, object_type) and events (type, roles)."
            ) from None

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a schema of any of the known kinds. Raises InputError when it is missing or none of them."""
        text = _read(path)
        try:
            return _schema_of(_values(text))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path} is no schema ({error}). Allowed are what Schema.save writes, the schema lines of DuIE and "
                "DuEE, and rel2id.json of WebNLG and NYT; or leave it out: the data's own labels are then the schema."
            ) from None


def infer_schema(annotations: Iterable[Annotation]) -> Schema:
    """Every label of the data, the frequent before the rare, equally frequent ones by name.

    Where some mentions have a type and others none, "" is the last of the entity types: these are learnt, too.
    """
    entities: Counter[str] = Counter()
    relations: Counter[RelationType] = Counter()
    events: Counter[str] = Counter()
    roles: dict[str, Counter[str]] = {}
    for annotation in annotations:
        entities.update(mention.label for mention in annotation.entities)
        for r in annotation.relations:
            relations[RelationType(r.predicate, r.subject.label, r.object.label)] += 1
            entities.update(mention.label for mention in (r.subject, r.object))
        for event in annotation.events:
            events[event.type] += 1
            roles.setdefault(event.type, Counter()).update(argument.role for argument in event.arguments)
    types = [type for type in _by_frequency(entities) if type]
    return Schema(
        (*types, "") if types and "" in entities else tuple(types),
        tuple(_by_frequency(relations)),
        tuple(EventType(event, tuple(_by_frequency(roles[event]))) for event in _by_frequency(events)),
    )


def slot_predicate(predicate: str, slot: str) -> str:
    """The name of a further role of a DuIE 2 predicate: "配音" and "inWork" give "配音/inWork"."""
    return f"{predicate}/{slot}"


def _by_frequency(counts: Counter[Any]) -> list[Any]:
    return [label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _schema_of(values: list[Any]) -> Schema:
    if len(values) == 1 and isinstance(values[0], list):  # an array of lines, or [names by number, numbers by name]
        values = values[0]
    first = values[0] if values else None
    if not isinstance(first, dict):
        raise ValueError("it holds no objects")
    if "predicate" in first:
        return _duie(values)
    if "event_type" in first:
        return _duee(values)
    if {"entities", "relations", "events"} & first.keys():
        return Schema.from_json(first)
    if all(isinstance(name, str) for name in first.values()):
        return Schema(relations=tuple(RelationType(_name(name)) for name in first.values()))
    if all(isinstance(number, int) for number in first.values()):
        return Schema(relations=tuple(RelationType(_name(name)) for name in first))
    raise ValueError("it has other keys than any known schema")


def _duie(lines: list[dict[str, Any]]) -> Schema:
    relations = []
    for line in lines:
        types = line["object_type"] if isinstance(line["object_type"], dict) else {VALUE: line["object_type"]}
        relations.append(RelationType(_name(line["predicate"]), _type(line["subject_type"]), _type(types[VALUE])))
        relations += [
            RelationType(slot_predicate(line["predicate"], slot), _type(types[VALUE]), _type(kind))
            for slot, kind in types.items()
            if slot != VALUE
        ]
    entities = [kind for relation in relations for kind in (relation.subject_type, relation.object_type) if kind]
    return Schema(_each_once(entities), _each_once(relations))


def _duee(lines: list[dict[str, Any]]) -> Schema:
    events = [
        EventType(_name(line["event_type"]), (TRIGGER, *(_name(role["role"]) for role in line["role_list"])))
        for line in lines
    ]
    return Schema(events=_each_once(events))


def _each_once(names: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(names))


def _name(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"a name is {value!r}, not a word")
    return value


def _type(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a type is {value!r}, not a word")
    return value


def _values(text: str) -> list[Any]:
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"The schema {path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"The schema {path} is not UTF-8 ({error}).") from None
