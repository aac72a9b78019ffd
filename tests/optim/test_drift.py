"""The law of drift against the optimiser itself, and the rules that tell drift from healthy variety."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.optim.planted import WALL, healthy, plant
from tianwen.optim.drift import Drift, find_drift, logistic_law, steps_until_half
from tianwen.optim.row_statistics import row_statistics
from tianwen.optim.sign_update import tiger_update
from tianwen.optim.stored_tensors import StoredTensor


def drift_of(table: Tensor, *, wall: float | None = WALL) -> Drift:
    return find_drift(row_statistics(StoredTensor.in_memory("table", table), wall=wall), wall=wall)


def test_a_silent_row_of_tiger_follows_the_logistic_law():
    theta = torch.full((1, 8), 0.02, dtype=torch.float64)
    m = torch.full((1, 8), -1e-3, dtype=torch.float64)
    for _ in range(4000):
        rate = 2e-3 * float(theta.square().mean().sqrt())
        theta, m = tiger_update(theta, m, torch.zeros_like(theta), rate=rate, beta=0.965, weight_decay=0.01)
    law = logistic_law(4000, 0.02, lr=2e-3, wall=100)
    assert float(theta.square().mean().sqrt()) == pytest.approx(law, rel=0.02)
    assert law > 20  # it was on its way to the wall


def test_the_steps_left_are_those_of_the_law():
    steps = steps_until_half(np.array([0.02, 50.0, 99.0, 0.0]), lr=1e-3, wall=100)
    assert steps[0] == math.ceil(math.log(4999) / 1e-3) == 8517
    assert steps[1:3].tolist() == [0, 0]
    assert math.isinf(steps[3])
    assert logistic_law(steps[0], 0.02, lr=1e-3, wall=100) == pytest.approx(50, rel=1e-3)


def test_the_steps_left_of_a_constant_rate():
    steps = steps_until_half(np.array([0.02, 40.0]), lr=1e-3, wall=100, relative=False)
    for start, number in zip((0.02, 40.0), steps, strict=True):
        assert 100 + (start - 100) * (1 - 1e-5) ** number == pytest.approx(50, rel=1e-4)


@pytest.mark.parametrize("dim", [32, 256])
@pytest.mark.parametrize("share", [0.002, 0.3, 0.9])
def test_drift_of_every_degree_is_found_even_where_most_rows_drift(dim, share):
    table = healthy(5000, dim, spread=0.05)
    rows = torch.randperm(5000)[: int(5000 * share)]
    plant(table, rows, torch.logspace(math.log10(0.1), math.log10(99), len(rows)))
    assert np.flatnonzero(drift_of(table).rows).tolist() == sorted(rows.tolist())


def test_an_early_drift_is_told_by_its_flatness_within_a_natural_spread():
    table = healthy(20_000, 256, spread=0.3)
    rows = torch.arange(100, 120)
    plant(table, rows, table[rows].square().mean(1).sqrt() * 4)
    drift = drift_of(table)
    assert np.flatnonzero(drift.by_shape).tolist() == rows.tolist()
    assert not drift.by_size.any()  # so much the spread explains


def test_size_alone_is_enough_if_it_is_beyond_the_spread():
    table = healthy(20_000, 64)
    table[77] *= 35
    assert np.flatnonzero(drift_of(table).by_size).tolist() == [77]


HEALTHY = {
    "normal": lambda n, d: torch.randn(n, d) * 0.02,
    "uniform": lambda n, d: (torch.rand(n, d) - 0.5) * 0.1,
    "unit rows": lambda n, d: torch.nn.functional.normalize(torch.randn(n, d), dim=1),
    "padding of zeros": lambda n, d: torch.cat([torch.zeros(n // 3, d), torch.randn(n - n // 3, d)]),
    "unused rows small": lambda n, d: torch.cat([torch.randn(n // 2, d), torch.randn(n - n // 2, d) * 0.02]),
    "unused rows smaller, nearly all": lambda n, d: torch.cat([torch.randn(n // 10, d), torch.randn(n, d) * 0.02]),
    "power law of frequency": lambda n, d: torch.randn(n, d) * torch.arange(1, n + 1)[:, None] ** -0.3,
    "frequent rows small": lambda n, d: torch.randn(n, d) * torch.arange(1, n + 1)[:, None] ** 0.2,
    "log-normal": lambda n, d: healthy(n, d, spread=0.5),
    "heavy tails": lambda n, d: torch.distributions.StudentT(3.0).sample((n, d)) * 0.05,
    "large": lambda n, d: torch.randn(n, d) * 60,
    "sinusoids": lambda n, d: torch.sin(torch.arange(n)[:, None] / 1000 ** (torch.arange(d) / d)) + 0.1,
    "ternary": lambda n, d: torch.randint(-1, 2, (n, d)) * 0.05,
    "one large component": lambda n, d: torch.randn(n, d) * 0.02 + 3 * torch.eye(n, d),
}


@pytest.mark.parametrize("kind", HEALTHY)
@pytest.mark.parametrize("shape", [(10_000, 64), (2000, 300), (500, 8), (2, 16)])
def test_healthy_tables_are_left_alone(kind, shape):
    drift = drift_of(HEALTHY[kind](*shape), wall=None)
    assert not drift.rows.any()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_tables_of_any_shape_are_looked_at(rows, dim, seed):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, dim, generator=generator) * 10.0 ** torch.randint(-30, 30, (rows, 1), generator=generator)
    statistics = row_statistics(StoredTensor.in_memory("table", table), wall=WALL)
    exact = table.double().square().mean(1).sqrt().numpy()
    np.testing.assert_allclose(statistics.rms, exact, rtol=1e-5)
    assert ((statistics.flatness > 0) & (statistics.flatness <= 1)).all()
    find_drift(statistics)


def test_saturation_and_hits_are_counted():
    table = torch.zeros(3, 4)
    table[0] = torch.tensor([100.0, -99.95, 91.0, 89.0])
    table[1] = torch.tensor([-92.0, 95.0, 0.0, 0.0])
    statistics = row_statistics(StoredTensor.in_memory("table", table), wall=WALL)
    assert statistics.saturated.tolist() == [3, 2, 0]
    assert statistics.at_wall.tolist() == [2, 0, 0]
    assert find_drift(statistics).by_wall.tolist() == [True, False, False]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_types_of_any_width_give_the_same_picture(dtype):
    table = healthy(4000, 128, std=0.1)
    rows = torch.tensor([5, 600, 3999])
    plant(table, rows, torch.tensor([3.0, 50.0, 100.0]))
    table[17] = 0
    assert np.flatnonzero(drift_of(table.to(dtype)).rows).tolist() == rows.tolist()


def test_broken_values_are_counted_and_do_not_spoil_the_rest():
    table = healthy(100, 32)
    table[3, 4], table[3, 5], table[9] = math.nan, math.inf, -math.inf
    statistics = row_statistics(StoredTensor.in_memory("table", table))
    assert {row: int(n) for row, n in enumerate(statistics.broken) if n} == {3: 2, 9: 32}
    assert not find_drift(statistics).rows.any()
