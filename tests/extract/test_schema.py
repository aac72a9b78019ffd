"""Schemas: inferred, saved, and read in the forms in which they come with published data."""

from __future__ import annotations

import json

import pytest

from tianwen.errors import InputError
from tianwen.extract.annotation import Annotation, Argument, Event, Mention, Relation
from tianwen.extract.schema import EventType, RelationType, Schema, infer_schema

ARES = Mention(0, 4, "god")
SCHEMA = Schema(
    ("god", "town"),
    (RelationType("worshipped in", "god", "town"), RelationType("father", "god", "god")),
    (EventType("war", ("trigger", "side")),),
)


def test_a_schema_is_every_label_the_frequent_first():
    rome = Mention(8, 12, "town")
    war = Event("war", (Argument("side", ARES), Argument("trigger", rome), Argument("side", rome)))
    texts = [
        Annotation("Ares in Rome", (ARES,), (Relation(ARES, "worshipped in", rome),)),
        Annotation(
            "Ares in Rome", (ARES,), (Relation(ARES, "worshipped in", rome), Relation(ARES, "is", ARES)), (war,)
        ),
    ]
    schema = infer_schema(texts)
    assert schema.entities == ("god", "town")
    assert schema.relations == (RelationType("worshipped in", "god", "town"), RelationType("is", "god", "god"))
    assert schema.events == (EventType("war", ("side", "trigger")),)
    assert infer_schema(reversed(texts)) == schema


def test_untyped_data_give_a_schema_without_types():
    a, b = Mention(0, 1), Mention(1, 2)
    schema = infer_schema([Annotation("ab", (a, b), (Relation(a, "p", b),))])
    assert schema == Schema(relations=(RelationType("p"),))
    assert schema.predicates == ("p",)


def test_without_a_type_among_types_is_one_more_and_the_last():
    """Else facts of texts without types would be lost where others have types."""
    bare, also = Mention(0, 4), Mention(8, 12)
    untyped = Annotation("Ares in Rome", (bare, also), (Relation(bare, "is in", also),))
    fact = Annotation("Ares in Rome", (), (Relation(ARES, "is in", also),))
    for texts in ([untyped, untyped, Annotation("Ares", (ARES,))], [fact]):
        schema = infer_schema(texts)
        assert schema.entities == ("god", "")
        assert Schema.from_json(schema.to_json()) == schema


def test_what_is_saved_is_loaded(tmp_path):
    SCHEMA.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == SCHEMA
    assert Schema.from_json(json.loads(json.dumps(SCHEMA.to_json()))) == SCHEMA


def test_types_are_constraints_and_the_empty_type_is_any():
    assert SCHEMA.allows("god", "worshipped in", "town")
    assert not SCHEMA.allows("town", "worshipped in", "god")
    assert SCHEMA.allows("", "worshipped in", "town")
    assert not SCHEMA.allows("god", "mother", "god")
    assert Schema(relations=(RelationType("p"),)).allows("x", "p", "y")
    assert SCHEMA.roles("war") == ("trigger", "side")
    assert SCHEMA.roles("peace") == ()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            '{"object_type": "地点", "predicate": "祖籍", "subject_type": "人物"}\n'
            '{"object_type": "地点", "predicate": "祖籍", "subject_type": "人物"}\n',
            Schema(("人物", "地点"), (RelationType("祖籍", "人物", "地点"),)),
        ),
        (
            '{"object_type": {"@value": "人物", "inWork": "影视作品"}, "predicate": "配音", "subject_type": "人"}',
            Schema(
                ("人", "人物", "影视作品"),
                (RelationType("配音", "人", "人物"), RelationType("配音/inWork", "人物", "影视作品")),
            ),
        ),
        (
            '{"event_type": "质押", "role_list": [{"role": "质押方"}], "id": "1", "class": "x"}',
            Schema(events=(EventType("质押", ("trigger", "质押方")),)),
        ),
        ('[{"0": "capital", "1": "country"}, {"capital": 0, "country": 1}]',
         Schema(relations=(RelationType("capital"), RelationType("country")))),
        ('{"capital": 0, "country": 1}', Schema(relations=(RelationType("capital"), RelationType("country")))),
    ],
)  # fmt: skip
def test_published_forms_are_read(content, expected, tmp_path):
    (tmp_path / "schema").write_text("\ufeff" + content, encoding="utf-8")
    assert Schema.load(tmp_path / "schema") == expected


@pytest.mark.parametrize(
    "content", ["", "nonsense", "[]", "3", '{"a": [1]}', '{"entities": 5}', '{"relations": [{}]}', '{"predicate": "p"}']
)
def test_what_is_no_schema_is_refused_with_what_is_one(content, tmp_path):
    (tmp_path / "schema").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="schema"):
        Schema.load(tmp_path / "schema")


def test_a_schema_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Schema.load(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(InputError, match="not UTF-8"):
        Schema.load(tmp_path / "latin")
