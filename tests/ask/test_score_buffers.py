"""Kept score tensors: only the named entries are not -inf, whatever happened to the tensors handed out before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tianwen.ask import score_buffers
from tianwen.ask.score_buffers import KEPT, MINUS_INFINITY, ScoreBuffers


def only(buffers, scores, places):
    """By flat places, as lists of tokens a row."""
    rows, columns = np.divmod(sorted(places), scores.shape[1])
    row_ptr = np.searchsorted(rows, np.arange(len(scores) + 1))
    return buffers.only(scores, row_ptr, columns.astype(np.int32), np.zeros(len(scores), bool))


def expected(scores, places):
    masked = torch.full_like(scores, -torch.inf).reshape(-1)
    masked[places] = scores.reshape(-1)[places]
    return masked.view_as(scores)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_memory_is_used_again_and_the_last_step_is_erased(mode, dtype):
    buffers, seen = ScoreBuffers(), set()
    with mode():
        for step in range(12):
            scores = torch.randn(3, 7).to(dtype)
            places = [step % 7, 7 + step % 5, 20]
            masked = only(buffers, scores, places)
            assert torch.equal(masked, expected(scores, places))
            assert masked.dtype == dtype
            seen.add(masked.data_ptr())
    assert len(seen) == 2  # the tensor of the step before is still held when the next is asked for


def test_what_somebody_holds_or_views_is_left_alone():
    buffers, scores = ScoreBuffers(), torch.randn(2, 10)
    held = [only(buffers, scores, [place, 12]) for place in range(10)]
    views = [only(buffers, scores, [place, 12]).view(-1)[place] for place in range(10)]
    for place in range(10):
        assert torch.equal(held[place], expected(scores, [place, 12]))
        assert views[place] == scores.view(-1)[place]
    assert len(buffers._kept) == KEPT


def test_a_tensor_that_was_written_to_is_wiped_before_it_serves_again():
    buffers, scores = ScoreBuffers(), torch.randn(2, 5)
    for spoil in (
        lambda t: t.fill_(0),
        lambda t: t[0].mul_(0),
        lambda t: t.view(-1).index_fill_(0, torch.tensor(3), 1),
    ):
        masked = only(buffers, scores, [1, 7])
        address = masked.data_ptr()
        spoil(masked)
        del masked
        again = only(buffers, scores, [4, 8])
        assert again.data_ptr() == address
        assert torch.equal(again, expected(scores, [4, 8]))
        del again


@pytest.mark.parametrize("columns", [40, 2])
def test_one_list_for_all_rows(columns):
    """Written as whole rows where it is long, and erased either way."""
    buffers, scores = ScoreBuffers(), torch.randn(3, 41)
    token = np.arange(columns, dtype=np.int32)
    shared = buffers.only(scores, np.array([0, columns]), token, np.zeros(1, bool))
    assert torch.equal(shared, expected(scores, [41 * row + column for row in range(3) for column in range(columns)]))
    del shared
    assert torch.equal(only(buffers, scores, [9, 50, 100]), expected(scores, [9, 50, 100]))


@pytest.mark.parametrize("spoil", [False, True])
def test_whole_rows_of_other_columns_leave_nothing_behind(spoil):
    buffers, rng = ScoreBuffers(), np.random.default_rng(0)
    for low, high in ((5, 20), (8, 12), (3, 9), (0, 40), (30, 40), (30, 40)):
        scores, token = torch.randn(3, 40), np.arange(low, high, dtype=np.int32)
        token = np.sort(rng.choice(token, 4, replace=False)).astype(np.int32)
        masked = buffers.only(scores, np.array([0, 4]), token, np.zeros(1, bool))
        assert torch.equal(masked, expected(scores, [40 * row + int(column) for row in range(3) for column in token]))
        if spoil:
            masked += 1
        del masked
    assert len(buffers._kept) == 1


@pytest.mark.parametrize("dtype", list(MINUS_INFINITY))
@pytest.mark.parametrize("shared", [False, True])
def test_kernels_and_torch_write_the_same(dtype, shared, monkeypatch):
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = torch.randn(4, 9).to(dtype)
        scores[torch.rand(4, 9) < 0.3] = -torch.inf
        counts = rng.integers(1, 5, 1 if shared else 4)
        token = np.concatenate([np.sort(rng.choice(9, count, replace=False)) for count in counts]).astype(np.int32)
        free = (counts == 1) & (rng.random(len(counts)) < 0.5)
        lists = np.concatenate([[0], np.cumsum(counts)]), token, free
        fast = ScoreBuffers().only(scores, *lists)
        slow = ScoreBuffers()._computed(scores, lists[:2], free, False)
        assert torch.equal(fast, slow)
        with monkeypatch.context() as patch:
            patch.setattr(score_buffers, "is_known", lambda scores: False)
            mixed = ScoreBuffers()
            for renormalize in (True, False):
                again = mixed.only(scores, *lists, renormalize=renormalize)
            assert torch.equal(again, slow)


def test_both_ways_take_turns_with_one_memory():
    buffers, scores = ScoreBuffers(), torch.randn(2, 5)
    lists = np.array([0, 1, 2]), np.array([3, 4], np.int32), np.zeros(2, bool)
    for renormalize in (True, False, True, False):
        masked = buffers.only(scores, *lists, renormalize=renormalize)
        places = expected(scores, [3, 9])
        assert torch.equal(masked, torch.where(places.isfinite(), 0.0, places) if renormalize else places)
        del masked
        assert torch.equal(only(buffers, scores, [0, 5]), expected(scores, [0, 5]))
    assert len(buffers._kept) == 1


def test_another_shape_or_type_gets_other_memory():
    buffers = ScoreBuffers()
    for like in (torch.randn(2, 5), torch.randn(4, 5), torch.randn(4, 5).bfloat16(), torch.randn(2, 5)):
        every = [5 * row + 3 for row in range(len(like))]
        assert torch.equal(only(buffers, like, every), expected(like, every))
        assert len(buffers._kept) == 1


def test_without_a_count_of_owners_nothing_is_used_again(monkeypatch):
    monkeypatch.setattr(score_buffers, "_owners", lambda tensor: 0)
    buffers, scores = ScoreBuffers(), torch.randn(2, 5)
    assert torch.equal(only(buffers, scores, [3, 7]), expected(scores, [3, 7]))
    assert not buffers._kept


@pytest.mark.parametrize(
    ("row_ptr", "token"),
    [
        ([0, 1, 2, 3], [1, 1, 1]),
        ([0], []),
        ([0, 1, 2], [1, 5]),
        ([0, 1, 2], [-1, 1]),
        ([0, 1, 2], [1]),
        ([0, 2, 1], [1]),
    ],
)
def test_lists_that_do_not_fit_are_refused(row_ptr, token):
    lists = np.array(row_ptr), np.array(token, np.int32), np.zeros(len(row_ptr) - 1, bool)
    with pytest.raises(IndexError, match=r"do not fit scores \(2, 5\)"):
        ScoreBuffers().only(torch.randn(2, 5), *lists)
