"""The check before training sees every way in which labels are lost or wrong, and says how often and where first."""

from __future__ import annotations

import json

import pytest

from tianwen.extract.annotation import Annotation, Argument, Event, Mention, Relation
from tianwen.extract.annotation_files import read_annotations
from tianwen.extract.data_check import check_data
from tianwen.extract.reading_report import KINDS, Report, merged, shortened
from tianwen.extract.schema import EventType, RelationType, Schema, infer_schema
from tianwen.text import Tokenizer
from tianwen.vocabulary import SPECIAL_PIECES

GOD, TOWN = Mention(0, 4, "god"), Mention(8, 12, "town")
TEXT = "Ares in Rome"
GOOD = Annotation(TEXT, (GOD, TOWN), (Relation(GOD, "worshipped in", TOWN),), source="f, line 1")
SCHEMA = Schema(("god", "town"), (RelationType("worshipped in", "god", "town"),), (EventType("war", ("side",)),))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["ares in rome " * 5, "哈 " * 5], size=400)


def kinds(report) -> dict[str, int]:
    return {finding.kind: finding.count for finding in report.findings}


def labelled(text: str, *spans: tuple[int, int]) -> Annotation:
    return Annotation(text, tuple(Mention(start, end, "god") for start, end in spans))


def test_good_data_have_no_problem_and_are_counted(tokenizer):
    many = [Annotation(f"{TEXT} {i}", GOOD.entities, GOOD.relations) for i in range(5)]
    report = check_data(many, SCHEMA, tokenizer=tokenizer, length=128)
    assert report.ok
    assert not report.findings
    assert (report.texts, report.entities["god"], report.predicates["worshipped in"]) == (5, 5, 5)
    assert str(report) == "5 texts, 10 entities of 2 kinds, 5 facts of 1 kind\nNo problem was found."


@pytest.mark.parametrize(
    ("mention", "kind"),
    [
        (Mention(0, 99, "god"), "outside-text"),
        (Mention(-3, 2, "god"), "outside-text"),
        (Mention(3, 3, "god"), "empty-label"),
        (Mention(4, 7, "god"), "white-space"),
        (Mention(0, 3, "god"), "ends-in-word"),
    ],
)
def test_wrong_places_are_seen(mention, kind):
    assert kinds(check_data([Annotation(TEXT, (mention,), source="here")]))[kind] == 1


def test_what_the_schema_lacks_is_seen():
    strange = Mention(0, 4, "demon")
    war = Event("war", (Argument("side", GOD), Argument("trigger", TOWN)))
    annotation = Annotation(
        TEXT,
        (strange,),
        (Relation(GOD, "father", TOWN), Relation(TOWN, "worshipped in", GOD), Relation(GOD, "worshipped in", TOWN)),
        (war, Event("peace", (Argument("side", GOD),))),
    )
    report = check_data([annotation], SCHEMA)
    found = {kind: count for kind, count in kinds(report).items() if KINDS[kind][0] == "error"}
    assert found == {"unknown-entity": 1, "unknown-predicate": 1, "wrong-types": 1, "unknown-event": 2}
    assert not report.ok
    assert not any(f.severity == "error" for f in check_data([annotation], infer_schema([annotation])).findings)


def test_mentions_without_a_type_are_seen_where_the_schema_has_types():
    bare, town = Mention(0, 4), Mention(8, 12)
    texts = [GOOD, Annotation(TEXT, (bare,), (Relation(bare, "worshipped in", town),), source="f, line 2")]
    report = check_data(texts, SCHEMA)
    assert kinds(report)["unknown-entity"] == 2
    (finding,) = (finding for finding in report.findings if finding.kind == "unknown-entity")
    assert (finding.where, finding.example) == ("f, line 2", "'Ares' has no type")
    for schema in (infer_schema(texts), infer_schema(texts[1:]), Schema()):
        assert "unknown-entity" not in kinds(check_data(texts[1:], schema))
    held = check_data([Annotation("Mars in Rome", (bare,))], SCHEMA, against=[GOOD])
    assert "unknown-entity" not in kinds(held)  # their words can be compared all the same


def test_a_span_without_a_piece_is_seen():
    bert = Tokenizer([*SPECIAL_PIECES, "ares"], style="bert")  # drops control characters
    assert kinds(check_data([labelled("Ares \x01", (5, 6))], tokenizer=bert))["no-piece"] == 1
    assert "no-piece" not in kinds(check_data([labelled("Ares x", (5, 6))], tokenizer=bert))


def test_a_span_inside_a_piece_is_seen():
    cats = Tokenizer([*SPECIAL_PIECES, "cats"], style="bert")
    assert cats.encode("cats").offsets.tolist() == [[0, 4]]
    report = check_data([labelled("cats", (0, 3))], tokenizer=cats)
    assert kinds(report)["inside-piece"] == 1
    assert report.findings[0].example == "'cat'"
    assert kinds(check_data([labelled("cats", (0, 4))], tokenizer=cats)).keys() == {"rare"}


