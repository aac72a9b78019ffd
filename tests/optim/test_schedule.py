"""Schedules against their formulas at the points that matter."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tianwen.errors import InputError
from tianwen.optim.schedule import constant, cosine, linear, piecewise_linear


def test_piecewise_linear_starts_at_zero_and_stays_at_the_last_value():
    factor = piecewise_linear({1000: 1, 3000: 0.1})
    assert [factor(t) for t in (0, 250, 1000)] == [0.0, 0.25, 1.0]
    assert factor(2000) == pytest.approx(0.55)
    assert factor(3000) == factor(10**9) == 0.1


def test_piecewise_linear_may_start_elsewhere():
    factor = piecewise_linear({0: 1.0, 10: 0.0})
    assert [factor(0), factor(5), factor(10)] == [1.0, 0.5, 0.0]


def test_piecewise_linear_does_not_care_for_the_order_of_the_points():
    a, b = piecewise_linear({5: 1, 20: 0.5, 30: 0}), piecewise_linear({30: 0, 5: 1, 20: 0.5})
    assert [a(t) for t in range(40)] == [b(t) for t in range(40)]


def test_constant_rises_and_stays():
    assert [constant(warmup=4)(t) for t in (1, 2, 4, 5)] == [0.25, 0.5, 1.0, 1.0]
    assert constant()(1) == 1.0


def test_cosine_and_linear_at_their_ends_and_in_the_middle():
    for make in (cosine, linear):
        factor = make(110, warmup=10, floor=0.2)
        assert factor(5) == pytest.approx(0.5)
        assert factor(10) == pytest.approx(1.0)
        assert factor(60) == pytest.approx(0.6)
        assert factor(110) == pytest.approx(0.2)
        assert factor(999) == pytest.approx(0.2)
    assert cosine(100)(25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert linear(100)(25) == pytest.approx(0.75)


@given(st.integers(0, 50), st.integers(1, 200), st.floats(0, 1), st.integers(0, 500))
def test_a_decay_never_rises_after_the_warm_up(warmup: int, more: int, floor: float, t: int):
    for make in (cosine, linear):
        factor = make(warmup + more, warmup=warmup, floor=floor)
        assert 0 <= factor(t) <= 1
        if t >= warmup:
            assert factor(t + 1) <= factor(t) + 1e-12


@pytest.mark.parametrize(
    "make",
    [
        lambda: piecewise_linear({}),
        lambda: piecewise_linear({-1: 1.0}),
        lambda: piecewise_linear({5: math.nan}),
        lambda: piecewise_linear({5: -0.1}),
        lambda: constant(warmup=-1),
        lambda: cosine(10, warmup=10),
        lambda: linear(10, floor=1.5),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(InputError):
        make()
