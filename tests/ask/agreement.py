"""Build a tree and its oracle from the same keys, and compare every method of the interface between them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from tianwen.ask.fielded import FieldedTrie
from tianwen.ask.ragged import ragged
from tianwen.ask.segmented import SegmentedTrie
from tianwen.ask.trie import CatalogueTrie

from .oracle import Oracle

END = 3
tokens = st.sampled_from([0, 1, 2, 4, 5, 300, 2**16 + 7, 2**18 - 1])  # on both sides of END, one and two planes
sequences = st.lists(tokens, max_size=4).map(tuple)
catalogues = st.lists(sequences, max_size=12)
fact_tables = st.lists(st.tuples(sequences, sequences, sequences), max_size=12)


class Characters:
    """The smallest tokenizer: a character is its code point."""

    sep_id = END

    def ids_batch(self, texts):
        return ragged([[ord(character) for character in text] for text in texts])


def text(sequence):
    return "".join(map(chr, sequence))


def catalogue(keys):
    """(tree, oracle, key row of each input)."""
    trie, row = CatalogueTrie.build(*ragged(keys), end_id=END)
    return trie, Oracle([(*key, END) for key in keys], END), row


def fielded(facts):
    """(tree, oracle, key row of each input)."""
    columns = [[text(fact[field]) for fact in facts] for field in range(3)]
    trie, row = FieldedTrie.build(columns[0], columns[1], columns[2], Characters())
    return trie, Oracle([(*s, END, *p, END, *m, END) for s, p, m in facts], END), row


def segmented(build, parts, dead):
    """The union of the parts, every fifth row deleted where its remainder is in `dead`; (tree, oracle)."""
    built = [build(part)[:2] for part in parts]
    live = [
        np.array([(row + k) % 5 not in dead for row in range(len(trie))], bool) for k, (trie, _) in enumerate(built)
    ]
    keys = [
        key
        for (_, oracle), mask in zip(built, live, strict=True)
        for key, alive in zip(oracle.keys, mask, strict=True)
        if alive
    ]
    return SegmentedTrie([trie for trie, _ in built], live=live), Oracle(keys, END)


def walk(trie, prefixes):
    ids = np.full((len(prefixes), max(map(len, prefixes), default=0)), 9, np.int32)
    for row, prefix in enumerate(prefixes):
        ids[row, : len(prefix)] = prefix
    return trie.walk(ids, np.array([len(prefix) for prefix in prefixes], np.int64))


def pieces(flat, row_ptr):
    return [flat[a:b].tolist() for a, b in pairwise(row_ptr)]


def places(oracle):
    """Every prefix of the catalogue, its neighbours outside, and steps behind complete keys."""
    known = oracle.prefixes()
    outside = {(*prefix, token) for prefix in known for token in (0, END, 300, 2**18)} - set(known)
    return known + sorted(outside)[:60]


def agrees(trie, oracle):
    """Compare every method but `rows` at all these places at once."""
    prefixes = places(oracle)
    state = walk(trie, prefixes)
    dead = (state.reshape(len(state), -1) == -1).all(axis=1)
    assert dead.tolist() == [prefix != () and not oracle.below(prefix) for prefix in prefixes]
    assert trie.is_terminal(state).tolist() == [prefix in oracle.keys for prefix in prefixes]
    assert trie.field(state).tolist() == [oracle.field(prefix) for prefix in prefixes]
    row_ptr, token, after = trie.allowed(state)
    assert pieces(token, row_ptr) == [oracle.allowed(prefix) for prefix in prefixes]
    owner = np.repeat(np.arange(len(prefixes)), np.diff(row_ptr))
    assert (after == walk(trie, [(*prefixes[o], t) for o, t in zip(owner, token.tolist(), strict=True)])).all()
    assert (after == trie.advance(state[owner], token)).all()
    assert (trie.advance(state[dead], np.full(dead.sum(), 4)) == -1).all()
    for limit in (0, 1, 3, 1000):
        completions_agree(trie, oracle, prefixes, state, limit)


def completions_agree(trie, oracle, prefixes, state, limit):
    found = trie.completions(state, limit=limit)
    expected = [oracle.completions(prefix, limit) for prefix in prefixes]
    listed = pieces(found.tokens, found.token_ptr)
    assert [listed[a:b] for a, b in pairwise(found.owner_ptr)] == [
        list(map(list, suffixes)) for suffixes, _ in expected
    ]
    assert found.cut.tolist() == [cut for _, cut in expected]
    whole = [prefix + suffix for prefix, (suffixes, _) in zip(prefixes, expected, strict=True) for suffix in suffixes]
    assert (found.terminal == walk(trie, whole)).all()


def rows_agree(trie, oracle):
    prefixes = places(oracle)
    low, high = trie.rows(walk(trie, prefixes))
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == [oracle.rows(prefix) for prefix in prefixes]
