"""Kept score tensors: only the named entries are not -inf, whatever happened to the tensors handed out before."""

from __future__ import annotations

import pytest
import torch

from tianwen.ask import score_buffers
from tianwen.ask.score_buffers import KEPT, ScoreBuffers


def only(buffers, scores, places):
    index = torch.tensor(places)
    return buffers.only(scores, index, scores.reshape(-1)[index])


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
    buffers, scores = ScoreBuffers(), torch.randn(2, 5)
    held = [only(buffers, scores, [place]) for place in range(10)]
    views = [only(buffers, scores, [place]).view(-1)[place] for place in range(10)]
    for place in range(10):
        assert torch.equal(held[place], expected(scores, [place]))
        assert views[place] == scores.view(-1)[place]
    assert len(buffers._kept) == KEPT


def test_a_tensor_that_was_written_to_is_wiped_before_it_serves_again():
    buffers, scores = ScoreBuffers(), torch.randn(2, 5)
    for spoil in (
        lambda t: t.fill_(0),
        lambda t: t[0].mul_(0),
        lambda t: t.view(-1).index_fill_(0, torch.tensor(3), 1),
    ):
        masked = only(buffers, scores, [1])
        address = masked.data_ptr()
        spoil(masked)
        del masked
        again = only(buffers, scores, [4])
        assert again.data_ptr() == address
        assert torch.equal(again, expected(scores, [4]))
        del again


def test_whole_rows_are_wiped_too():
    buffers, scores = ScoreBuffers(), torch.randn(2, 5)
    bias = torch.tensor([0, -torch.inf, 0, 0, -torch.inf])
    whole = buffers.plus(scores, bias)
    assert torch.equal(whole, scores + bias)
    del whole
    assert torch.equal(only(buffers, scores, [9]), expected(scores, [9]))


def test_another_shape_or_type_gets_other_memory():
    buffers = ScoreBuffers()
    for like in (torch.randn(2, 5), torch.randn(4, 5), torch.randn(4, 5).bfloat16(), torch.randn(2, 5)):
        assert torch.equal(only(buffers, like, [3]), expected(like, [3]))
        assert len(buffers._kept) == 1


def test_without_a_count_of_owners_nothing_is_used_again(monkeypatch):
    monkeypatch.setattr(score_buffers, "_owners", lambda tensor: 0)
    buffers, scores = ScoreBuffers(), torch.randn(2, 5)
    assert torch.equal(only(buffers, scores, [3]), expected(scores, [3]))
    assert not buffers._kept
