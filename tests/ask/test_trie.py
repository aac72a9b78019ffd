"""Every implementation of the batched interface against the oracle, then what the general tree promises beyond it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask.ragged import ragged
from tianwen.ask.trie import CatalogueTrie
from tianwen.errors import InputError, KnowledgeBaseDamaged

from .agreement import (
    END,
    agrees,
    catalogue,
    catalogues,
    fact_tables,
    fielded,
    rows_agree,
    segmented,
    walk,
)

POST = ["明月几时有", "明天会更好", "明天下雨", "明天下午开会", "明天下午放假", "明年见", "今夕是何年", "今天去哪里玩"]
"""The toy catalogue of the post."""

NASTY = {
    "no key": [],
    "one empty key": [()],
    "one token": [(4,)],
    "prefixes of each other": [(4,), (4, 4), (4, 4, 4), ()],
    "duplicates, tokens on both sides of END": [(2, 4), (2, 4), (4,), (2,), (2, 4)],
    "deeper than the enumeration's first stack": [(1,) * 90, (1,) * 89 + (2,), (1,) * 70],
    "tokens of two planes": [(4, 2**18 - 1), (4, 2**16 + 4), (2**16 + 3,)],
    "many brothers": [(k, k % 3) for k in range(4, 90)],
}


@settings(max_examples=30)
@pytest.mark.parametrize("kind", ["catalogue", "fielded", "segmented catalogues", "segmented facts"])
@given(data=st.data())
def test_every_implementation_agrees_with_the_oracle(kind, data):
    build, keys = (catalogue, catalogues) if "catalogue" in kind else (fielded, fact_tables)
    if kind.startswith("segmented"):
        parts = data.draw(st.lists(keys, min_size=1, max_size=3))
        agrees(*segmented(build, parts, data.draw(st.sets(st.integers(0, 4)))))
        return
    inputs = data.draw(keys)
    trie, oracle, row = build(inputs)
    agrees(trie, oracle)
    rows_agree(trie, oracle)
    closed = [build([key])[1].keys[0] for key in inputs]
    assert row.tolist() == [oracle.keys.index(key) for key in closed]
    assert len(trie) == len(oracle.keys)


@pytest.mark.parametrize("name", NASTY)
def test_nasty_catalogues_agree_with_the_oracle(name):
    trie, oracle, _ = catalogue(NASTY[name])
    agrees(trie, oracle)
    rows_agree(trie, oracle)
    for position in range(3):  # the same keys as subjects, as predicates and as senses
        facts = [tuple(key if field == position else (5,) for field in range(3)) for key in NASTY[name]]
        trie, oracle, _ = fielded(facts)
        agrees(trie, oracle)
        rows_agree(trie, oracle)


def test_the_toy_catalogue_of_the_post():
    trie, _, _ = catalogue([tuple(map(ord, key)) for key in POST])

    def following(prefix):
        return {chr(token) for token in trie.allowed(walk(trie, [tuple(map(ord, prefix))]))[1]}

    assert following("") == {"明", "今"}
    assert following("明") == {"月", "天", "年"}
    assert following("明天") == {"会", "下"}


def test_a_key_that_is_a_prefix_of_another_can_be_ended_or_continued():
    trie, _, _ = catalogue([(4, 5), (4, 5, 6)])
    state = walk(trie, [(4, 5)])
    _, token, after = trie.allowed(state)
    assert token.tolist() == [END, 6]
    assert trie.is_terminal(after).tolist() == [True, False]


@pytest.mark.parametrize("build", [catalogue, fielded])
def test_a_batch_of_no_rows(build):
    trie, _, _ = build([])
    state = trie.root(0)
    row_ptr, token, after = trie.allowed(state)
    found = trie.completions(state, limit=5)
    assert row_ptr.tolist() == found.owner_ptr.tolist() == [0]
    assert len(token) == len(after) == len(trie.advance(state, np.empty(0, np.int32))) == len(found.terminal) == 0
    assert len(trie.walk(np.empty((0, 4), np.int32), np.empty(0, np.int64))) == len(trie.is_terminal(state)) == 0


@pytest.mark.parametrize("build", [catalogue, fielded])
def test_tokens_that_no_vocabulary_has_are_not_legal(build):
    trie, _, _ = build([(4,)] if build is catalogue else [((4,), (4,), (4,))])
    for token in (-1, -(2**31), 2**31 - 1, 4 + 2**16):
        assert (trie.advance(trie.root(1), np.array([token])) == -1).all()


@pytest.mark.parametrize(
    ("build", "keys"), [(catalogue, NASTY["many brothers"]), (fielded, [((4,), (5,), ())]), (fielded, [])]
)
def test_a_saved_tree_opens_memory_mapped_and_agrees(build, keys, tmp_path):
    trie, oracle, _ = build(keys)
    names = trie.save(tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    opened = type(trie).open(tmp_path)
    assert not any(
        array.flags.owndata
        for name, array in opened.arrays().items()
        if name not in ("end_id", "layout", "subject_tree_end_id")
    )
    agrees(opened, oracle)
    rows_agree(opened, oracle)


def test_a_missing_or_truncated_file_is_refused(tmp_path):
    trie, _, _ = catalogue(NASTY["many brothers"])
    trie.save(tmp_path)
    content = (tmp_path / "token.npy").read_bytes()
    for damaged in (content[:100], content[:-10], b""):
        (tmp_path / "token.npy").write_bytes(damaged)
        with pytest.raises(KnowledgeBaseDamaged, match=r"token\.npy"):
            CatalogueTrie.open(tmp_path)
    (tmp_path / "token.npy").unlink()
    with pytest.raises(KnowledgeBaseDamaged, match=r"token\.npy"):
        CatalogueTrie.open(tmp_path)


@pytest.mark.parametrize(
    ("row_ptr", "tokens", "message"),
    [
        ([0, 2], [4, END], "Sequence 0 contains the END token"),
        ([0, 1, 3], [4, 5, END], "Sequence 1 contains the END token"),
        ([0, 1], [-1], "at least 0"),
        ([0, 1], [2**32], "below 2\\^32"),
        ([0, 2], [4], "row_ptr must rise"),
        ([0, 2, 1, 3], [4, 4, 4], "row_ptr must rise"),
        ([], [], "row_ptr must rise"),
    ],
)
def test_what_is_no_catalogue_is_refused_with_a_sentence(row_ptr, tokens, message):
    with pytest.raises(InputError, match=message):
        CatalogueTrie.build(np.array(row_ptr), np.array(tokens, np.int64), end_id=END)


def test_a_negative_limit_is_refused():
    trie, _, _ = catalogue([(4,)])
    with pytest.raises(InputError, match="limit must be at least 0"):
        trie.completions(trie.root(1), limit=-1)


def test_asking_changes_neither_the_tree_nor_the_state():
    trie, _, _ = catalogue(NASTY["many brothers"])
    state = trie.root(2)
    trie.advance(state, np.array([4, 5]))
    assert state.tolist() == [0, 0]
    with pytest.raises(ValueError, match="read-only"):
        trie.tree.token[0] = 1


def test_tokens_that_do_not_fit_the_states_are_refused():
    trie, _, _ = catalogue([(4, 4)])
    with pytest.raises(InputError, match="as many rows"):
        trie.advance(trie.root(2), np.array([4]))
    with pytest.raises(InputError, match="lengths up to 3"):
        trie.walk(np.full((1, 2), 4), np.array([3]))


@pytest.mark.parametrize("build", [catalogue, fielded])
def test_a_pickled_tree_is_read_only_again(build):
    trie, oracle, _ = build([(4,), (5, 4)] if build is catalogue else [((4,), (4,), ()), ((5,), (4,), ())])
    copy = pickle.loads(pickle.dumps(trie))
    assert not any(array.flags.writeable for array in copy.tree if isinstance(array, np.ndarray))
    agrees(copy, oracle)


@pytest.mark.parametrize("build", [catalogue, fielded])
def test_states_may_be_views(build):
    trie, _, _ = build([(4,), (5,)] if build is catalogue else [((4,), (4,), ()), ((5,), (4,), ())])
    state = walk(trie, [(), (4,), (9,), (5,)])
    for view, rows in ((state[::2], [0, 2]), (state[::-1], [3, 2, 1, 0])):
        copy = state[rows]
        assert all((a == b).all() for a, b in zip(trie.allowed(view), trie.allowed(copy), strict=True))
        assert (trie.advance(view, np.full(len(rows), END)) == trie.advance(copy, np.full(len(rows), END))).all()
        assert trie.rows(view)[1].tolist() == trie.rows(copy)[1].tolist()
        assert trie.completions(view, limit=9).tokens.tolist() == trie.completions(copy, limit=9).tokens.tolist()


def test_a_ragged_list_of_no_sequences():
    row_ptr, tokens = ragged([])
    assert row_ptr.tolist() == [0]
    assert len(tokens) == 0
