"""Stochastic rounding: right on average, exact where it can be, the same for the same key."""

from __future__ import annotations

import pytest
import torch

from tianwen.errors import InputError
from tianwen.optim.rounding import rounded, uniform


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_mean_is_the_value(dtype):
    for value in (0.1, -0.3, 1.7, 3e-6, 12345.678 if dtype == torch.bfloat16 else 1234.5678):
        x = torch.full((40_000,), value)
        found = rounded(x, dtype, (0, 1, 2)).float()
        assert len(found.unique()) == 2  # the two neighbours
        spread = (found.max() - found.min()).item()
        assert found.mean().item() == pytest.approx(value, abs=0.02 * spread)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_16_bits_can_hold_is_kept_exactly(dtype):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    every = every[every.isfinite()]
    assert torch.equal(rounded(every.float(), dtype, (0, 0, 0)), every)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_result_is_a_neighbour(dtype):
    x = torch.randn(20_000) * torch.logspace(-9, 4, 20_000)
    found = rounded(x, dtype, (3, 4, 5)).float()
    nearest = x.to(dtype).float()
    largest_ulp = torch.maximum(nearest.abs() * 2.0 ** (-7 if dtype == torch.bfloat16 else -10), torch.tensor(2.0**-24))
    assert ((found - x).abs() <= largest_ulp).all()


def test_infinities_stay_and_finite_numbers_stay_finite():
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 65519.0, 3.4e38])
    half = rounded(x, torch.float16, (0, 0, 0))
    assert half[:2].tolist() == [float("inf"), -float("inf")]
    assert half[2].isnan()
    assert half[3].isfinite()


def test_random_numbers_are_a_function_of_the_key():
    a = uniform(5000, (1, 2, 3))
    assert torch.equal(a, uniform(5000, (1, 2, 3)))
    assert 0 <= a.min() < 0.01
    assert 0.99 < a.max() < 1
    assert a.mean().item() == pytest.approx(0.5, abs=0.02)
    for other in ((1, 2, 4), (1, 3, 3), (2, 2, 3)):
        b = uniform(5000, other)
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.06


def test_other_types_are_refused():
    with pytest.raises(InputError, match="bfloat16 and float16"):
        rounded(torch.ones(2), torch.float32, (0, 0, 0))
