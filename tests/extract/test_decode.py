from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.extract.random_maps import batch_of, random_text
from tianwen.errors import InputError
from tianwen.extract import torch_decode
from tianwen.extract.decode import Decoded, decode
from tianwen.extract.dense_decode import dense_facts, dense_mentions
from tianwen.extract.maps import TextMaps, text_maps
from tianwen.extract.rules import UNTYPED, Rules, margin, probability
from tianwen.extract.schema import RelationType, Schema
from tianwen.extract.torch_decode import decode_batch

TYPES = ("person", "place", "work")
UNCAPPED = {"most_mentions": None, "most_facts": None}


def rules_of(classes: int, predicates: int, **options) -> Rules:
    names = UNTYPED if classes == 2 else TYPES[:classes]
    rules = Rules.of(names, [f"p{i}" for i in range(predicates)], **options)
    return Rules(rules.mention_margin, rules.link_margin, rules.allowed, **UNCAPPED)


def spans(decoded: Decoded) -> list[tuple[int, int, int]]:
    mentions = decoded.mentions
    return list(zip(mentions.label.tolist(), mentions.first.tolist(), mentions.last.tolist(), strict=True))


def facts(decoded: Decoded) -> dict:
    at, found = spans(decoded), decoded.facts
    rows = zip(found.subject, found.predicate, found.object, found.head, found.tail, decoded.fact_score, strict=True)
    return {(at[s], int(p), at[o]): (float(h), float(t), float(score)) for s, p, o, h, t, score in rows}


def check(decoded: Decoded, text: TextMaps, rules: Rules) -> None:
    """Equal to the definition to 1e-6, but for scores that lie that close to the threshold."""
    wanted = dense_mentions(text, rules)
    assert dict(zip(spans(decoded), decoded.mentions.score.tolist(), strict=True)) == pytest.approx(wanted, abs=2e-6)
    wanted = dense_facts(text, rules)
    found = facts(decoded)
    assert found.keys() == wanted.keys()
    for fact, (s1, s2, s3, s4) in wanted.items():
        assert found[fact] == pytest.approx((s3, s4, min(s1, s2, s3, s4)), abs=2e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 8),
    classes=st.sampled_from([1, 2, 3]),
    predicates=st.integers(1, 5),
    shift=st.sampled_from([-4.0, -2.0, 0.0, 2.0]),
    shared=st.booleans(),
    threshold=st.sampled_from([0.5, 0.2, 0.9]),
    longest=st.sampled_from([None, (1, 2, 4), (3, 1, 1)]),
)
def test_lazy_decoding_is_the_definition(seed, tokens, classes, predicates, shift, shared, threshold, longest):
    shape = {"tokens": tokens, "classes": classes, "predicates": predicates, "shift": shift, "shared": shared}
    texts = [random_text(seed, **shape), random_text(seed + 1, **shape | {"tokens": tokens + 3})]
    rules = rules_of(classes, predicates, threshold=threshold)
    if longest is not None:
        rules = replace(rules, longest=np.array(longest[:classes]))
    for text in texts:
        check(decode(text, rules), text, rules)
    for text, decoded in zip(texts, decode_batch(batch_of(texts), rules), strict=True):
        check(decoded, text, rules)


def test_numpy_and_torch_give_the_same_in_the_same_order():
    texts = [random_text(seed, tokens=30, predicates=24, shift=-3.0) for seed in range(6)]
    rules = Rules.of(UNTYPED, [f"p{i}" for i in range(24)])
    for text, other in zip(texts, decode_batch(batch_of(texts), rules), strict=True):
        one = decode(text, rules)
        assert len(one.facts) > 0
        for field in ("label", "first", "last"):
            assert np.array_equal(getattr(one.mentions, field), getattr(other.mentions, field))
        for field in ("subject", "predicate", "object"):
            assert np.array_equal(getattr(one.facts, field), getattr(other.facts, field))
        assert np.allclose(one.fact_score, other.fact_score, atol=1e-6)


def test_maps_of_the_network_are_those_of_the_text_without_cls_and_sep():
    for shared in (True, False):
        text = random_text(3, shared=shared)
        rules = rules_of(2, 3)
        assert facts(decode(text_maps(batch_of([text])), rules)) == pytest.approx(facts(decode(text, rules)), abs=1e-6)


