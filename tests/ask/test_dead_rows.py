"""The nodes below which everything is deleted, against a look at every node of the tree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask.dead_rows import Dead, Marked, first_marked, is_dead
from tianwen.ask.level_order import row_range
from tianwen.ask.segment import Segment
from tianwen.ask.segment_table import as_fact_tree
from tianwen.ask.snapshot import NONE, Part

from .agreement import catalogue, catalogues, fact_tables, fielded
from .few_facts import FACTS, TOKENIZER


def nodes_and_rows(tree):
    """(parent, first key row, the row behind the last one) of every node but the root."""
    found = {}
    for node in range(len(tree.token)):
        for child in range(int(tree.first_child[node]), int(tree.first_child[node + 1])):
            low, high = row_range(tree, child)
            if len(tree.subject_ptr):
                low, high = int(tree.subject_ptr[low]), int(tree.subject_ptr[high])
            found[child] = node, low, high
    return found


def is_right(dead, tree, rows):
    nodes = nodes_and_rows(tree)
    gone = {node for node, (_, low, high) in nodes.items() if set(range(low, high)) <= set(rows)}
    topmost = {node for node in gone if nodes[node][0] not in gone}
    assert topmost <= set(dead.node.number.tolist()) <= gone
    assert dead.node.number.tolist() == sorted(set(dead.node.number.tolist()))
    assert dead.row.number.tolist() == sorted(rows)
    for node, (parent, _, _) in nodes.items():
        if parent not in gone:
            assert is_dead(dead, node, 0) == (node in gone)


@pytest.mark.parametrize(("build", "keys"), [(catalogue, catalogues), (fielded, fact_tables)])
@settings(max_examples=30)
@given(data=st.data())
def test_all_nodes_without_a_live_row_and_nothing_else(build, keys, data):
    trie = build(data.draw(keys))[0]
    tree, rows = as_fact_tree(trie.tree), range(len(trie))
    dead, gone = None, set()
    for _ in range(3):  # more and more is deleted
        low, high = sorted(data.draw(st.tuples(*[st.integers(0, len(trie))] * 2)))
        gone |= set(rows[low:high]) | data.draw(st.sets(st.sampled_from(rows)) if len(trie) else st.just(set()))
        dead = Dead.of(tree, np.array(sorted(gone), np.int64), dead)
        is_right(dead, tree, gone)


def test_a_tree_deeper_than_the_first_path():
    trie, _, row = catalogue([(1,) * 90, (1,) * 89 + (2,), (1,) * 70, (2,)])
    tree = as_fact_tree(trie.tree)
    for gone in ([row[0]], [row[0], row[1]], row[:3], row):
        is_right(Dead.of(tree, np.sort(gone)), tree, set(map(int, gone)))


@pytest.mark.parametrize("most", [1, 50, 5_000, 2**20, 2**33])
def test_marked_numbers_are_found(most):
    rng = np.random.default_rng(0)
    for count in (0, 1, 40):
        number = np.unique(rng.integers(0, most, count))
        marked = Marked.of(number)
        assert len(marked.block_ptr) <= 2**13
        for least in [0, 1, most - 1, most, 2 * most, *rng.integers(0, most, 20).tolist(), *number.tolist()]:
            assert first_marked(marked, least) == np.searchsorted(number, least)


def test_a_part_with_more_gone_knows_what_it_found_before():
    whole = Part(Segment.of(FACTS, TOKENIZER)[0])
    known = whole.without(np.array([0, 1]))
    assert len(known.dead.row.number)
    more = known.without(np.array([3, 5, 6]))
    assert more.dead_before is known.dead
    assert known.without(NONE).dead is known.dead
    again = whole.without(more.gone)
    assert more.dead.row.number.tolist() == again.dead.row.number.tolist() == more.dead_keys.tolist()
    assert set(more.dead.node.number) == set(again.dead.node.number) | set(known.dead.node.number)
