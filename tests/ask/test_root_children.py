"""The kept children of the root: the same as computed anew, shared, and safe to go on from."""

from __future__ import annotations

import numpy as np
import pytest

from tianwen.ask import root_children as module
from tianwen.ask.fielded import FieldedTrie
from tianwen.ask.ragged import ragged
from tianwen.ask.root_children import RootChildren
from tianwen.ask.trie import CatalogueTrie

from .few_facts import TOKENIZER

TRIES = {
    "catalogue": CatalogueTrie.build(*ragged([[5, 6], [5, 7], [8], [9, 5]]), end_id=3)[0],
    "fielded": FieldedTrie.build(["白蛇", "白马", "火星"], ["导演", "作者", "卫星"], ["", "", ""], TOKENIZER)[0],
}


@pytest.mark.parametrize("trie", TRIES.values(), ids=TRIES)
@pytest.mark.parametrize("rows", [0, 1, 3, 130])
def test_the_root_has_the_same_children_first_and_later(trie, rows):
    computed = trie._allowed(trie.root(rows))
    for _ in range(2):
        for given, expected in zip(trie.allowed(trie.root(rows)), computed, strict=True):
            np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("trie", TRIES.values(), ids=TRIES)
def test_shared_children_cannot_be_written_to_but_be_gone_on_from(trie):
    row_ptr, token, after = trie.allowed(trie.root(2))
    with pytest.raises(ValueError, match="read-only"):
        token[0] = 1
    kept, anew = trie.allowed(after), trie.allowed(after.copy())
    for given, expected in zip(kept, anew, strict=True):
        np.testing.assert_array_equal(given, expected)
    assert len(trie.completions(after, limit=9).terminal) == 2 * len(trie)
    np.testing.assert_array_equal(trie.rows(after), trie.rows(after.copy()))
    assert (trie.advance(after, np.full(len(after), -7)) == -1).all()
    assert row_ptr[-1] == len(token)


def test_a_few_sizes_are_kept_and_huge_ones_never(monkeypatch):
    calls = []

    def compute(state):
        calls.append(len(state))
        return np.arange(len(state) + 1), np.zeros(len(state), np.int32), np.zeros(len(state), np.int64)

    roots = RootChildren(compute)
    for rows in (1, 2, 3, 4, 5, 5, 4, 1):
        roots.of(np.zeros(rows, np.int64))
    assert calls == [1, 2, 3, 4, 5, 1]
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    roots.of(np.zeros(9, np.int64))
    roots.of(np.zeros(9, np.int64))
    assert calls[-2:] == [9, 9]
