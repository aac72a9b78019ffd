"""The step in one kernel against the step by lists: whole searches with rows reordered, ended, lost and left behind."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.ask.held_scores import NEARBY
from tianwen.ask.huggingface import CatalogueLogitsProcessor
from tianwen.ask.score_buffers import NOWHERE
from tianwen.ask.segmented import SegmentedTrie
from tianwen.errors import InputError

from .agreement import catalogue, catalogues, fact_tables, fielded, segmented, sequences

PAD, EOS, VOCABULARY = 6, 7, 2**18
TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def both_ways(trie, **options):
    """The processor, and one that does without the kernel."""
    settings = {"prompt_len": 1, "eos_token_id": [EOS, 8], "pad_token_id": PAD} | options
    held, listed = CatalogueLogitsProcessor(trie, **settings), CatalogueLogitsProcessor(trie, **settings)
    assert held._held is not None
    listed._held = None
    return held, listed


def searched(trie, rng, *, steps, rows, kind):
    """Compare both ways along a random search; the rows of each step go on from any rows of the step before."""
    held, listed = both_ways(trie)
    ids = torch.ones(rows, 1, dtype=torch.int64)
    for _ in range(steps):
        scores = torch.from_numpy(rng.standard_normal((rows, VOCABULARY))).to(kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours, theirs = held(ids, scores), listed(ids, scores)
        assert torch.equal(ours, theirs)
        allowed = [np.flatnonzero(np.isfinite(row)) for row in ours.double().numpy()]
        chosen = [rng.choice(tokens) if rng.random() < 0.95 else 5 for tokens in allowed]
        longer = torch.cat([ids, torch.tensor(chosen)[:, None]], dim=1)
        ids = longer[torch.from_numpy(rng.integers(0, rows, rows))] if rng.random() < 0.5 else longer
        if rng.random() < 0.2:
            ids = torch.cat([ids, ids], dim=1)[:, : ids.shape[1]]  # rows that do not lie end to end, as in beam search
    assert held._held is not None
    assert not np.array_equal(held._held._last, NOWHERE)


@settings(deadline=None, max_examples=40)
@given(st.lists(sequences, min_size=1, max_size=12), st.integers(0, 2**32 - 1), st.sampled_from(TYPES))
def test_searches_of_a_catalogue(keys, seed, kind):
    searched(catalogue(keys)[0], np.random.default_rng(seed), steps=6, rows=3, kind=kind)


@settings(deadline=None, max_examples=40)
@given(fact_tables.filter(bool), st.integers(0, 2**32 - 1))
def test_searches_of_facts(facts, seed):
    searched(fielded(facts)[0], np.random.default_rng(seed), steps=9, rows=3, kind=torch.float32)


@settings(deadline=None, max_examples=15)
@pytest.mark.parametrize(("build", "keys"), [(catalogue, catalogues), (fielded, fact_tables)])
@given(data=st.data())
def test_searches_of_several_segments_with_deleted_rows(build, keys, data):
    parts = data.draw(st.lists(keys, min_size=1, max_size=3))
    trie, oracle = segmented(build, parts, data.draw(st.sets(st.integers(0, 4), max_size=4)))
    if oracle.keys:
        searched(trie, np.random.default_rng(data.draw(st.integers(0, 99))), steps=8, rows=3, kind=torch.float32)


def test_trees_of_two_kinds_are_left_to_the_lists():
    union = SegmentedTrie([catalogue([(4, 5)])[0], fielded([((4,), (5,), (9,))])[0]])
    plug = CatalogueLogitsProcessor(union, prompt_len=1, eos_token_id=EOS, pad_token_id=PAD)
    assert plug._held is None
    out = plug(torch.tensor([[1, 4]]), torch.randn(1, 20))
    assert torch.isfinite(out[0]).nonzero()[:, 0].tolist() == [3, 5]


def test_a_row_without_its_past_is_read_from_the_root():
    trie = catalogue([(4, 5), (4, 300), (9, 9, 9)])[0]
    held, listed = both_ways(trie)
    scores = torch.randn(2, VOCABULARY)
    for rows in ([[1, 4], [1, 9]], [[1, 9, 9], [1, 4, 5]], [[1, 4, 300], [1, 9, 9]], [[1, 9], [1, 9]]):
        assert torch.equal(held(torch.tensor(rows), scores), listed(torch.tensor(rows), scores))


def test_far_away_pasts_are_read_from_the_root():
    trie = catalogue([(4, 5), (4, 300), (9, 10)])[0]
    held, listed = both_ways(trie)
    count = 3 * NEARBY
    first = torch.tensor([[1, 4]] * (count - 1) + [[1, 9]])
    then = torch.tensor([[1, 9, 10]] + [[1, 4, 5]] * (count - 1))
    scores = torch.randn(count, 400)
    for ids in (first, then):
        assert torch.equal(held(ids, scores), listed(ids, scores))


@pytest.mark.parametrize("keys", [[(4, 8)], [(4, VOCABULARY)]])
def test_what_the_kernel_refuses_is_explained(keys):
    held, listed = both_ways(catalogue(keys)[0])
    for plug in (held, listed):
        with pytest.raises(InputError, match=r"ends the model's output|vocabulary ends at"):
            plug(torch.tensor([[1, 4]]), torch.randn(1, VOCABULARY))


def test_a_row_of_minus_infinity_is_left_to_the_lists():
    held, listed = both_ways(catalogue([(4, 5), (4, 300)])[0])
    scores = torch.full((1, 400), -torch.inf)
    ids = torch.tensor([[1, 4]])
    assert torch.equal(held(ids, scores), listed(ids, scores))
    scores = torch.randn(1, 400)
    assert torch.equal(held(ids, scores), listed(ids, scores))  # and nothing of it is left behind


def test_nan_where_nothing_is_allowed_is_gone():
    held, _ = both_ways(catalogue([(4, 5), (4, 300)])[0])
    scores = torch.full((2, 400), torch.nan)
    for ids in (torch.tensor([[1], [1]]), torch.tensor([[1, 4], [1, 4]])):
        out = held(ids, scores)
        assert set(torch.isnan(out).nonzero()[:, 1].tolist()) <= {4, 5, 300}
        assert torch.isneginf(out).sum() == out.numel() - torch.isnan(out).sum()


def test_the_root_of_a_small_vocabulary_is_written_in_whole_rows_of_any_type():
    trie = catalogue([(token,) for token in (1, 4, 5, 9, 10)])[0]
    for kind in TYPES:
        scores = torch.randn(3, 12).to(kind)
        scores[1, 2], scores[1, 4] = torch.nan, torch.nan
        held, _ = both_ways(trie)
        out = held(torch.ones(3, 1, dtype=torch.int64), scores)
        expected = torch.full_like(scores, -torch.inf)
        expected[:, [1, 4, 5, 9, 10]] = scores[:, [1, 4, 5, 9, 10]]
        torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("rows", [1, 3])
def test_as_many_rows_of_scores_as_of_tokens(rows):
    held, _ = both_ways(catalogue([(4, 5), (4, 300)])[0])
    with pytest.raises((InputError, IndexError)):
        held(torch.tensor([[1, 4], [1, 4]]), torch.randn(rows, 400))
