"""Reading several passages with made-up probabilities, against the posts' way in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask.reading import Reading, WritingModel, merge, read_by_slots, read_by_writing, slotted
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.ask.spans import SpanConstraint
from tianwen.backbone.roformer_v2 import RoFormerV2Config
from tianwen.errors import InputError

END, VOCABULARY = 0, 12
passages = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=8), min_size=1, max_size=3)


def scorer(seed, *, sure=1.0):
    """Probabilities that depend on passage and prefix only."""

    def next_token(asked, written):
        rows = [[_row((seed, int(i), *prefix), sure) for prefix in written.tolist()] for i in asked]
        return np.array(rows).reshape(len(asked), len(written), VOCABULARY)

    return next_token


def _row(key, sure):
    logits = np.random.default_rng([k + 1 for k in key]).normal(size=VOCABULARY) * sure
    return np.exp(logits) / np.exp(logits).sum()


def grams(passage, n):
    return {tuple(passage[i : i + n]) for i in range(len(passage) - n + 1)}


def post_7115(texts, next_token, longest, empty):
    """Greedy, as the post: passages that begin with END are dropped, the rest vote on each token of their n-grams."""
    first = next_token(np.arange(len(texts)), np.zeros((1, 0), np.int64))[:, 0]
    asked = [i for i in range(len(texts)) if first[i].argmax() != END]
    written = ()
    while asked:
        p = next_token(np.array(asked), np.array([written], np.int64).reshape(1, -1))[:, 0]
        allowed = {gram[-1] for i in asked for gram in grams(texts[i], len(written) + 1) if gram[:-1] == written}
        allowed = allowed if len(written) < longest else set()
        allowed |= {END} if written or empty else set()
        voted = (p**2).sum(0) / (p.sum(0) + 1)
        written = (*written, max(sorted(allowed), key=lambda token: voted[token]))
        if written[-1] == END:
            return written[:-1]
    return None


@settings(max_examples=40)
@given(texts=passages, seed=st.integers(0, 50), longest=st.integers(1, 5), empty=st.booleans())
def test_one_beam_writes_what_the_post_writes(texts, seed, longest, empty):
    spans = SpanConstraint(texts, end_id=END, longest=longest, empty=empty)
    found = read_by_writing(scorer(seed), spans)
    expected = post_7115(texts, scorer(seed), longest, empty)
    assert [reading.tokens for reading in found] == ([] if expected is None else [expected])
    for reading in found:
        for passage, start in reading.places:
            assert tuple(texts[passage][start : start + len(reading.tokens)]) == reading.tokens
        assert reading.places


@settings(max_examples=20)
@given(texts=passages, seed=st.integers(0, 50))
def test_enough_beams_find_the_likeliest_span(texts, seed):
    spans = SpanConstraint(texts, end_id=END, longest=3)
    found = read_by_writing(scorer(seed), spans, beams=200)
    first = scorer(seed)(np.arange(len(texts)), np.zeros((1, 0), np.int64))[:, 0]
    asked = [i for i in range(len(texts)) if first[i].argmax() != END]
    spelt = {gram for i in asked for n in (1, 2, 3) for gram in grams(texts[i], n)}
    assert {reading.tokens for reading in found} == spelt
    assert sum(reading.score for reading in found) == pytest.approx(1 if asked else 0)
    narrow = read_by_writing(scorer(seed), spans, beams=3)
    assert [reading.score for reading in narrow] == sorted((reading.score for reading in narrow), reverse=True)
    assert all(reading in found or reading.score <= found[0].score + 1e-12 for reading in narrow)


def test_passages_without_an_answer_are_not_asked_again():
    calls = []

    def next_token(asked, written):
        calls.append((asked.tolist(), written.tolist()))
        p = np.full((len(asked), len(written), VOCABULARY), 0.01)
        for row, i in enumerate(asked):
            p[row, :, END if i == 1 or written.shape[1] else 4] = 0.5
        return p

    found = read_by_writing(next_token, SpanConstraint([[4, 5], [5, 5], [3, 4]], end_id=END))
    assert [asked for asked, _ in calls] == [[0, 1, 2], [0, 2]]
    assert [(reading.tokens, reading.places) for reading in found] == [((4,), ((0, 0), (2, 1)))]
    assert read_by_writing(next_token, SpanConstraint([[9]], end_id=END))[0].tokens == (9,)
    never = read_by_writing(lambda asked, _: np.eye(VOCABULARY)[None, asked * 0], SpanConstraint([[4]], end_id=END))
    assert never == []


def test_a_token_that_no_passage_has_is_never_written():
    """All probability outside the passages: what is left over decides, and nothing is divided by zero."""
    everything_else = np.zeros(VOCABULARY)
    everything_else[11] = 1.0
    next_token = lambda asked, written: np.tile(everything_else, (len(asked), len(written), 1))  # noqa: E731
    found = read_by_writing(next_token, SpanConstraint([[4], [5]], end_id=END), beams=2)
    assert {reading.tokens for reading in found} <= {(4,), (5,)}
    assert all(reading.score == 0 for reading in found)


def post_7148(texts, p, empty):
    """As the post: per passage the likeliest token of its n-grams or END, slot by slot; equal answers merged."""
    results = {}
    for i, text in enumerate(texts):
        answer, total = (), 0.0
        for slot in range(p.shape[1]):
            allowed = {gram[-1] for gram in grams(text, slot + 1) if gram[:-1] == answer}
            allowed |= {END} if answer or empty else set()
            token = max(sorted(allowed), key=lambda token: p[i, slot, token])
            total += p[i, slot, token]
            answer = (*answer, token)
            if token == END:
                break
        score = total / len(answer)
        answer = tuple(token for token in answer if token != END)
        if answer:
            results.setdefault(answer, []).append(score)
    return {answer: sum(s * s for s in scores) / (sum(scores) + 1) for answer, scores in results.items()}


@settings(max_examples=40)
@given(texts=passages, seed=st.integers(0, 50), slots=st.integers(1, 6), empty=st.booleans())
def test_slots_are_filled_as_the_post_fills_them(texts, seed, slots, empty):
    p = np.random.default_rng(seed).dirichlet(np.ones(VOCABULARY), (len(texts), slots))
    spans = SpanConstraint(texts, end_id=END, longest=slots, empty=empty)
    found = read_by_slots(p, spans)
    assert {reading.tokens: pytest.approx(reading.score) for reading in found} == post_7148(texts, p, empty)
    assert [reading.score for reading in found] == sorted((reading.score for reading in found), reverse=True)
    for reading in found:
        assert all(tuple(texts[i][k : k + len(reading.tokens)]) == reading.tokens for i, k in reading.places)
        assert reading.places


def test_two_passages_that_agree_beat_a_surer_one():
    p = np.full((3, 2, VOCABULARY), 1e-3)
    p[0, 0, 4], p[1, 0, 5], p[2, 0, 5] = 0.9, 0.8, 0.7
    p[:, 1, END] = 0.9
    found = read_by_slots(p, SpanConstraint([[4], [5, 7], [6, 5]], end_id=END, empty=True))
    assert [(reading.tokens, reading.places) for reading in found] == [((5,), ((1, 0), (2, 1))), ((4,), ((0, 0),))]
    assert found[1].score == pytest.approx(0.9**2 / 1.9)
    assert merge(np.array([0.9])) == pytest.approx(found[1].score)


def test_an_empty_passage_has_no_answer():
    spans = SpanConstraint([[], [4]], end_id=END)
    assert [reading.tokens for reading in read_by_slots(np.full((2, 3, VOCABULARY), 0.1), spans)] == [(4,)]


def test_what_cannot_be_read_is_refused():
    spans = SpanConstraint([[4]], end_id=END)
    with pytest.raises(InputError, match="One row of slots for each of 1 passages"):
        read_by_slots(np.ones((2, 3, VOCABULARY)), spans)
    with pytest.raises(InputError, match="the least is 1"):
        read_by_writing(scorer(0), spans, beams=0)


def test_the_input_with_slots():
    assert slotted([7, 8], [9], slots=2, marks=(1, 2, 3)).tolist() == [1, 2, 2, 3, 7, 8, 3, 9, 3]


def test_the_askers_model_reads_passages():
    """Kept nodes give what a fresh reading of source and prefix gives, and the result is a span."""
    torch.manual_seed(0)
    backbone = RoFormerV2Config(vocabulary=VOCABULARY, layers=1, width=16, heads=2, dropout=0.0)
    model = AskModel(AskConfig(backbone, copy_width=8))
    sources = [np.array([1, 4, 5, 2, 6]), np.array([1, 5, 2, 6])]
    reader = WritingModel(model, sources)
    start = reader(np.array([0, 1]), np.zeros((1, 0), np.int64))
    assert start.shape == (2, 1, VOCABULARY)
    assert start.sum(-1) == pytest.approx(1, abs=1e-4)
    reader(np.array([0, 1]), np.array([[4], [5]]))
    kept = reader(np.array([1]), np.array([[5, 5], [4, 5]]))
    fresh = WritingModel(model, sources)
    fresh(np.array([1]), np.array([[4]]))
    assert kept[0, 1] == pytest.approx(fresh(np.array([1]), np.array([[4, 5]]))[0, 0], abs=1e-5)
    found = read_by_writing(reader, SpanConstraint([[4, 5], [5]], end_id=END), beams=2)
    assert {reading.tokens for reading in found} <= {(4,), (5,), (4, 5)}
    assert all(isinstance(reading, Reading) for reading in found)
