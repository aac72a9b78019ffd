"""Masks against a loop that spells the rules out."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.backbone.masks import causal_mask, encoder_mask, unilm_mask, valid_tokens


def slow(rule: str, segments: list[int], valid: list[bool]) -> list[list[bool]]:
    """Visible[i][j], token by token."""
    length = len(segments)
    visible = [[i == j for j in range(length)] for i in range(length)]
    for i in range(length):
        for j in range(length):
            if not valid[j]:
                continue
            if rule == "encoder":
                visible[i][j] = True
            elif rule == "causal":
                visible[i][j] |= j <= i
            else:
                before_j = sum(s for s, real in zip(segments[: j + 1], valid, strict=False) if real)
                before_i = sum(s for s, real in zip(segments[: i + 1], valid, strict=False) if real)
                visible[i][j] |= before_j <= before_i
    return visible


tokens = st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=1, max_size=9)


@given(tokens)
@settings(max_examples=40)
def test_causal_and_unilm_follow_their_rules(row: list[tuple[int, bool]]) -> None:
    segments, valid = [s for s, _ in row], [v for _, v in row]
    real = torch.tensor([valid])
    assert causal_mask(real)[0, 0].tolist() == slow("causal", segments, valid)
    assert unilm_mask(torch.tensor([segments]), real)[0, 0].tolist() == slow("unilm", segments, valid)


@given(tokens)
@settings(max_examples=40)
def test_encoder_rows_see_all_real_tokens_or_themselves(row: list[tuple[int, bool]]) -> None:
    valid = [v for _, v in row]
    mask = encoder_mask(torch.tensor([valid]))[0, 0, 0].tolist()
    assert mask == (valid if any(valid) else [True] * len(valid))


@given(tokens, st.integers(1, 9))
@settings(max_examples=40)
def test_new_rows_are_the_last_rows(row: list[tuple[int, bool]], new: int) -> None:
    new = min(new, len(row))
    segments, valid = torch.tensor([[s for s, _ in row]]), torch.tensor([[v for _, v in row]])
    assert torch.equal(unilm_mask(segments, valid, new=new), unilm_mask(segments, valid)[:, :, -new:])
    assert torch.equal(causal_mask(valid, new=new), causal_mask(valid)[:, :, -new:])


def test_source_sees_source_and_target_sees_its_past() -> None:
    mask = unilm_mask(torch.tensor([[0, 0, 1, 1, 0]]), torch.tensor([[True, True, True, True, False]]))[0, 0]
    assert mask.int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_valid_tokens_from_lengths() -> None:
    assert valid_tokens(torch.tensor([0, 2, 3]), 3).int().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]