def test_an_object_may_precede_its_subject_but_no_span_may_end_before_it_starts():
    found = [fact for seed in range(5) for fact in facts(decode(random_text(seed, shift=-1.0), rules_of(2, 3)))]
    assert any(o[1] < s[1] for s, _, o in found)
    assert any(o[1] > s[1] for s, _, o in found)
    assert all(first <= last for s, _, o in found for _, first, last in (s, o))


def test_overlapping_and_nested_mentions_all_come_out():
    found = spans(decode(random_text(1, shift=2.0), rules_of(2, 3)))
    of_subject = [span[1:] for span in found if span[0] == 0]
    assert any(a[0] < b[0] <= b[1] < a[1] for a in of_subject for b in of_subject)  # nested
    assert any(a[0] < b[0] <= a[1] < b[1] for a in of_subject for b in of_subject)  # overlapping


def test_no_mention_is_longer_than_its_class_may_be():
    text, rules = random_text(1, shift=2.0), rules_of(2, 3)
    everything = spans(decode(text, rules))
    assert max(last - first + 1 for _, first, last in everything) > 3
    found = spans(decode(text, replace(rules, longest=np.array([3, 1]))))
    assert found == [span for span in everything if span[2] - span[1] + 1 <= (3, 1)[span[0]]]


def test_nothing_to_find_gives_nothing():
    for text in (random_text(0, shift=-50.0), random_text(0, tokens=1, shift=-50.0)):
        for decoded in (decode(text, rules_of(2, 3)), *decode_batch(batch_of([text]), rules_of(2, 3))):
            assert not len(decoded.mentions)
            assert not len(decoded.facts)
    only_entities = random_text(0)._replace(heads=None, tails=None)
    assert len(decode(only_entities, rules_of(2, 3)).mentions)
    assert not len(decode(only_entities, rules_of(2, 3)).facts)


def test_types_restrict_facts():
    schema = Schema(
        TYPES,
        (RelationType("p0", "person", "place"), RelationType("p0", "work", "work"), RelationType("p2", "", "work")),
    )
    rules = rules_of(3, 4, schema=schema)
    texts = [random_text(seed, classes=3, predicates=4, shift=0.0) for seed in range(3)]
    for decodings in ([decode(text, rules) for text in texts], decode_batch(batch_of(texts), rules)):
        kinds = {(TYPES[s[0]], p, TYPES[o[0]]) for decoded in decodings for s, p, o in facts(decoded)}
        anything = {(kind, 2, "work") for kind in TYPES}
        assert kinds == {("person", 0, "place"), ("work", 0, "work"), *anything}  # p1 and p3 are not in the schema
    for text in texts:
        check(decode(text, rules), text, rules)


def test_each_predicate_and_type_may_have_a_threshold():
    text = random_text(5, shift=-1.0)
    everything, strict = rules_of(2, 3), rules_of(2, 3, thresholds={"p1": 0.9, "subject": 0.8})
    expected = {
        fact
        for fact, (s1, s2, s3, s4) in dense_facts(text, everything).items()
        if min(s3, s4) > (margin(0.9) if fact[1] == 1 else 0) and s1 > margin(0.8) and s2 > 0
    }
    assert expected
    assert len(expected) < len(dense_facts(text, everything))
    assert facts(decode(text, strict)).keys() == expected


@pytest.mark.parametrize("own", [{"p1": 0.9}, {"p1": 0.2, "p2": 0.7}, {"subject": 0.7, "p0": 0.6}, {"object": 0.2}])
def test_the_threshold_of_a_predicate_is_that_of_its_facts_scores(own):
    shape = {"tokens": 10, "shift": -0.5}
    texts, rules = [random_text(seed, **shape) for seed in range(8)], rules_of(2, 3, thresholds=own)
    for text, decoded in zip(texts, decode_batch(batch_of(texts), rules), strict=True):
        check(decoded, text, rules)
        check(decode(text, rules), text, rules)
        scores = probability(decoded.fact_score)
        assert all(score > own.get(f"p{p}", 0.5) for p, score in zip(decoded.facts.predicate, scores, strict=True))


