from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tianwen
from tests.extract.small import TEXT, Parrot, tiny_extractor
from tianwen.errors import InputError, ModelError
from tianwen.extract import encoding
from tianwen.extract import extractor as module
from tianwen.extract.annotation import Annotation, Event, Mention, Relation
from tianwen.extract.evaluation import evaluate_extract
from tianwen.extract.extractor import Extractor
from tianwen.extract.found import CapReport
from tianwen.extract.rules import probability
from tianwen.extract.schema import RelationType, Schema
from tianwen.extract.writing import from_json, to_json

LAUNCH = "战神从肯尼迪发射。"


@pytest.fixture
def parrot(monkeypatch):
    """An extractor that finds 战神 as subject, 肯尼迪 as object, and that the one was launched from the other."""
    told = Parrot([("战神", 0), ("肯尼迪", 1)], [("战神", 0, "肯尼迪")])
    monkeypatch.setattr(module, "decode_windows", told)
    return tiny_extractor()


def places(annotation: Annotation) -> list[Mention]:
    """Every mention, wherever it stands."""
    facts = [mention for fact in annotation.relations for mention in (fact.subject, fact.object)]
    return [*annotation.entities, *facts, *(a.mention for event in annotation.events for a in event.arguments)]


def test_a_fact_has_the_places_of_its_words(parrot):
    found = parrot.extract(f"昨天，{LAUNCH}")
    score = float(probability(np.float32([2.0]))[0])
    subject, object = (
        Mention(3, 5, "", float(probability(np.float32([3.0]))[0])),
        Mention(6, 9, "", pytest.approx(0.9525741)),
    )
    assert found.entities == (subject, object)
    assert found.relations == (Relation(subject, "发射地点", object, pytest.approx(score)),)
    assert [found.words(mention) for mention in places(found)] == ["战神", "肯尼迪"] * 2
    assert from_json(to_json(found)) == found


def test_0_facts_in_a_text_is_an_annotation_with_none(parrot):
    for text in ("", " \n\t", "今天无事。", "\0", "\ud800", "😀🚀", "אילת"):
        assert parrot.extract(text) == Annotation(text)
    assert parrot.extract([]) == []
    assert [one.text for one in parrot.extract(["", LAUNCH, ""])] == ["", LAUNCH, ""]


@pytest.mark.parametrize(
    "before", ["İİİİ", "😀👨‍👩‍👧", "אילת ", "\ud83d", "\0\0", "ﬁ㎞", "e\u0301 ", "\u202e", "ＡＢ", "\ufeff", "ẞ\r\n"]
)
def test_offsets_count_the_text_as_given(parrot, before):
    found = parrot.extract(f"{before}{LAUNCH}{before}")
    assert [found.words(mention) for mention in found.entities] == ["战神", "肯尼迪"]
    assert found.entities[0].start == len(before)
    assert len(found.relations) == 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.text(alphabet=st.sampled_from([*TEXT, "\ud800", "\0", "㎞", "é", "\u0301", "\u202e", "\n"]), max_size=90),
        max_size=4,
    ),
    st.integers(0, 3),
)
def test_nothing_ever_comes_from_outside_of_the_text(texts, seed):
    extractor = tiny_extractor(seed=seed, shift=0.5)
    for text, found in zip(texts, extractor.extract(texts), strict=True):
        assert found.text == text
        assert all(0 <= one.start < one.end <= len(text) for one in places(found))
        assert all(0.5 < one.score <= 1 for one in (*found.entities, *found.relations))
        keys = [(one.start, one.end, one.label) for one in found.entities]
        assert len(keys) == len(set(keys))
        assert {(one.start, one.end) for one in places(found)} <= {(start, end) for start, end, _ in keys}


def test_an_object_may_stand_before_its_subject(monkeypatch):
    monkeypatch.setattr(module, "decode_windows", Parrot([("战神", 0), ("肯尼迪", 1)], [("战神", 1, "肯尼迪")]))
    (fact,) = tiny_extractor().extract("肯尼迪的战神").relations
    assert (fact.subject.start, fact.object.start, fact.predicate) == (4, 0, "发射台")


