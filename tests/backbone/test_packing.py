"""Padding-free batches: equal to padded ones, in input order, within the budget."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.backbone.masks import Rule, causal_mask, encoder_mask, unilm_mask, valid_tokens
from tianwen.backbone.packing import group_by_budget, pack
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config
from tianwen.errors import InputError

LENGTHS = [5, 1, 12, 5, 30, 7, 5, 12]


def sharp(dropout: float = 0.0) -> RoFormerV2:
    config = RoFormerV2Config(
        40, layers=2, width=32, heads=4, max_length=16, dropout=dropout, attention_dropout=dropout
    )
    model = RoFormerV2(config)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def batch_of(lengths: list[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rows = [np.random.randint(0, 40, length) for length in lengths]
    marks = [(np.arange(length) >= (length + 1) // 2).astype(np.int64) for length in lengths]
    return rows, marks


@pytest.mark.parametrize("rule", ["encoder", "causal", "unilm"])
@pytest.mark.parametrize("budget", [8, 40, 1000])
def test_packed_equals_padded(rule: Rule, budget: int) -> None:
    model = sharp().eval()
    rows, marks = batch_of(LENGTHS)
    valid = valid_tokens(torch.tensor(LENGTHS), max(LENGTHS))
    ids, segments = torch.zeros_like(valid, dtype=torch.long), torch.zeros_like(valid, dtype=torch.long)
    ids[valid], segments[valid] = torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(marks))
    mask = {"encoder": encoder_mask(valid), "causal": causal_mask(valid), "unilm": unilm_mask(segments, valid)}[rule]
    with torch.no_grad():
        padded, _ = model(ids, segments=segments, mask=mask)
    packed = model.encode(rows, segments=marks, rule=rule, budget=budget)
    for row, (hidden, length) in enumerate(zip(packed, LENGTHS, strict=True)):
        assert hidden.shape == (length, 32)
        assert (hidden - padded[row, :length]).abs().max() < 1e-5


def test_gradients_flow_through_a_pack_as_through_padding() -> None:
    model = sharp().train()
    rows, marks = batch_of([3, 6, 6])
    (batch,) = pack(rows, segments=marks, rule="unilm")
    model.forward_packed(batch).pow(2)[:, 0].sum().backward()
    packed = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    losses = []
    for row, mark in zip(rows, marks, strict=True):
        segments = torch.from_numpy(mark)[None]
        hidden, _ = model(torch.from_numpy(row)[None], segments=segments, mask=unilm_mask(segments))
        losses.append(hidden[0, :, 0].pow(2).sum())
    torch.stack(losses).sum().backward()
    for ours, parameter in zip(packed, model.parameters(), strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, parameter.grad, atol=1e-4, rtol=1e-4)


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 64))
@settings(max_examples=30)
def test_groups_keep_the_budget_and_every_sequence(lengths: list[int], budget: int) -> None:
    groups = group_by_budget(lengths, budget)
    assert sorted(index for group in groups for index in group) == [i for i, length in enumerate(lengths) if length]
    for group in groups:
        sizes = [lengths[index] for index in group]
        assert sizes == sorted(sizes)
        assert sum(sizes) <= budget or len(group) == 1
    fits_nowhere_earlier = [
        sum(lengths[i] for i in left) + lengths[right[0]] > budget for left, right in pairwise(groups)
    ]
    assert all(fits_nowhere_earlier)


def test_equal_lengths_share_one_run_and_first_tokens_are_found() -> None:
    rows, _ = batch_of(LENGTHS)
    (batch,) = pack(rows)
    assert batch.runs.shapes == ((1, 1), (3, 5), (1, 7), (2, 12), (1, 30))
    assert batch.ids[batch.starts].tolist() == [rows[index][0] for index in batch.order]
    assert all(np.array_equal(part.numpy(), rows[index]) for index, part in batch.split(batch.ids))


def test_lists_tensors_and_empty_rows_are_welcome() -> None:
    model = sharp().eval()
    same = model.encode([[1, 2, 3], np.array([1, 2, 3], dtype=np.int32), torch.tensor([1, 2, 3]), []])
    torch.testing.assert_close(same[0], same[1])
    torch.testing.assert_close(same[0], same[2])
    assert same[3].shape == (0, 32)
    assert model.encode([]) == []


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ([[1, 2], [3, 40]], {}, "Sequence 1 has the token id 40; this model knows 0 to 39"),
        ([[1, -1]], {}, "token id -1"),
        ([[1, 2]], {"segments": [[0, 2]]}, "segment id 2"),
        ([[1, 2]], {"segments": [[0]]}, "lengths"),
        ([[1, 2]], {"rule": "unilm"}, "needs `segments`"),
        ([[1, 2]], {"budget": 0}, "budget"),
        ([[0.5]], {}, "Row 0 of the token ids"),
        ([[[1], [2]]], {}, "shape"),
    ],
)
def test_bad_rows_are_explained(rows: list, options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        sharp().eval().encode(rows, **options)
