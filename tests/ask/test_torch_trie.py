"""The tree as tensors against the tree itself: every method, both widths of numbers, compiled and on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask import torch_facts, torch_forest
from tianwen.ask.segmented import SegmentedTrie
from tianwen.ask.torch_trie import TorchTrie
from tianwen.errors import InputError

from .agreement import END, catalogue, catalogues, fact_tables, fielded, places, walk

BUILDS = {"catalogue": (catalogue, catalogues), "facts": (fielded, fact_tables)}
FEW = {
    "catalogue": [(4, 5), (4, 5, 6), (7,), ()],
    "facts": [((4, 5), (4,), ()), ((4, 5), (4, 6), (5,)), ((4,), (4,), (6,))],
}
MANY = {
    "many brothers": (catalogue, [(k, k % 3) for k in range(4, 90)]),
    "deep": (catalogue, [(1,) * 90, (1,) * 89 + (2,), (1,) * 70]),
    "a subject of many rows": (fielded, [((5,), (4 + k // 50, k % 50 + 4), (4 + k % 7,)) for k in range(200)]),
    "many rows and no choice": (fielded, [((5,), (4,), (9, 9, 4 + k // 2, 4 + k % 2)) for k in range(60)]),
    "many subjects": (fielded, [((4 + k // 50, k), (5,), ()) for k in range(4, 204)]),
    "many senses": (fielded, [((5,), (4 + k % 2,), (4 + k // 50, k)) for k in range(4, 204)]),
    "predicates that other subjects have": (fielded, [((4 + k % 40,), (k,), (k % 3,)) for k in range(4, 160)]),
}


@pytest.fixture(params=["int32", "int64"])
def numbers(request, monkeypatch):
    """Both types that a tree's numbers may need."""
    if request.param == "int64":
        monkeypatch.setattr(torch_forest, "MOST_NARROW", 0)
    return getattr(torch, request.param)


def same(ours, theirs):
    return ours.tolist() == theirs.tolist()


def tree_agrees(trie, oracle, device="cpu"):
    """Compare every method with the tree's own at every place of the catalogue and beside it."""
    ours = TorchTrie(trie, device)
    prefixes = places(oracle)
    ids = np.full((len(prefixes), max(map(len, prefixes))), 9)
    for row, prefix in enumerate(prefixes):
        ids[row, : len(prefix)] = prefix
    lengths = np.array([len(prefix) for prefix in prefixes])
    theirs = trie.walk(ids, lengths)
    state = ours.walk(torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device))
    assert state.dtype == torch.int64
    assert same(state, theirs)
    assert same(ours.root(3), trie.root(3))
    assert same(ours.is_terminal(state), trie.is_terminal(theirs))
    assert same(ours.field(state), trie.field(theirs))
    for low_or_high, expected in zip(ours.rows(state), trie.rows(theirs), strict=True):
        assert same(low_or_high, expected)
    row_ptr, token, after = trie.allowed(theirs)
    assert all(same(a, b) for a, b in zip(ours.allowed(state), (row_ptr, token, after), strict=True))
    owner = np.repeat(np.arange(len(prefixes)), np.diff(row_ptr))
    assert same(ours.advance(state[torch.from_numpy(owner).to(device)], torch.from_numpy(token).to(device)), after)
    for wrong in (-1, 0, 4, END, 2**18, 2**31 - 1, -(2**31)):
        steps = np.full(len(prefixes), wrong)
        assert same(ours.advance(state, torch.from_numpy(steps).to(device)), trie.advance(theirs, steps))
    masks_agree(ours, state, (row_ptr, token), device)


