"""The bit-parallel lookahead against the textbook table."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask.lookahead import lookahead_reweigh, question_positions

from .agreement import catalogue, fielded, segmented, walk


def lcs(a, b):
    """Length of the longest common subsequence, by the table."""
    column = [0] * (len(b) + 1)
    for token in a:
        corner = 0
        for j, other in enumerate(b):
            corner, column[j + 1] = column[j + 1], corner + 1 if token == other else max(column[j + 1], column[j])
    return column[-1]


def expected_weights(oracle, question, prefix, from_field):
    """n_v of each child of `prefix`, entry by entry."""
    children = oracle.allowed(prefix)
    if oracle.field(prefix) < from_field or len(children) < 2:
        return [1] * len(children)
    done = lcs(prefix, question)
    return [max(lcs(key, question) - done + 1 for key in oracle.below((*prefix, v))) for v in children]


def weights(trie, questions, owner, prefixes, **options):
    width = max(map(len, prefixes), default=0) + 3
    tokens = np.full((len(prefixes), width), 77, np.int64)  # what stands behind a path's length must not be read
    for row, prefix in enumerate(prefixes):
        tokens[row, : len(prefix)] = prefix
    length = np.array([len(prefix) for prefix in prefixes], np.int64)
    paths = SimpleNamespace(owner=np.array(owner, np.int64), state=walk(trie, prefixes), tokens=tokens, length=length)
    row_ptr, token, after = trie.allowed(paths.state)
    reweigh = lookahead_reweigh(trie, [np.array(question, np.int32) for question in questions], **options)
    return reweigh(paths, row_ptr, token, after).tolist()


def compare(trie, oracle, questions, *, from_field=0):
    prefixes = oracle.prefixes()
    rows = [(owner, prefix) for owner in range(len(questions)) for prefix in prefixes]
    expected = [n for owner, prefix in rows for n in expected_weights(oracle, questions[owner], prefix, from_field)]
    found = weights(trie, questions, [o for o, _ in rows], [p for _, p in rows], from_field=from_field)
    assert found == expected


few = st.lists(st.integers(4, 7), max_size=8).map(tuple)


@settings(max_examples=40)
@given(
    st.lists(few, min_size=1, max_size=8), st.lists(st.lists(st.integers(3, 8), max_size=150), min_size=1, max_size=3)
)
def test_weights_agree_with_the_table(keys, questions):
    compare(*catalogue(keys)[:2], questions)


@settings(max_examples=15)
@given(st.lists(st.tuples(few, few, few), min_size=1, max_size=6), st.lists(st.integers(3, 8), max_size=20))
def test_weights_of_facts_start_behind_the_subject(facts, question):
    compare(*fielded(facts)[:2], [question], from_field=1)


@pytest.mark.parametrize("length", [0, 1, 61, 62, 63, 64, 123, 124, 125, 200, 700])
@pytest.mark.parametrize("kind", ["equal", "alternating", "all different", "reversed", "none"])
def test_questions_around_and_beyond_the_width_of_a_word(length, kind):
    question = {
        "equal": [4] * length,
        "alternating": [4 + k % 2 for k in range(length)],
        "all different": [10 + k for k in range(length)],
        "reversed": [10 + length - k for k in range(length)],
        "none": [5000] * length,
    }[kind]
    long = tuple(10 + k for k in range(130))  # carries run through every word
    keys = [(8,), (8, 4, 4, 4), (8, 4, 5) * 20, (8, *long), (8, *long[::2], 5), (8, *([4] * 129))]
    trie, oracle, _ = catalogue(keys)
    prefixes = [(), (8,), (8, 4), (8, 4, 4), (8, 10), (8, *long[:3])]
    expected = [n for prefix in prefixes for n in expected_weights(oracle, question, prefix, 0)]
    assert weights(trie, [question], [0] * len(prefixes), prefixes, from_field=0) == expected


def test_questions_of_different_lengths_share_a_batch():
    trie, oracle, _ = catalogue([(4, 5), (4, 6, 5), (5,)])
    compare(trie, oracle, [[4, 5, 6] * 50, [], [6, 5], [5]])


def test_the_predicate_that_stands_in_the_question_is_seen_through_its_first_token():
    subject, asked, other = (20, 21), (30, 31, 32), (40, 31)
    trie, _, _ = fielded([(subject, asked, ()), (subject, other, ())])
    question = [1, *subject, 9, *asked, 2]
    assert weights(trie, [question], [0], [(*subject, 3)]) == [4, 2]


def test_deleted_entries_do_not_count():
    trie, oracle = segmented(catalogue, [[(4, 5, 6), (4, 7), (4, 7, 6)], [(5, 6)]], {0})
    compare(trie, oracle, [[5, 6, 4, 5, 6]])


def test_a_limit_reads_the_first_entries_below_each_child():
    trie, _, _ = catalogue([(4, 5), (4, 6), (4, 6, 7), (5,)])
    question = [[4, 6, 7]]
    assert weights(trie, question, [0], [()], from_field=0) == [4, 1]
    assert weights(trie, question, [0], [()], from_field=0, limit=1) == [2, 1]
    assert weights(trie, question, [0], [()], from_field=0, limit=0) == [1, 1]


def test_no_question_and_no_path():
    assert question_positions([]).ptr.tolist() == [0]
    trie, _, _ = catalogue([(4,), (5,)])
    assert weights(trie, [[4]], [], []) == []
