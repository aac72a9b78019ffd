"""The rotation: its definition, its two forms, its tables."""

import numpy as np
import pytest
import torch

from tianwen.backbone.rope import RopeTable, rotate, rotate_pairs, turns_at


def test_each_pair_is_turned_by_position_times_frequency() -> None:
    x = torch.randn(1, 4, 2, 6)
    positions = torch.tensor([[0, 3, 7, 500]])
    turned = rotate(x, turns_at(positions, 6)).numpy()
    for t, m in enumerate(positions[0].tolist()):
        for i in range(3):
            angle = m * 10000 ** (-2 * i / 6)
            pair = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            expected = np.einsum("ab,hb->ha", pair, x[0, t, :, 2 * i : 2 * i + 2].numpy())
            np.testing.assert_allclose(turned[0, t, :, 2 * i : 2 * i + 2], expected, atol=1e-6)


def test_complex_and_real_forms_agree() -> None:
    x = torch.randn(3, 5, 2, 4, 8)
    turns = turns_at(torch.arange(5)[None], 8)
    real = rotate_pairs(x.unflatten(-1, (-1, 2)), turns[:, :, None, None]).flatten(-2)
    torch.testing.assert_close(rotate(x, turns), real, atol=1e-6, rtol=0)


def test_products_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(1, 1, 1, 16, dtype=torch.float64), torch.randn(1, 1, 1, 16, dtype=torch.float64)

    def product(m: int, n: int) -> float:
        q_m, k_n = (rotate(x, turns_at(torch.tensor([[p]]), 16)) for x, p in ((q, m), (k, n)))
        return float((q_m * k_n).sum())

    assert product(9, 4) == pytest.approx(product(1009, 1004), abs=1e-6)
    assert product(9, 4) != pytest.approx(product(9, 5), abs=1e-3)


def test_table_grows_and_takes_any_position() -> None:
    table = RopeTable(8, 4)
    near, far, negative = torch.tensor([[2, 5]]), torch.tensor([[2, 1000]]), torch.tensor([[-3, 1]])
    absurd = torch.tensor([[1, 10**12]])  # a table up to there would fill the memory
    for positions in (near, far, negative, absurd, near):
        assert torch.equal(table.rows(positions), turns_at(positions, 4))
    assert table.rows(torch.zeros(1, 0, dtype=torch.long)).shape == (1, 0, 2, 2)
    assert torch.equal(table.rows(torch.arange(3000)[None], bound=3000), turns_at(torch.arange(3000)[None], 4))


def test_half_precision_is_turned_in_single_precision() -> None:
    x = torch.randn(1, 300, 1, 8)
    turns = turns_at(torch.arange(300)[None], 8)
    halved = rotate(x.bfloat16(), turns)
    assert halved.dtype == torch.bfloat16
    assert torch.equal(halved, rotate(x.bfloat16().float(), turns).bfloat16())