def test_overlapping_and_nested_mentions_are_kept(monkeypatch):
    words = [("肯尼迪航天中心", 1), ("肯尼迪", 0), ("航天中心", 1), ("迪航", 0)]
    monkeypatch.setattr(module, "decode_windows", Parrot(words))
    found = tiny_extractor(classes=("人", "地点")).extract("从肯尼迪航天中心")
    assert {(found.words(m), m.label) for m in found.entities} == {
        ("肯尼迪航天中心", "地点"),
        ("肯尼迪", "人"),
        ("航天中心", "地点"),
        ("迪航", "人"),
    }


def test_one_after_the_other_or_together_is_the_same():
    extractor = tiny_extractor(shift=0.0)
    texts = [TEXT, "", "战神", TEXT * 3, "abc " * 30, LAUNCH]
    together = extractor.extract(texts)
    assert sum(len(one.relations) for one in together) > 5
    for text, found in zip(texts, together, strict=True):
        alone = extractor.extract(text)
        assert [(m.start, m.end) for m in places(alone)] == [(m.start, m.end) for m in places(found)]
        assert [m.score for m in places(alone)] == pytest.approx([m.score for m in places(found)], abs=1e-5)


def test_a_stream_has_sources_and_does_not_wait_for_its_end(parrot, monkeypatch):
    monkeypatch.setattr(module, "WINDOWS_AT_ONCE", 4)

    def endless():
        number = 0
        while True:
            number += 1
            yield LAUNCH * (number % 3)

    found = list(islice(parrot.stream(endless(), sources=(f"page {i}" for i in range(10**9))), 10))
    assert [one.source for one in found] == [f"page {i}" for i in range(10)]
    assert [len(one.relations) for one in found[:4]] == [1, 4, 0, 1]  # two sentences of one window: every pair


def test_1_mb_is_read_a_few_windows_at_a_time(parrot):
    text = ("天气晴朗，海上有雾。" * 400 + LAUNCH) * 85
    assert len(text.encode()) > 1_000_000
    report = CapReport()
    found = parrot.extract(text, report=report, length=128)
    assert len(found.relations) == 85
    assert [found.words(one.subject) for one in found.relations] == ["战神"] * 85
    assert report.windows > 2500
    assert module.decode_windows.most <= module.WINDOWS_AT_ONCE


def test_a_mention_cut_in_two_by_a_window_comes_out_whole_or_not_at_all(monkeypatch):
    monkeypatch.setattr(module, "decode_windows", Parrot([("肯尼迪航天中心", 1), ("肯尼迪", 1), ("中心", 1)]))
    text = "，".join(["从肯尼迪航天中心起飞"] * 30)  # no sentence ends: windows are cut anywhere
    found = tiny_extractor().extract(text)
    words = [found.words(mention) for mention in found.entities]
    assert all(words.count(word) == 30 for word in ("肯尼迪航天中心", "肯尼迪", "中心"))


def test_a_halved_mention_is_left_to_the_window_that_sees_it_whole(monkeypatch):
    class Greedy(Parrot):
        """Finds the last token of every window."""

        def decoded(self, window, tokenizer, entities_only):
            one = super().decoded(window, tokenizer, entities_only)
            end = np.array([len(window.ids) - 1])
            mentions = type(one.mentions)(np.array([1]), end, end, np.array([2.0]))
            return type(one)(mentions, one.facts)

    monkeypatch.setattr(module, "decode_windows", Greedy([]))
    text = "肯尼迪航天中心" * 30
    assert [mention.end for mention in tiny_extractor().extract(text).entities] == [len(text)]


def test_a_schema_restricts_predicates(parrot):
    assert parrot.extract(LAUNCH, schema=Schema((), (RelationType("发射台"),)), verify=False).text == LAUNCH
    rules = parrot.rules(module.ExtractOptions(schema=Schema((), (RelationType("发射台"),))))
    assert rules.allowed[:, 0, 1].tolist() == [False, True]  # a schema that lacks a predicate: no such facts
    with pytest.raises(InputError, match=r"'导演'.*发射台"):
        parrot.extract(LAUNCH, schema=Schema((), (RelationType("导演"),)))


