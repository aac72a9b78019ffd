"""Our own JSON line loses nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianwen.errors import InputError
from tianwen.extract.annotation import Annotation, Argument, Event, Mention, Relation
from tianwen.extract.annotation_files import read_annotations
from tianwen.extract.reading_report import Report
from tianwen.extract.writing import from_json, to_json

TEXT = "战神Ares😀是宙斯之子"


def test_a_line_has_offsets_and_the_words_at_them():
    ares, zeus = Mention(2, 6, "god", 0.75), Mention(8, 10, "god")
    event = Event("birth", (Argument("trigger", Mention(10, 12)), Argument("child", ares)), 0.5)
    annotation = Annotation(TEXT, (ares, zeus), (Relation(ares, "father", zeus, 0.9),), (event,), "page, line 1")
    line = to_json(annotation)
    assert line["entities"][0] == {"start": 2, "end": 6, "label": "god", "score": 0.75, "text": "Ares"}
    assert line["facts"][0]["object"]["text"] == "宙斯"
    assert line["events"][0]["arguments"][0] == {"role": "trigger", "start": 10, "end": 12, "text": "之子"}
    assert from_json(json.loads(json.dumps(line))) == annotation


def test_a_text_without_anything_still_says_that_it_has_no_facts():
    assert to_json(Annotation("a")) == {"text": "a", "facts": []}
    assert from_json({"text": "a"}) == Annotation("a")


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"text": "a", "entities": [{}]},
        {"text": "a", "entities": 5},
        {"text": "a", "facts": [{"subject": {"start": "x", "end": 1}}]},
        {"text": "a", "events": [{"type": "e"}]},
        {"text": "a", "entities": ["a"]},
    ],
)
def test_another_shape_is_refused(line):
    with pytest.raises(InputError, match="no annotation"):
        from_json(line)


def places(label: st.SearchStrategy[str]) -> st.SearchStrategy[Mention]:
    spans = st.tuples(st.integers(0, len(TEXT) - 1), st.integers(0, len(TEXT) - 1)).map(sorted)
    return st.builds(lambda s, label, score: Mention(s[0], s[1] + 1, label, score), spans, label, st.floats(0, 1))


labels = st.sampled_from(["", "god", "名"])
arguments = st.builds(Argument, st.sampled_from(["trigger", "r"]), places(labels))
events = st.builds(
    Event,
    st.sampled_from(["e", "f"]),
    st.lists(arguments, min_size=1, max_size=3, unique=True).map(
        lambda arguments: tuple(sorted(arguments, key=lambda argument: argument.role != "trigger"))
    ),
    st.floats(0, 1),
)
annotations = st.builds(
    Annotation,
    st.just(TEXT),
    st.lists(places(labels), max_size=4, unique=True).map(tuple),
    st.lists(st.builds(Relation, places(labels), st.sampled_from("pq"), places(labels)), max_size=3, unique=True).map(
        tuple
    ),
    st.lists(events, max_size=2, unique=True).map(tuple),
    st.sampled_from(["here", "there"]),
)


@given(annotations)
def test_what_is_written_is_read_again(tmp_path_factory, annotation):
    content = json.dumps(to_json(annotation))
    assert from_json(json.loads(content)) == annotation
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_text(content, encoding="utf-8")
    report = Report()
    assert list(read_annotations(path, report=report)) == [annotation]
    assert not report.findings
