"""Spans of passages against the set of all their stretches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask.spans import SpanConstraint
from tianwen.ask.walking import read_from
from tianwen.errors import InputError

from .agreement import END, agrees, walk
from .oracle import Oracle

SEPARATOR = 9
passages = st.lists(st.lists(st.sampled_from([0, 1, 2, 4, END, SEPARATOR, 70000]), max_size=8), min_size=1, max_size=5)


class OfPassage:
    """One passage's part of the constraint, to be held against an oracle."""

    def __init__(self, spans, number):
        self.spans, self.number = spans, number

    def __getattr__(self, name):
        return getattr(self.spans, name)

    def walk(self, ids, lengths):
        return read_from(self.spans, self.spans.roots(np.full(len(lengths), self.number)), ids, lengths)


def stretches(passage, longest):
    """Start and tokens of every span of a passage."""
    for start in range(len(passage)):
        for stop in range(start + 1, min(start + longest, len(passage)) + 1):
            if not {END, SEPARATOR} & set(passage[start:stop]):
                yield start, tuple(passage[start:stop])


@settings(max_examples=40)
@given(passages=passages, longest=st.integers(1, 4), empty=st.booleans())
def test_every_stretch_of_a_passage_and_nothing_else(passages, longest, empty):
    spans = SpanConstraint(passages, end_id=END, separators=[SEPARATOR], longest=longest, empty=empty)
    for number, passage in enumerate(passages):
        found = list(stretches(passage, longest))
        keys = [(*span, END) for _, span in found] + [(END,)] * empty
        agrees(OfPassage(spans, number), Oracle(keys, END))
        for span in {span for _, span in found}:
            ending = walk(OfPassage(spans, number), [span, (*span, END)])
            for passage_of, start in spans.places(ending):
                assert start.tolist() == [begin for begin, other in found if other == span]
                assert set(passage_of) == {number}


def test_rows_are_ranges_of_places_that_shrink_as_more_is_read():
    spans = SpanConstraint([[4, 5, 4, 5, 6], [4, 5]], end_id=END)
    state = spans.walk(np.array([[4, 5, 6], [4, 5, 6]]), np.array([2, 1]))
    low, high = spans.rows(state)
    assert (high - low).tolist() == [2, 1]
    (passage, start), other = spans.places(state)
    assert (passage.tolist(), start.tolist()) == ([0, 0], [0, 2])
    assert [column.tolist() for column in other] == [[1], [0]]
    assert sum(len(start) for _, start in spans.places(spans.root(2))) == 7
    low_after, high_after = spans.rows(spans.advance(state, np.array([6, 6])))
    assert low_after[0] >= low[0]
    assert high_after[0] <= high[0]
    assert high_after[0] - low_after[0] == 1


def test_rows_are_shared_evenly_by_the_passages():
    spans = SpanConstraint([[4], [5], [6]], end_id=END)
    assert spans.root(6).tolist() == [1, 1, 2, 2, 3, 3]
    assert spans.allowed(spans.root(3))[1].tolist() == [4, 5, 6]
    assert len(spans.root(0)) == 0
    with pytest.raises(InputError, match="4 rows cannot be shared evenly by 3 passages"):
        spans.root(4)


def test_a_passage_with_nothing_in_it():
    spans = SpanConstraint([[], [SEPARATOR, END]], end_id=END, separators=[SEPARATOR])
    assert spans.allowed(spans.root(2))[0].tolist() == [0, 0, 0]
    empty = SpanConstraint([[], [SEPARATOR]], end_id=END, separators=[SEPARATOR], empty=True)
    assert empty.allowed(empty.root(2))[1].tolist() == [END, END]


@pytest.mark.parametrize("options", [{"passages": []}, {"passages": [[4]], "longest": 0}])
def test_what_has_no_spans_is_refused(options):
    with pytest.raises(InputError, match="Spans need a passage"):
        SpanConstraint(options.pop("passages"), end_id=END, **options)


def test_a_long_passage_is_built_at_once():
    rng = np.random.default_rng(0)
    passage = rng.integers(4, 50, 3000)
    spans = SpanConstraint([passage] * 3, end_id=END, longest=16)
    state = spans.walk(np.stack([passage[100:116]] * 3), np.full(3, 16))
    assert [start.tolist() for _, start in spans.places(state)] == [[100]] * 3
    assert spans.allowed(state)[1].tolist() == [END] * 3