def test_types_of_low_thresholds_are_looked_for_everywhere_in_torch_too():
    texts = [random_text(seed, tokens=9, classes=3, shift=-1.0) for seed in range(8)]
    rules = rules_of(3, 3, thresholds={"person": 0.05, "work": 0.99})
    for text, decoded in zip(texts, decode_batch(batch_of(texts), rules), strict=True):
        check(decoded, text, rules)


def test_blocks_of_a_batch_in_torch_do_not_show(monkeypatch):
    texts = [random_text(seed, tokens=9, shift=-0.5) for seed in range(4)]
    rules = rules_of(2, 3)
    monkeypatch.setattr(torch_decode, "_DEVICE_BLOCK", 10)
    for text, decoded in zip(texts, decode_batch(batch_of(texts), rules), strict=True):
        check(decoded, text, rules)


def test_a_raised_threshold_keeps_the_facts_above_it():
    text = random_text(8, shift=0.0)
    low, high = (facts(decode(text, rules_of(2, 3, threshold=t))) for t in (0.5, 0.8))
    assert high.keys() == {fact for fact, (_, _, score) in low.items() if probability(np.array([score])) > 0.8}


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.0}, {"thresholds": {"p9": 0.5}}])
def test_what_cannot_be_a_threshold_is_refused(options):
    with pytest.raises(InputError, match=r"threshold|knows"):
        rules_of(2, 3, **options)


def test_mentions_without_a_type_may_be_in_facts_whose_schema_leaves_the_type_open():
    schema = Schema(("god", ""), (RelationType("rules", "god", "god"), RelationType("loves", "", "god")))
    rules = Rules.of(("god", ""), ("rules", "loves"), schema=schema)
    assert rules.allowed.astype(int).tolist() == [[[1, 0], [0, 0]], [[1, 0], [1, 0]]]
    with pytest.raises(InputError, match="this model knows god, rules"):
        Rules.of(("god", ""), ("rules",), thresholds={"hates": 0.5})


def test_a_schema_with_what_the_model_does_not_know_is_refused():
    with pytest.raises(InputError, match=r"'orbit'.*p0, p1"):
        rules_of(2, 2, schema=Schema((), (RelationType("orbit"),)))
    with pytest.raises(InputError, match=r"'planet'.*person, place, work"):
        rules_of(3, 2, schema=Schema((), (RelationType("p0", "planet"),)))


def test_caps_keep_the_best_and_count_the_others():
    text = random_text(2, tokens=20, shift=1.0)
    free = decode(text, rules_of(2, 3))
    rules = Rules.of(UNTYPED, ["p0", "p1", "p2"])
    tight = Rules(rules.mention_margin, rules.link_margin, rules.allowed, most_mentions=40, most_facts=10**6)
    mentions = decode(text, tight).mentions
    assert (len(mentions), mentions.left_out) == (40, len(free.mentions) - 40)
    assert mentions.score.min() >= np.sort(free.mentions.score)[-40]
    few = decode(text, Rules(rules.mention_margin, rules.link_margin, rules.allowed, most_mentions=None, most_facts=7))
    assert (len(few.facts), few.facts.left_out) == (7, len(free.facts) - 7)
    assert few.fact_score.min() >= np.sort(free.fact_score)[-7]
    (other,) = decode_batch(batch_of([text]), tight)
    assert (len(other.mentions), other.facts.left_out) == (40, 0)


def test_an_untrained_model_cannot_make_decoding_explode():
    text = random_text(0, tokens=256, predicates=50, shift=1.0)  # most of 33,000 spans and their pairs are above 0
    rules = Rules.of(UNTYPED, [f"p{i}" for i in range(50)])
    start = time.perf_counter()
    decoded = decode(text, rules)
    assert time.perf_counter() - start < 2.0
    assert decoded.mentions.left_out > 10_000
    assert len(decoded.facts) == rules.most_facts


def test_probabilities_do_not_overflow():
    assert probability(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
    assert margin(float(probability(np.array([1.7]))[0])) == pytest.approx(1.7)
