"""What the tree of facts promises beyond the shared interface (which test_trie.py compares with the oracle)."""

from __future__ import annotations

import numpy as np
import polars
import pytest
from hypothesis import given, settings

from tianwen.ask import fielded as fielded_module
from tianwen.ask.fielded import FieldedTrie, distinct_strings
from tianwen.ask.ragged import ragged
from tianwen.errors import InputError

from .agreement import END, Characters, agrees, fact_tables, fielded, pieces, rows_agree, text, walk

SONG = [("青花瓷", "歌手", "歌曲"), ("青花瓷", "歌手", "歌曲集"), ("青花瓷", "歌手", ""), ("青花", "产地", "")]


def build(facts, tokenizer=None):
    columns = [[fact[field] for fact in facts] for field in range(3)]
    return FieldedTrie.build(columns[0], columns[1], columns[2], tokenizer or Characters())


def key(*fields):
    return tuple(token for field in fields for token in (*map(ord, field), END))


def test_senses_that_are_prefixes_of_each_other_and_no_sense_are_all_reachable():
    trie, row = build(SONG)
    state = walk(trie, [key(*fact) for fact in SONG])
    assert trie.is_terminal(state).all()
    low, high = trie.rows(state)
    assert low.tolist() == row.tolist()
    assert (high - low).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("few", "many"), [(0, 0), (0, 2**20), (2, 3), (4096, 2**20)])
@settings(deadline=None, max_examples=25)
@given(fact_tables)
def test_children_are_the_same_however_much_room_there_is_for_them(few, many, facts):
    trie = fielded(facts)[0]
    with pytest.MonkeyPatch.context() as patch:
        state = trie.root(1)
        while len(state):
            patch.setattr(fielded_module, "FEW", 2**12)
            patch.setattr(fielded_module, "MANY", 2**20)
            expected = trie._allowed(state)
            patch.setattr(fielded_module, "FEW", few)
            patch.setattr(fielded_module, "MANY", many)
            for given_, wanted in zip(trie._allowed(state), expected, strict=True):
                np.testing.assert_array_equal(given_, wanted)
            state = expected[2]


def test_fields_are_counted_as_their_ends_are_read():
    trie, _ = build(SONG)
    state, seen = trie.root(1), []
    for token in key("青花瓷", "歌手", "歌曲"):
        state = trie.advance(state, np.array([token]))
        seen.append(int(trie.field(state)[0]))
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert trie.field(trie.advance(state, np.array([END]))).tolist() == [-1]


def test_facts_of_one_key_share_a_row_and_texts_of_equal_tokens_share_a_name():
    class Lower(Characters):
        def ids_batch(self, texts):
            return super().ids_batch([text.lower() for text in texts])

    trie, row = build([("AB", "p", ""), ("ab", "P", ""), ("aB", "p", "x"), ("AB", "p", "")], Lower())
    assert len(trie) == 2
    assert row.tolist() == [0, 0, 1, 0]


def test_every_distinct_text_is_tokenised_once():
    asked = []

    class Counting(Characters):
        def ids_batch(self, texts):
            asked.append(list(texts))
            return super().ids_batch(texts)

    build([("a", "p", ""), ("a", "q", ""), ("b", "p", "")], Counting())
    assert asked == [["a", "b"], ["p", "q"], [""]]


@settings(max_examples=15)
@given(fact_tables)
def test_columns_of_strings_and_arrow_columns_build_the_same_tree(facts):
    columns = [[text(fact[field]) for fact in facts] for field in range(3)]
    ours, ours_row = FieldedTrie.build(columns[0], columns[1], columns[2], Characters())
    frame = polars.DataFrame(columns, schema={"s": polars.String, "p": polars.String, "m": polars.String})
    theirs, theirs_row = FieldedTrie.build(frame["s"], frame["p"], frame["m"], Characters())
    assert ours_row.tolist() == theirs_row.tolist()
    assert {n: a.tobytes() for n, a in ours.arrays().items()} == {n: a.tobytes() for n, a in theirs.arrays().items()}


def test_a_null_in_an_arrow_column_is_an_empty_text():
    kinds, code = distinct_strings(polars.Series(["a", None, "", "a"]))
    assert [kinds[k] for k in code] == ["a", "", "", "a"]


def test_lone_surrogates_are_texts_too():
    assert distinct_strings(["\ud800", "a", "\ud800"])[0] == ["\ud800", "a"]
    trie, row = build([("\ud800", "p", ""), ("a", "p", "")])
    assert row.tolist() == [1, 0]
    assert trie.is_terminal(walk(trie, [key("\ud800", "p", "")])).all()


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="2, 1, 2 long"):
        FieldedTrie.build(["a", "b"], ["p"], ["", ""], Characters())


def test_an_end_inside_a_field_is_refused():
    class Careless(Characters):
        def ids_batch(self, texts):
            return ragged([[4, END] for _ in texts])

    with pytest.raises(InputError, match="END token"):
        build([("a", "p", "")], Careless())


@pytest.mark.parametrize("field", [0, 1, 2])
def test_many_names_in_one_field_need_several_bytes_a_row(field):
    """700 names: pairs of two bytes, runs that doubling and halving must cut right."""
    facts = [tuple((4 + k // 50, k) if f == field else (5,) for f in range(3)) for k in range(4, 704)]
    trie, oracle, _ = fielded(facts)
    prefixes = [(5, END) * field, *((5, END) * field + (token,) for token in (4, 5, 10, 18, 19))]
    state = walk(trie, prefixes)
    row_ptr, token, _ = trie.allowed(state)
    assert pieces(token, row_ptr) == [oracle.allowed(prefix) for prefix in prefixes]
    assert trie.completions(state, limit=10**6).cut.sum() == 0
    assert np.diff(trie.completions(state, limit=10**6).owner_ptr).tolist() == [len(oracle.below(p)) for p in prefixes]


def test_pairs_wider_than_an_integer_allows_beside_the_subject_are_sorted_another_way(monkeypatch):
    facts = [((4, 5), (4,), (6,)), ((4,), (5,), ()), ((4, 5), (4,), ()), ((4,), (4,), (6,)), ((4,), (5,), ())]
    trie, oracle, row = fielded(facts)
    monkeypatch.setattr("tianwen.ask.fielded.SORTABLE_BITS", 0)
    wide, _, wide_row = fielded(facts)
    assert wide_row.tolist() == row.tolist()
    assert wide.arrays()["pair"].tobytes() == trie.arrays()["pair"].tobytes()
    agrees(wide, oracle)
    rows_agree(wide, oracle)
