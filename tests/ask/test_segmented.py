"""What the union of segments promises beyond the shared interface (which test_trie.py compares with the oracle)."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask.segmented import SegmentedTrie
from tianwen.ask.trie import CatalogueTrie
from tianwen.errors import InputError

from .agreement import END, agrees, catalogue, catalogues, fact_tables, fielded, pieces, rows_agree, walk
from .oracle import Oracle

A, B, C = (4, 5), (4, 6), (4, 5, 7)


def test_a_token_is_legal_only_while_a_live_key_lies_below_it():
    trie, _, row = catalogue([A, B, C])
    union = SegmentedTrie.without([trie], [np.sort(row[[0, 1]])])
    state = walk(union, [(), (4,), (4, 5), (4, 6)])
    row_ptr, token, _ = union.allowed(state)
    assert pieces(token, row_ptr) == [[4], [5], [7], []]
    assert (state[3] == -1).all()
    assert not union.is_terminal(union.advance(state[2:3], np.array([END]))).any()


def test_a_deleted_key_that_another_segment_adds_again_is_there():
    base, _, row = catalogue([A, B])
    delta, _, _ = catalogue([A])
    union = SegmentedTrie([base, delta], live=[np.array([r != row[0] for r in range(2)]), None])
    agrees(union, Oracle([(*A, END), (*B, END)], END))


def test_a_key_in_several_segments_is_listed_once_and_says_its_rows_in_each():
    tries = [catalogue(keys)[0] for keys in ([A, B], [C, B], [B])]
    union = SegmentedTrie(tries)
    found = union.completions(union.root(1), limit=10)
    assert pieces(found.tokens, found.token_ptr) == [[*A, END], [*C, END], [*B, END]]
    rows = union.rows_by_segment(found.terminal)
    assert [(low.tolist(), high.tolist()) for low, high in rows] == [
        ([0, 0, 1], [1, 0, 2]),
        ([0, 0, 1], [0, 1, 2]),
        ([0, 0, 0], [0, 0, 1]),
    ]


def test_a_limit_cuts_the_union_not_its_parts():
    union = SegmentedTrie([catalogue([A, B])[0], catalogue([C])[0]])
    found = union.completions(union.root(1), limit=2)
    assert pieces(found.tokens, found.token_ptr) == [[*A, END], [*C, END]]
    assert found.cut.tolist() == [True]
    assert union.completions(union.root(1), limit=3).cut.tolist() == [False]


def test_deleted_entries_do_not_use_up_the_limit():
    trie, _, _ = catalogue([(k,) for k in range(4, 20)])
    union = SegmentedTrie.without([trie], [np.arange(10)])
    found = union.completions(union.root(1), limit=2)
    assert found.tokens.tolist() == [14, END, 15, END]
    assert found.cut.tolist() == [True]


def test_subjects_without_a_live_fact_are_gone():
    trie, _, row = fielded([((4,), (5,), ()), ((4,), (6,), ()), ((4, 4), (5,), ())])
    union = SegmentedTrie.without([trie], [np.sort(row[:2])])
    agrees(union, Oracle([(4, 4, END, 5, END, END)], END))


def test_the_root_that_was_asked_before_gives_the_same_answer_for_any_number_of_rows():
    trie, _, row = catalogue([A, (5,), (6,)])
    union = SegmentedTrie.without([trie], [row[1:2]])
    for count in (1, 3, 0, 2):
        row_ptr, token, after = union.allowed(union.root(count))
        assert pieces(token, row_ptr) == [[4, 6]] * count
        assert (union.advance(union.root(len(token)), token) == after).all()


def test_one_segment_keeps_its_contiguous_rows_and_several_say_where_to_ask():
    trie, oracle, _ = catalogue([A, B, C])
    rows_agree(SegmentedTrie([trie]), oracle)
    with pytest.raises(InputError, match="rows_by_segment"):
        SegmentedTrie([trie, trie]).rows(np.zeros((1, 2), np.int64))


def test_empty_segments_add_nothing():
    empty, full = catalogue([])[0], catalogue([A])[0]
    agrees(SegmentedTrie([empty, full, empty]), Oracle([(*A, END)], END))


def test_what_is_no_union_is_refused_with_a_sentence():
    trie, _, _ = catalogue([A])
    other, _ = CatalogueTrie.build(np.array([0, 1]), np.array([9]), end_id=4)
    with pytest.raises(InputError, match="at least one segment"):
        SegmentedTrie([])
    with pytest.raises(InputError, match=r"END tokens given are \[3, 4\]"):
        SegmentedTrie([trie, other])
    with pytest.raises(InputError, match="one mask"):
        SegmentedTrie([trie], live=[np.ones(2, bool)])
    with pytest.raises(InputError, match="one mask"):
        SegmentedTrie([trie], live=[])
    with pytest.raises(InputError, match="deleted rows"):
        SegmentedTrie.without([trie], [])


def union_of(build, parts, gone):
    """The union of some lists of keys without a range of rows of each, and its oracle."""
    built = [build(part) for part in parts]
    dead = [np.arange(len(trie))[low:high] for (trie, _, _), (low, high) in zip(built, gone, strict=True)]
    keys = [np.delete(np.arange(len(trie)), rows) for (trie, _, _), rows in zip(built, dead, strict=True)]
    live = [oracle.keys[row] for (_, oracle, _), rows in zip(built, keys, strict=True) for row in rows]
    return SegmentedTrie.without([trie for trie, _, _ in built], dead), Oracle(live, END)


bounds = st.tuples(st.integers(0, 12), st.integers(0, 12))


@settings(max_examples=30)
@pytest.mark.parametrize(("build", "keys"), [(catalogue, catalogues), (fielded, fact_tables)])
@given(data=st.data())
def test_whole_subtrees_deleted_from_segments_that_share_keys(build, keys, data):
    base = data.draw(keys)
    shared = st.lists(st.sampled_from(base), max_size=6) if base else st.just([])
    parts = [base, *data.draw(st.lists(st.one_of(keys, shared), max_size=3))]  # empty ones among them
    agrees(*union_of(build, parts, data.draw(st.tuples(*[bounds] * len(parts)))))


@pytest.mark.parametrize("high", [0, 2**16])
def test_wide_nodes_of_several_segments(high):
    """More children than there is room for at first, runs of one segment between those of another, END among them."""
    rng = np.random.default_rng(1)
    for chosen in ((150, 4, 20), (60, 60, 60), (1, 170, 0), (90,)):
        parts = [[(token * high + token,) for token in rng.choice(200, count, replace=False)] for count in chosen]
        parts = [[key for key in part if END not in key] + [()] * (len(part) > 50) for part in parts]
        for gone in ((0, 0), (20, 30)):
            union, oracle = union_of(catalogue, parts, [gone] * len(parts))
            agrees(union, oracle)
            below, expected = union_of(catalogue, [[(9, *key) for key in part] for part in parts], [gone] * len(parts))
            row_ptr, token, after = below.allowed(np.repeat(walk(below, [(9,)]), 90, axis=0))
            assert pieces(token, row_ptr) == [expected.allowed((9,))] * 90
            assert (after == below.walk(np.stack([np.full(len(token), 9), token], 1), np.full(len(token), 2))).all()


def test_a_subject_of_many_rows_that_differ_late():
    facts = [((4,), (5, 5, *map(int, np.base_repr(k, 2).zfill(11))), ()) for k in range(2000)]
    facts = [(s, tuple(token + 10 for token in p), m) for s, p, m in facts]
    parts = [facts[:1500], facts[1000:]]
    union, oracle = union_of(fielded, parts, [(0, 1024), (0, 24)])
    places = [(4, END), (4, END, 15), (4, END, 15, 15), (4, END, 15, 15, 10), (4, END, 15, 15, 11)] * 4
    row_ptr, token, _ = union.allowed(walk(union, places))
    assert pieces(token, row_ptr) == [oracle.allowed(place) for place in places]


def test_a_union_in_another_process_is_the_same():
    union, oracle = union_of(catalogue, [[A, B, C], [A, (9,)]], [(0, 1), (0, 0)])
    agrees(pickle.loads(pickle.dumps(union)), oracle)


def test_states_of_another_tree_are_refused():
    union = SegmentedTrie([catalogue([A])[0], catalogue([B])[0]])
    for call in (union.allowed, lambda state: union.advance(state, np.array([4]))):
        with pytest.raises(InputError, match=r"States of this union are \[n, 4\]"):
            call(np.ones((1, 2), np.int64))
