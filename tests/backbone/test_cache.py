"""Feeding a sequence in pieces through the cache equals feeding it whole, and the source never sees the target."""

import pytest
import torch

from tianwen.backbone.masks import causal_mask, unilm_mask, valid_tokens
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config


@pytest.fixture
def model() -> RoFormerV2:
    model = RoFormerV2(RoFormerV2Config(vocabulary=40, layers=3, width=32, heads=4, max_length=16))
    for parameter in model.parameters():
        parameter.data.mul_(3)  # sharp attention, so that a wrong mask shows
    return model.eval()


LENGTH = 14
SEGMENTS = torch.tensor([[0] * 5 + [1] * 9, [0] * 8 + [1] * 6])
VALID = valid_tokens(torch.tensor([14, 11]), LENGTH)


@pytest.mark.parametrize("pieces", [[14], [8, 6], [8, 1, 1, 4], [8] + [1] * 6])
def test_unilm_in_pieces_equals_whole(model: RoFormerV2, pieces: list[int]) -> None:
    ids = torch.randint(0, 40, (2, LENGTH))
    with torch.no_grad():
        whole, _ = model(ids, segments=SEGMENTS, mask=unilm_mask(SEGMENTS, VALID))
        past, parts, start = None, [], 0
        for new in pieces:
            end = start + new
            mask = unilm_mask(SEGMENTS[:, :end], VALID[:, :end], new=new)
            part, past = model(ids[:, start:end], segments=SEGMENTS[:, start:end], mask=mask, past=past)
            parts.append(part)
            start = end
    assert (torch.cat(parts, dim=1) - whole)[VALID].abs().max() < 1e-5


def test_causal_token_by_token_equals_whole(model: RoFormerV2) -> None:
    ids = torch.randint(0, 40, (2, LENGTH))
    with torch.no_grad():
        whole, cache = model(ids, mask=causal_mask(VALID))
        past, parts = None, []
        for t in range(LENGTH):
            part, past = model(ids[:, t : t + 1], mask=causal_mask(VALID[:, : t + 1], new=1), past=past)
            parts.append(part)
    assert (torch.cat(parts, dim=1) - whole)[VALID].abs().max() < 1e-5
    assert past is not None
    for (key, value), (other_key, other_value) in zip(past, cache, strict=True):
        assert key.shape == (2, 4, LENGTH, 8)
        assert (key - other_key).transpose(1, 2)[VALID].abs().max() < 1e-5
        assert (value - other_value).transpose(1, 2)[VALID].abs().max() < 1e-5


def test_source_states_do_not_change_with_the_target(model: RoFormerV2) -> None:
    segments = SEGMENTS[:1]
    ids = torch.randint(0, 40, (1, LENGTH))
    other = ids.clone()
    other[:, 5:] = (ids[:, 5:] + 7) % 40
    with torch.no_grad():
        mask = unilm_mask(segments)
        first, _ = model(ids, segments=segments, mask=mask)
        second, _ = model(other, segments=segments, mask=mask)
        alone, _ = model(ids[:, :5])
    assert torch.equal(first[:, :5], second[:, :5])
    assert (first[:, :5] - alone).abs().max() < 1e-5
    assert (first[:, 5:] - second[:, 5:]).abs().max() > 0.1


def test_a_target_token_does_not_change_with_its_future(model: RoFormerV2) -> None:
    ids = torch.randint(0, 40, (1, LENGTH))
    other = ids.clone()
    other[:, 9] = (ids[:, 9] + 1) % 40
    with torch.no_grad():
        first, _ = model(ids, segments=SEGMENTS[:1], mask=unilm_mask(SEGMENTS[:1]))
        second, _ = model(other, segments=SEGMENTS[:1], mask=unilm_mask(SEGMENTS[:1]))
    assert torch.equal(first[:, :9], second[:, :9])
    assert not torch.allclose(first[:, 10:], second[:, 10:])
