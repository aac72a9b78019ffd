"""Amplitudes: the post's formulas, exactness near both ends, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.diffusion import Schedule
from tianwen.diffusion.targets import checked_target, goal, predicting, split
from tianwen.errors import InputError


def test_the_posts_amplitudes():
    schedule = Schedule.post()
    a = np.sqrt(1 - 0.02 * np.arange(1, 1001) / 1000)
    np.testing.assert_allclose(schedule.A.numpy(), np.cumprod(a), rtol=1e-12)
    assert float(schedule.A[-1]) == pytest.approx(0.00648, abs=5e-6)
    np.testing.assert_allclose(schedule.a.numpy(), a, rtol=1e-12)
    np.testing.assert_allclose((schedule.b**2).numpy(), 0.02 * np.arange(1, 1001) / 1000, rtol=1e-9)


def test_the_papers_amplitudes():
    squared = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(Schedule.paper().A.numpy() ** 2, squared, rtol=1e-12)


def test_the_cosine_amplitudes():
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    A = Schedule.cosine().A.numpy()
    np.testing.assert_allclose(A[:-1] ** 2, (f / f[0])[1:-1], rtol=1e-9)
    assert A[-1] ** 2 == pytest.approx(A[-2] ** 2 * 0.001)  # b^2 held to .999, so that a little signal stays


@settings(max_examples=30)
@given(st.sampled_from(["post", "paper", "cosine"]), st.integers(1, 2000))
def test_every_length_falls_from_picture_to_noise(name, T):
    schedule = Schedule.named(name, T)
    A, B = schedule.A, schedule.B
    assert A.shape == B.shape == (T,)
    assert A.dtype == torch.float64
    torch.testing.assert_close(A**2 + B**2, torch.ones(T, dtype=torch.float64), rtol=0, atol=1e-14)
    assert bool((A[1:] < A[:-1]).all())
    assert 0 < A[0] < 1
    assert 0 < float(A[-1]) < 0.04  # whatever T: sampling starts from noise, so there must be noise
    assert bool(schedule.log_snr.isfinite().all())
    assert bool((schedule.a > 0).all())
    assert bool((schedule.b > 0).all())


def test_b_is_exact_where_almost_nothing_is_noise():
    schedule = Schedule.post(2000)
    assert float(schedule.B[0]) == pytest.approx(float(torch.sqrt(1 - schedule.A[0] ** 2)), rel=1e-6)
    assert Schedule.post(10**6).B[0] > 0


@pytest.mark.parametrize("T", [0, -1, 2.5, True, "10", None])
def test_a_number_of_times_that_is_none(T):
    with pytest.raises(InputError, match="at least 1"):
        Schedule.post(T)


@pytest.mark.parametrize(
    "A",
    [[], [0.5, 0.5], [0.4, 0.5], [1.0, 0.5], [0.5, -0.1], [float("nan")], [[0.5]], [0.5, np.inf], ["a"], [[1], [1, 2]]],
)
def test_amplitudes_that_do_not_fall(A):
    with pytest.raises(InputError):
        Schedule.from_amplitudes(A)


def test_an_unknown_schedule():
    with pytest.raises(InputError, match="cosine"):
        Schedule.named("linear")


def test_zero_terminal_snr_ends_at_nothing_and_keeps_the_beginning():
    before, after = Schedule.post(), Schedule.post().with_zero_terminal_snr()
    assert float(after.A[-1]) == 0.0
    assert float(after.B[-1]) == 1.0
    assert float(after.A[0]) == pytest.approx(float(before.A[0]), rel=1e-12)
    with pytest.raises(InputError, match="T >= 2"):
        Schedule.post(1).with_zero_terminal_snr()


def test_eps_is_no_target_where_nothing_of_the_picture_is_left():
    zero = Schedule.post().with_zero_terminal_snr()
    with pytest.raises(InputError, match=r"zero terminal SNR.*target='v'"):
        checked_target("eps", zero)
    assert checked_target("v", zero) == "v"
    assert checked_target("x0", zero) == "x0"
    assert checked_target("eps", Schedule.cosine(4000)) == "eps"
    with pytest.raises(InputError, match="no target"):
        checked_target("noise", Schedule.post())


@settings(max_examples=40)
@given(st.integers(0, 999), st.sampled_from(["eps", "x0", "v"]), st.integers(0, 9))
def test_targets_turn_into_picture_and_noise_and_back(t, target, seed):
    schedule = Schedule.post()
    x0, eps = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    A, B = float(schedule.A[t]), float(schedule.B[t])
    found = split(goal(x0, eps, A, B, target=target), A * x0 + B * eps, A, B, target=target)
    torch.testing.assert_close(found, (x0, eps), rtol=1e-9, atol=1e-9)


def test_a_model_of_one_target_serves_as_one_of_another():
    schedule, x, t = Schedule.post(), torch.randn(3, 2), torch.tensor([0, 500, 900])
    eps = predicting(lambda x, t: 0.3 * x, schedule, source="v", target="eps")
    v = predicting(eps, schedule, source="eps", target="v")
    torch.testing.assert_close(v(x, t), 0.3 * x, rtol=1e-3, atol=1e-4)
    A, B = schedule.at(t, x)
    torch.testing.assert_close(eps(x, t), B * x + A * 0.3 * x)


def test_noise_is_added_by_time_and_in_the_pictures_type():
    schedule, x0, eps = Schedule.post(), torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    t = torch.tensor([0, 500, 999])
    x = schedule.add_noise(x0, eps, t)
    torch.testing.assert_close(x[1], float(schedule.A[500]) * x0[1] + float(schedule.B[500]) * eps[1])
    assert schedule.add_noise(x0.bfloat16(), eps.bfloat16(), t).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("A", "B"),
    [
        ([0.5, 0.9], [0.866, 0.436]),  # rises
        ([0.8, 0.6], [0.6, 0.6]),  # no circle
        ([0.8, 0.6], [0.6]),
        ([], []),
    ],
)
def test_a_schedule_made_by_hand_is_checked(A, B):
    with pytest.raises(InputError, match="A must fall strictly"):
        Schedule(torch.tensor(A, dtype=torch.float64), torch.tensor(B, dtype=torch.float64))
    with pytest.raises(InputError, match="from_amplitudes"):
        Schedule(torch.tensor([0.8, 0.6]), torch.tensor([0.6, 0.8]))
    with pytest.raises(InputError, match=r"Schedule\.post"):
        checked_target("eps", "post")  # type: ignore[arg-type]