def masks_agree(ours, state, lists, device):
    """At some places only: rows of scores are wide where tokens are."""
    row_ptr, token = lists
    rows = range(0, len(state), len(state) // 12 + 1)
    scores = torch.randn(len(rows), max(ours._forest.greatest, 8) + 1, device=device)
    expected = torch.full_like(scores, -torch.inf)
    for i, row in enumerate(rows):
        legal = torch.from_numpy(token[row_ptr[row] : row_ptr[row + 1]]).long().to(device)
        expected[i, legal] = scores[i, legal]
    assert torch.equal(ours.mask(state[:: len(state) // 12 + 1], scores), expected)


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.usefixtures("numbers")
@settings(max_examples=20)
@given(data=st.data())
def test_every_method_agrees_with_the_tree(kind, data):
    build, keys = BUILDS[kind]
    trie, oracle, _ = build(data.draw(keys))
    tree_agrees(trie, oracle)


@pytest.mark.parametrize("name", MANY)
@pytest.mark.usefixtures("numbers")
def test_wide_and_deep_trees_agree(name):
    build, keys = MANY[name]
    trie, oracle, _ = build(keys)
    tree_agrees(trie, oracle)


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.usefixtures("numbers")
def test_numbers_are_as_narrow_as_they_may_be(kind, numbers):
    forest = TorchTrie(BUILDS[kind][0](FEW[kind])[0])._forest
    assert {forest.edge.dtype, forest.first_child.dtype, forest.leaves.low.dtype} == {numbers}


def test_tokens_of_32_bits_are_kept():
    trie, _, _ = catalogue([(2**32 - 1, 4), (2**31, 2**32 - 1), (2**32 - 1,)])
    ours = TorchTrie(trie)
    assert ours._forest.edge.dtype == torch.int64
    ids = torch.tensor([[2**32 - 1, 4, END], [2**31, 2**32 - 1, END], [2**32 - 1, END, 2**32 - 1], [2**31 - 1, 4, 4]])
    lengths = torch.tensor([3, 3, 3, 1])
    assert same(ours.walk(ids, lengths), trie.walk(ids.numpy(), lengths.numpy()))


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_tokens_of_any_type_are_read(kind, dtype):
    trie, _, _ = BUILDS[kind][0](FEW[kind])
    ours = TorchTrie(trie)
    state = ours.advance(ours.root(2), torch.tensor([4, 9]).to(dtype))
    assert same(state, trie.advance(trie.root(2), np.array([4, 9])))
    assert same(
        ours.advance(state, torch.tensor([5, 5]).to(dtype)), trie.walk(np.array([[4, 5], [9, 5]]), np.array([2, 2]))
    )


@pytest.mark.parametrize("kind", BUILDS)
def test_a_batch_of_no_rows_and_an_empty_tree(kind):
    for keys in ([], FEW[kind]):
        ours = TorchTrie(BUILDS[kind][0](keys)[0])
        state = ours.root(0)
        row_ptr, token, after = ours.allowed(state)
        assert row_ptr.tolist() == [0]
        assert len(token) == len(after) == len(ours.advance(state, torch.zeros(0, dtype=torch.int64))) == 0
        assert ours.mask(state, torch.zeros(0, 10)).shape == (0, 10)
        assert ours.walk(torch.zeros((0, 4), dtype=torch.int64), torch.zeros(0, dtype=torch.int64)).shape == state.shape
    empty = TorchTrie(BUILDS[kind][0]([])[0])
    assert torch.isneginf(empty.mask(empty.root(2), torch.zeros(2, 10))).all()
    assert (empty.advance(empty.root(9), torch.arange(9)) == -1).all()


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_keep_their_type_and_a_foreign_nan_is_covered(kind, dtype):
    ours = TorchTrie(BUILDS[kind][0](FEW[kind])[0])
    scores = torch.randn(1, 10, dtype=dtype)
    scores[0, 9] = torch.nan
    masked = ours.mask(ours.root(1), scores)
    assert masked.dtype == dtype
    assert torch.isnan(scores[0, 9])
    legal = ours.allowed(ours.root(1))[1]
    assert torch.equal(masked[0, legal], scores[0, legal])
    assert int(torch.isneginf(masked).sum()) == 10 - len(legal)


@pytest.mark.parametrize("kind", BUILDS)
def test_one_graph_holds_a_step_and_a_walk(kind):
    """fullgraph: whatever waited for the host would break the graph."""
    trie, oracle, _ = BUILDS[kind][0](FEW[kind])
    ours = TorchTrie(trie)

    def step(state, token, scores):
        masked = ours.mask(state, scores)
        after = ours.advance(state, token)
        return masked, after, ours.is_terminal(after), ours.field(after), *ours.rows(after)

    compiled_step = torch.compile(step, fullgraph=True, backend="eager")
    compiled_walk = torch.compile(ours.walk, fullgraph=True, backend="eager", dynamic=kind == "catalogue")
    prefixes = places(oracle)
    state = torch.from_numpy(walk(trie, prefixes))
    for token in (4, END, 2**30):
        given = state, torch.full((len(state),), token), torch.randn(len(state), 10)
        for ours_or_theirs, expected in zip(compiled_step(*given), step(*given), strict=True):
            assert torch.equal(ours_or_theirs, expected)
    ids = torch.full((len(prefixes), 2), 9)
    for row, prefix in enumerate(prefixes):
        ids[row, : len(prefix)] = torch.tensor(prefix[:2], dtype=torch.int64)
    lengths = torch.tensor([min(len(prefix), 2) for prefix in prefixes])
    assert torch.equal(compiled_walk(ids, lengths), torch.from_numpy(trie.walk(ids.numpy(), lengths.numpy())))


def test_a_search_that_stays_on_the_device_writes_only_entries():
    """Random scores, beams reordered by indexing the states; the best of each step is always legal."""
    trie, oracle, _ = fielded(FEW["facts"])
    ours = TorchTrie(trie)
    state, written = ours.root(6), []
    for _ in range(12):
        done = ours.is_terminal(state)
        token = ours.mask(state, torch.randn(6, 10)).argmax(dim=1)
        state = torch.where(done[:, None], state, ours.advance(state, token))
        written.append(torch.where(done, -1, token))
        order = torch.randint(0, 6, (6,))
        state, written = state[order], [tokens[order] for tokens in written]
    assert ours.is_terminal(state).all()
    keys = [tuple(token for token in row if token >= 0) for row in torch.stack(written, dim=1).tolist()]
    assert set(keys) <= set(oracle.keys)
    low, high = ours.rows(state)
    assert [oracle.keys.index(key) for key in keys] == low.tolist()
    assert (high - low == 1).all()


def test_what_does_not_fit_is_refused_with_a_sentence(monkeypatch):
    trie, _, _ = catalogue([(4, 12)])
    ours = TorchTrie(trie)
    with pytest.raises(InputError, match="2 states need as many tokens, not 1"):
        ours.advance(ours.root(2), torch.tensor([4]))
    with pytest.raises(InputError, match="2 rows of tokens need as many lengths, not 1"):
        ours.walk(torch.tensor([[4], [4]]), torch.tensor([1]))
    with pytest.raises(InputError, match="2 states need as many rows of scores, not 3"):
        ours.mask(ours.root(2), torch.zeros(3, 20))
    with pytest.raises(InputError, match="has token 12, but the scores end at 11"):
        ours.mask(ours.root(2), torch.zeros(2, 12))
    with pytest.raises(InputError, match="not a SegmentedTrie"):
        TorchTrie(SegmentedTrie([trie, trie]))  # pyright: ignore[reportArgumentType]
    facts, _, _ = fielded(FEW["facts"])
    monkeypatch.setattr(torch_facts, "MOST_WIDE", 1)
    with pytest.raises(InputError, match="more than 62 bits"):
        TorchTrie(facts)
    monkeypatch.setattr(torch_forest, "MOST_WIDE", 1)
    with pytest.raises(InputError, match="more than 63 bits"):
        TorchTrie(trie)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("kind", [*BUILDS, *MANY])
def test_a_gpu_gives_the_same_and_a_step_waits_for_nothing(kind):
    build, keys = MANY[kind] if kind in MANY else (BUILDS[kind][0], FEW[kind])
    trie, oracle, _ = build(keys)
    tree_agrees(trie, oracle, "cuda")
    ours = TorchTrie(trie, "cuda")
    token, scores = torch.full((4,), 5, device="cuda"), torch.zeros(4, 300, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        state = ours.advance(ours.root(4), token)
        ours.mask(state, scores)
        ours.rows(state)
    finally:
        torch.cuda.set_sync_debug_mode("default")