def test_facts_of_a_predicate_that_the_schema_lacks_never_come_out():
    open_, closed = (
        tiny_extractor(shift=0.5, schema=schema) for schema in (None, Schema((), (RelationType("发射台"),)))
    )
    assert {fact.predicate for fact in open_.extract(TEXT).relations} == {"发射地点", "发射台"}
    assert {fact.predicate for fact in closed.extract(TEXT).relations} == {"发射台"}


def test_types_of_the_models_own_schema_hold():
    schema = Schema(("火箭", "地点"), (RelationType("发射地点", "火箭", "地点"),))
    extractor = tiny_extractor(classes=("火箭", "地点"), predicates=("发射地点",), schema=schema, shift=0.5)
    kinds = {(fact.subject.label, fact.object.label) for fact in extractor.extract(TEXT).relations}
    assert kinds == {("火箭", "地点")}


def test_thresholds():
    extractor = tiny_extractor(shift=0.0)
    every = extractor.extract(TEXT)
    sure = extractor.extract(TEXT, threshold=0.7)
    assert 0 < len(sure.relations) < len(every.relations)
    strict = {fact.score for fact in extractor.extract(TEXT, threshold=0.7, verify=False).relations}
    assert strict == {fact.score for fact in extractor.extract(TEXT, verify=False).relations if fact.score > 0.7}
    own = tiny_extractor(shift=0.0, threshold=0.7)
    assert own.extract(TEXT) == sure
    one = extractor.extract(TEXT, thresholds={"发射台": 1 - 1e-12})
    assert {fact.predicate for fact in one.relations} == {"发射地点"}
    learned = tiny_extractor(shift=0.0, thresholds={"发射台": 1 - 1e-12})
    assert learned.extract(TEXT) == one
    assert learned.extract(TEXT, threshold=0.5) == every  # one that is given takes the place of all learned ones
    with pytest.raises(InputError, match="0 and 1"):
        extractor.extract(TEXT, threshold=1.5)


def test_links_of_events_are_no_facts_that_could_cross(monkeypatch):
    def never(mentions, facts):
        raise AssertionError("the verifier knows nothing of events")

    monkeypatch.setattr(module, "without_crossings", never)
    roles = (("发射", "trigger"), ("发射", "地点"))
    assert tiny_extractor(roles=roles, shift=0.5).extract(TEXT, verify=True).events


def test_entities_only(parrot):
    found = parrot.extract(LAUNCH, entities_only=True)
    assert len(found.entities) == 2
    assert found.relations == ()
    real = tiny_extractor(shift=0.0)
    assert real.extract(TEXT, entities_only=True).entities == real.extract(TEXT).entities


def test_caps_are_reported():
    report = CapReport()
    tiny_extractor(shift=5.0, length=64).extract("战神I-X" * 40, report=report)
    assert report.reached
    assert report.mentions_left_out > 0
    assert f"{report.mentions_left_out:,} mentions" in report.summary()
    assert not CapReport().reached


def test_events_and_their_triggers(monkeypatch):
    roles = (("质押", "trigger"), ("质押", "质押方"))
    told = Parrot([("质押", 0), ("兴发", 1)], [("质押", 0, "兴发")])
    monkeypatch.setattr(module, "decode_windows", told)
    text = "兴发质押。"
    (event,) = tiny_extractor(roles=roles).extract(text).events
    assert (event.type, event.score) == ("质押", pytest.approx(0.8807970))
    assert [(a.role, a.mention.start, a.mention.end) for a in event.arguments] == [("trigger", 2, 4), ("质押方", 0, 2)]
    monkeypatch.setattr(module, "decode_windows", Parrot([("兴发", 1)]))
    extractor = tiny_extractor(roles=roles)
    assert len(extractor.extract(text).events) == 1
    assert extractor.extract(text, needs_trigger=True).events == ()