def test_what_the_length_cuts_off_is_seen(tokenizer):
    annotation = labelled(
        "哈哈哈哈哈哈", (0, 4), (3, 5), (4, 6), (5, 6)
    )  # one piece each; a length of 6 has room for 4
    report = check_data([annotation], tokenizer=tokenizer, length=6)
    assert kinds(report) == {"truncated": 1, "cut-off": 2, "too-long": 1, "rare": 1}
    assert kinds(check_data([annotation], tokenizer=tokenizer, length=8)).keys() == {"rare"}
    assert kinds(check_data([annotation], tokenizer=tokenizer, length=1))["cut-off"] == 4


def test_a_character_whose_bytes_are_cut_apart_is_cut(tokenizer):
    unknown = labelled("哈嘿", (0, 1), (1, 2))
    assert len(tokenizer.encode(unknown.text)) == 1 + 3
    for length, cut in ((2 + 4, 0), (2 + 3, 1), (2 + 1, 1), (2, 2)):
        assert kinds(check_data([unknown], tokenizer=tokenizer, length=length)).get("cut-off", 0) == cut


def test_repeated_texts_are_duplicates_or_contradictions():
    other = Annotation(TEXT, (GOD,), source="f, line 3")
    again = Annotation(TEXT, GOOD.entities[::-1], GOOD.relations, source="f, line 2")
    report = check_data([GOOD, again, other])
    assert kinds(report) == {"contradiction": 1, "duplicate": 1, "rare": 3}
    assert report.findings[0].where == "f, line 3"
    assert "f, line 1" in report.findings[0].example


def test_scores_are_no_contradiction():
    scored = Annotation(TEXT, (Mention(0, 4, "god", 0.5), TOWN), GOOD.relations)
    assert "contradiction" not in kinds(check_data([GOOD, scored]))


def test_leaks_and_labels_that_training_lacks_are_seen():
    new = Annotation("Hera in Rome", (Mention(0, 4, "goddess"),), source="dev, line 2")
    report = check_data([GOOD, new], against=[GOOD])
    assert kinds(report) == {"leak": 1, "not-in-training": 1}
    assert report.findings[1].example == "entity goddess"


def test_texts_without_labels_and_labels_said_twice_are_seen():
    twice = Annotation(TEXT, (GOD, GOD))
    assert kinds(check_data([Annotation("nothing"), twice]))["no-label"] == 1
    (found,) = (f for f in check_data([GOOD, twice]).findings if f.kind == "twice")
    assert (found.count, found.where, found.example) == (1, "text 2", "god[0:4] Ares")


def test_the_readers_findings_come_first_and_with_their_lines(tmp_path):
    path = tmp_path / "cluener.json"
    lines = [
        {"text": "浙商银行叶老桂", "label": {"name": {"叶老桂": [[4, 6]]}, "company": {"浙商银行": [[0, 3]]}}},
        {"text": "浙商银行老叶", "label": {"company": {"浙商银行": [[0, 4]]}, "name": {"叶老桂": [[4, 6]]}}},
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    report = Report()
    found = check_data(read_annotations(path, report=report), report=report)
    assert kinds(found) == {"mixed-ends": 1, "outside-text": 1, "rare": 2}
    content = json.loads(json.dumps(found.to_json()))
    assert content["ok"] is False
    assert content["problems"][0] == {
        "kind": "mixed-ends",
        "severity": "error",
        "count": 1,
        "first": f"{path}, line 2",
        "example": "[0, 4] is said to be '浙商银行'",
        "meaning": KINDS["mixed-ends"][1],
    }
    assert f"first: {path}, line 2" in found.table()


def test_ambiguous_facts_are_told(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps({"text": "a b a", "facts": [["a", "p", "b"]]}), encoding="utf-8")
    report = Report()
    found = check_data(list(read_annotations(path, report=report)), report=report)
    assert "1 of 1 fact stands at several places" in found.table()
    assert found.to_json()["ambiguous"] == 1


def test_no_texts_at_all_are_no_crash():
    report = check_data([])
    assert report.ok
    assert report.table() == "0 texts\nNo problem was found."


def test_counts_of_two_reports_add_up():
    first, second = Report(), Report()
    first.add("twice", "a, line 1")
    second.add("twice", "b, line 9", "x\n\ty")
    second.add("nul", "b, line 2")
    together = merged([*first.findings.values(), *second.findings.values()])
    assert [(f.kind, f.count, f.where) for f in together] == [("nul", 1, "b, line 2"), ("twice", 2, "a, line 1")]
    assert first.findings["twice"].count == 1
    assert str(second.findings["twice"]).endswith("(x y)")
    assert shortened("x" * 200).endswith("…")
