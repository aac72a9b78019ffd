"""The two heads: their definitions written out, single cells against whole maps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.errors import InputError
from tianwen.extract.pointer import EfficientGlobalPointer, GlobalPointer, Pointer, Projection


def turned(x: np.ndarray, m: int) -> np.ndarray:
    """The pairs (2i, 2i+1) of x turned by m * 10000^(-2i/s)."""
    angle = m * 10000.0 ** (-np.arange(0, len(x), 2) / len(x))
    even, odd = x[::2], x[1::2]
    out = np.empty_like(x)
    out[::2] = even * np.cos(angle) - odd * np.sin(angle)
    out[1::2] = even * np.sin(angle) + odd * np.cos(angle)
    return out


def projected(head: Pointer, length: int = 6) -> tuple[np.ndarray, Projection]:
    torch.manual_seed(0)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    hidden = torch.randn(1, length, head.width)
    with torch.no_grad():
        return hidden[0].double().numpy(), head(hidden, torch.ones(1, length, dtype=torch.bool))


@pytest.mark.parametrize("rope", [True, False])
def test_efficient_scores_by_definition(rope: bool) -> None:
    head = EfficientGlobalPointer(5, 3, size=8, rope=rope, triangular=False)
    hidden, projection = projected(head)
    w, c, v, d = (p.detach().double().numpy() for p in (head.dense.weight, head.dense.bias, *head.biases.parameters()))
    x = hidden @ w.T + c
    bias = (x @ v.T + d) / 2  # of x before the rotation
    scores = projection.dense_scores()[0].numpy()
    for m in range(6):
        for n in range(6):
            q, k = x[m, 0::2], x[n, 1::2]
            product = turned(q, m) @ turned(k, n) if rope else q @ k
            expected = [product / math.sqrt(8) + bias[n, 2 * h] + bias[m, 2 * h + 1] for h in range(3)]
            np.testing.assert_allclose(scores[:, m, n], expected, atol=1e-5)


def test_standard_scores_by_definition() -> None:
    head = GlobalPointer(5, 3, size=8)
    hidden, projection = projected(head)
    x = hidden @ head.dense.weight.detach().double().numpy().T + head.dense.bias.detach().double().numpy()
    scores = projection.dense_scores()[0].numpy()
    for h in range(3):
        part = x[:, 16 * h : 16 * (h + 1)]
        for m in range(6):
            for n in range(m, 6):
                expected = turned(part[m, :8], m) @ turned(part[n, 8:], n) / math.sqrt(8)
                assert scores[h, m, n] == pytest.approx(expected, abs=1e-5)
            assert np.isneginf(scores[h, m, :m]).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), efficient=st.booleans(), triangular=st.booleans(), length=st.integers(1, 9))
def test_single_cells_equal_whole_maps(seed: int, efficient: bool, triangular: bool, length: int) -> None:
    torch.manual_seed(seed)
    kind = EfficientGlobalPointer if efficient else GlobalPointer
    head = kind(6, 4, size=64, rope=triangular, triangular=triangular)
    valid = torch.rand(3, length) < 0.8
    with torch.no_grad():
        projection = head(torch.randn(3, length, 6), valid)
        dense = projection.dense_scores()
        index = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(length), torch.arange(length))
        b, h, m, n = index.unbind(1)
        torch.testing.assert_close(projection.pair_scores(b, h, m, n), dense.flatten(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(projection.label_scores(b, m, n), dense[b, :, m, n], atol=1e-6, rtol=1e-6)
    masked = ~valid[:, None, :, None] | ~valid[:, None, None, :]
    assert torch.isneginf(dense[masked.expand_as(dense)]).all()


def test_efficient_head_is_thirty_times_smaller() -> None:
    count = {
        kind: sum(p.numel() for p in kind(768, 50).parameters()) for kind in (GlobalPointer, EfficientGlobalPointer)
    }
    assert count[GlobalPointer] == 768 * 6400 + 6400
    assert count[EfficientGlobalPointer] == 768 * 128 + 128 + 128 * 100 + 100


def test_parts_of_a_packed_row() -> None:
    for kind in (GlobalPointer, EfficientGlobalPointer):
        head = kind(4, 2, size=4)
        hidden, positions = torch.randn(1, 7, 4), torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
        with torch.no_grad():
            parts = head(hidden, torch.ones(1, 7, dtype=torch.bool), positions=positions).split([3, 4])
            alone = head(hidden[:, 3:], torch.ones(1, 4, dtype=torch.bool)).dense_scores()
        torch.testing.assert_close(parts[1].dense_scores(), alone)


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="even size"):
        EfficientGlobalPointer(8, 2, size=7)
    with pytest.raises(InputError, match="must be a label"):
        GlobalPointer(8, 0)
    both = EfficientGlobalPointer(4, 1, size=4)(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="one packed row"):
        both.split([1, 2])


def test_half_precision_is_widened() -> None:
    head = EfficientGlobalPointer(4, 1, size=4).bfloat16()
    projection = head(torch.randn(1, 3, 4).bfloat16(), torch.ones(1, 3, dtype=torch.bool))
    assert projection.queries.dtype == torch.bfloat16
    assert projection.wide().queries.dtype == torch.float32


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_numbers_become_wide_and_others_stay(kind: torch.dtype) -> None:
    projection = EfficientGlobalPointer(4, 2, size=4)(torch.randn(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))
    assert projection.row_bias is not None
    half = replace(projection, queries=projection.queries.to(kind), row_bias=projection.row_bias.to(kind)).wide()
    assert half.row_bias is not None
    assert {half.queries.dtype, half.keys.dtype, half.row_bias.dtype} == {torch.float32}