def test_real_events_have_arguments_of_their_type():
    roles = (("质押", "trigger"), ("质押", "质押方"), ("收购", "trigger"))
    found = tiny_extractor(roles=roles, shift=-0.5).extract(TEXT)
    assert found.events
    assert all(isinstance(event, Event) and len(event.arguments) >= 1 for event in found.events)
    assert all((event.type, a.role) in roles for event in found.events for a in event.arguments)


@pytest.mark.parametrize("bad", [[None], [b"x"], [1]])
def test_what_is_no_text_is_refused(bad):
    with pytest.raises(InputError, match="A text is a str"):
        tiny_extractor().extract(bad)


@pytest.mark.parametrize("bad", [None, 3, b"abc", Path("a.txt")])
def test_what_holds_no_texts_is_refused(bad):
    with pytest.raises(InputError, match=rf"iterable of them, not {type(bad).__name__}; of a file: Path"):
        tiny_extractor().extract(bad)
    with pytest.raises(InputError, match="not str"):  # or it would be read character by character
        tiny_extractor().stream(TEXT)


def test_misuse_is_a_sentence():
    for one in (None, "my-model"):
        with pytest.raises(InputError, match=rf"Extractor\({one!r}\): .*Extractor.load\(path\)"):
            Extractor(one)  # pyright: ignore
    with pytest.raises(InputError, match=r"not str; of a file: Schema.load\(path\)"):
        tiny_extractor().extract(TEXT, schema="schema.json")


def test_a_model_that_gives_no_numbers_is_refused():
    extractor = tiny_extractor()
    with torch.no_grad():
        extractor.model.encoder.backbone.tokens.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="no numbers"):
        extractor.extract(TEXT)


def test_saved_and_loaded_it_finds_the_same(tmp_path):
    extractor = tiny_extractor(shift=0.0)
    extractor.save(tmp_path / "model")
    assert Extractor.load(tmp_path / "model").extract([TEXT]) == extractor.extract([TEXT])
    assert tianwen.Extractor is Extractor


def test_a_missing_model_is_named(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="missing"):
        Extractor.load(tmp_path / "nowhere")
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "nowhere")
    with pytest.raises(ModelError, match="tianwen train extract"):
        Extractor.load()


def test_evaluation_compares_by_protocol(parrot):
    gold = [
        Annotation(LAUNCH, relations=(Relation(Mention(0, 2), "发射地点", Mention(3, 6)),)),
        Annotation("战神", relations=(Relation(Mention(0, 1), "发射地点", Mention(1, 2)),)),
    ]
    numbers = evaluate_extract(parrot, gold, "triples")
    assert (numbers["precision"], numbers["recall"]) == (1.0, 0.5)
    assert numbers["f1"] == pytest.approx(2 / 3)
    assert numbers["sentences_per_second"] > 0
    assert numbers["per_label"]["发射地点"]["recall"] == 0.5
    with pytest.raises(InputError, match="protocol"):
        evaluate_extract(parrot, gold, "guessing")
    with pytest.raises(InputError, match="no texts"):
        evaluate_extract(parrot, [], "triples")


def test_padded_batches_decoded_in_torch_say_the_same_as_packed_ones_in_numpy(monkeypatch):
    texts = [TEXT, "战神", TEXT[:20], TEXT[::-1]]
    roles = (("质押", "trigger"), ("质押", "质押方"))
    for extractor in (tiny_extractor(shift=-9.0), tiny_extractor(roles=roles, shift=-12.0)):
        packed = extractor.extract(texts)
        with monkeypatch.context() as patched:  # what a GPU takes
            patched.setattr(encoding, "_on_cpu", encoding._elsewhere)
            report = CapReport()
            padded = extractor.extract(texts, report=report)
            assert not report.reached  # or another of two nearly equal ones may be kept
            assert extractor.extract(texts, entities_only=True)[0].entities == padded[0].entities
        for one, other in zip(packed, padded, strict=True):
            assert [(m.start, m.end, m.label) for m in places(one)] == [
                (m.start, m.end, m.label) for m in places(other)
            ]
            assert [m.score for m in places(one)] == pytest.approx([m.score for m in places(other)], abs=1e-5)
            assert [r.predicate for r in one.relations] == [r.predicate for r in other.relations]
