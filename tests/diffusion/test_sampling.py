"""Samplers against an exact oracle, and every defect of the references by name."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tianwen.diffusion import GaussianOracle, Schedule, one_by_one, sample
from tianwen.diffusion.ddim import ddim_step, posterior_deviation, step_with_deviation
from tianwen.diffusion.ddpm import ddpm_step
from tianwen.diffusion.dpm_solver import two_m_step
from tianwen.diffusion.grids import GridName
from tianwen.diffusion.sampling import Options, Solver, transition, walk
from tianwen.diffusion.steps import Transition
from tianwen.errors import InputError

POST = Schedule.post()
ORACLE = GaussianOracle(POST)
COUNT = 100_000  # sampling error of a deviation of .2: .00045


def drawn(steps: int, **options) -> torch.Tensor:
    return sample(ORACLE, (COUNT,), schedule=POST, steps=steps, seeds=7, **options)


def test_ten_steps_of_the_default_reach_the_data():
    x = drawn(10)
    assert float(x.std()) == pytest.approx(0.2, rel=0.03)
    assert float(x.mean()) == pytest.approx(0.5, rel=0.01)
    assert float(drawn(50).std()) == pytest.approx(0.2, rel=0.006)


@pytest.mark.parametrize(
    ("solver", "grid", "steps", "right"),
    [
        ("ddim", "quadratic", 10, 0.156),
        ("ddim", "logsnr", 20, 0.177),
        ("ddim", "trailing", 10, 0.100),
        ("ddpm", "logsnr", 50, 0.183),
        ("2m", "logsnr", 20, 0.2025),
    ],
)
def test_the_table_of_solvers_and_grids(solver, grid, steps, right):
    assert float(drawn(steps, solver=solver, grid=grid).std()) == pytest.approx(right, abs=0.002)


def test_all_steps_of_ddpm_and_ddim_reach_the_data():
    short = Schedule.post(300)
    oracle = GaussianOracle(short)
    for solver in get_args(Solver):
        x = sample(oracle, (20_000,), schedule=short, solver=solver, steps=300, seeds=1)
        # ddpm's small variance is exact for data of one point, so it is a little short on any other.
        assert float(x.std()) == pytest.approx(0.2, rel=0.055 if solver == "ddpm" else 0.03), solver
        assert float(x.mean()) == pytest.approx(0.5, rel=0.01), solver


def test_eta_one_is_the_posts_ddpm_step():
    """(x - b^2 / B eps) / a + b B' / B z, term by term, on whole steps and on a subsequence."""
    for t, following in ((999, 998), (700, 350), (5, 4), (0, -1)):
        move = transition(POST, t, following)
        a = move.A / move.A_next
        b = math.sqrt(1 - a * a)
        step = ddpm_step(move)
        x, eps = 0.7, -1.3
        x0 = (x - move.B * eps) / move.A
        assert step.signal * x0 + step.noise * eps == pytest.approx((x - b * b / move.B * eps) / a, rel=1e-6)
        assert step.fresh == pytest.approx(b * move.B_next / move.B, rel=1e-6)
        assert ddpm_step(move, variance="large").fresh == pytest.approx(b if following >= 0 else 0.0, rel=1e-6)
        assert ddpm_step(move, variance="large").noise == step.noise  # the mean is the same


def test_the_posts_ddim_formula():
    for t, following, eta in ((999, 800, 0.0), (400, 200, 0.5), (3, 1, 1.0)):
        move = transition(POST, t, following)
        a, s = move.A / move.A_next, eta * posterior_deviation(move)
        step = ddim_step(move, eta=eta)
        x, eps = 0.7, -1.3
        x0 = (x - move.B * eps) / move.A
        posts = (x - (move.B - a * math.sqrt(move.B_next**2 - s**2)) * eps) / a
        assert step.signal * x0 + step.noise * eps == pytest.approx(posts, rel=1e-6)
        assert step.fresh == pytest.approx(s)


def test_defect_1_the_deviation_b_in_ddims_formula_gives_no_nan():
    """With s = b the root of B'^2 - s^2 is imaginary in the first times of the chain."""
    negative = 0
    for t in range(999, -1, -1):
        move = transition(POST, t, t - 1)
        s = float(POST.b[t])
        negative += move.B_next**2 - s**2 < 0
        step = step_with_deviation(move, s)
        assert math.isfinite(step.noise)
        assert 0 <= step.fresh <= move.B_next
    assert negative >= 3


def times_seen(grid: str, steps: int) -> list[int]:
    seen: list[int] = []

    def model(x, t):
        seen.append(int(t[0]))
        return x

    sample(model, (2,), schedule=POST, grid=grid, steps=steps, seeds=0)
    return seen


def test_defect_2_the_first_time_seen_is_the_last_of_the_schedule():
    for grid in get_args(GridName):
        for steps in (1, 5, 10, 20, 64):
            seen = times_seen(grid, steps)
            assert seen[0] == 999, (grid, steps)
            assert len(seen) == steps


@pytest.mark.parametrize("grid", ["uniform", "quadratic", [999, 998, 500, 499, 3]])
def test_defect_3_the_previous_time_comes_from_the_list(grid):
    """A chain of DDIM whose model is a constant noise has a closed form that any wrong amplitude would miss."""
    noise = 0.8
    seen = []

    def model(x, t):
        seen.append((int(t[0]), float(x[0, 0])))
        return torch.full_like(x, noise)

    steps = None if isinstance(grid, list) else 20
    sample(model, (1,), schedule=POST, solver="ddim", grid=grid, steps=steps, seeds=3, dtype=torch.float64)
    A, B = POST.A.numpy(), POST.B.numpy()
    x0 = (seen[0][1] - B[999] * noise) / A[999]
    for t, x in seen:
        assert x == pytest.approx(A[t] * x0 + B[t] * noise, rel=1e-9)


def test_defect_5_analytic_variance_is_a_list_kept_with_the_model():
    x = drawn(10, solver="ddpm", unexplained=ORACLE.unexplained())
    assert float(x.std()) == pytest.approx(0.2, rel=0.01)  # plain ddpm: .130, large variance: .313


@settings(max_examples=60)
@given(
    st.sampled_from(["post", "cosine", "paper", "zero"]),
    st.sampled_from(get_args(Solver)),
    st.sampled_from(get_args(GridName)),
    st.integers(1, 60),
    st.sampled_from([None, 0.0, 0.3, 1.0, 2.5]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_no_nan_anywhere(name, solver, grid, steps, eta, dtype):
    zero = name == "zero"
    schedule = Schedule.paper(60).with_zero_terminal_snr() if zero else Schedule.named(name, 60)
    target = "v" if zero else "eps"
    oracle = GaussianOracle(schedule, target=target)
    x = sample(
        oracle, (3, 5), schedule=schedule, solver=solver, grid=grid, steps=steps, eta=eta, seeds=[0, 1], dtype=dtype,
        target=target,
    )  # fmt: skip
    assert x.shape == (2, 3, 5)
    assert x.dtype == dtype
    assert bool(x.isfinite().all())
    assert float(x.abs().max()) < (3 if dtype != torch.bfloat16 and (eta or 0) <= 1 else 1e3)


@pytest.mark.parametrize("T", [1, 2, 3])
def test_the_shortest_schedules(T):
    for steps in range(1, T + 1):
        for solver in get_args(Solver):
            x = sample(
                GaussianOracle(Schedule.post(T)), (4,), schedule=Schedule.post(T), solver=solver, steps=steps, seeds=0
            )
            assert bool(x.isfinite().all())
            assert float(x.mean()) == pytest.approx(0.5, abs=0.15)


def test_the_three_targets_give_the_same_pictures():
    pictures = [
        sample(GaussianOracle(POST, target=target), (64,), schedule=POST, steps=10, seeds=5, target=target)
        for target in ("eps", "x0", "v")
    ]
    for other in pictures[1:]:
        torch.testing.assert_close(other, pictures[0], rtol=0, atol=2e-4)


def test_zero_terminal_snr_works_with_v_and_is_refused_with_eps():
    zero = POST.with_zero_terminal_snr()
    for solver in ("ddim", "2m"):
        x = sample(
            GaussianOracle(zero, target="v"), (COUNT,), schedule=zero, solver=solver, steps=50, seeds=0, target="v"
        )
        assert float(x.std()) == pytest.approx(0.2, rel=0.06)
    with pytest.raises(InputError, match="zero terminal SNR"):
        sample(GaussianOracle(zero), (4,), schedule=zero, steps=5, seeds=0)


@pytest.mark.parametrize("shape", [(5,), (3, 7), (3, 16, 16), ()])
@pytest.mark.parametrize(("solver", "eta"), [("ddim", 0.0), ("ddpm", None), ("2m", None), ("2m", 1.0), ("ddim", 0.5)])
def test_picture_k_of_a_batch_is_picture_k_alone(shape, solver, eta):
    seeds = [3, 0, 2**64 - 1, 17, 4]
    together = sample(ORACLE, shape, schedule=POST, solver=solver, steps=7, eta=eta, seeds=seeds)
    for k, seed in enumerate(seeds):
        alone = sample(ORACLE, shape, schedule=POST, solver=solver, steps=7, eta=eta, seeds=[seed])
        assert torch.equal(alone[0], together[k])
    again = sample(ORACLE, shape, schedule=POST, solver=solver, steps=7, eta=eta, seeds=reversed(seeds))
    assert torch.equal(again.flip(0), together)


def test_one_by_one_calls_the_model_for_each_picture():
    sizes = []
    sample(one_by_one(lambda x, t: sizes.append(len(x)) or x), (2,), schedule=POST, steps=2, seeds=range(3))
    assert sizes == [1] * 6


def test_fresh_noise_only_where_eta_asks_for_it():
    batch = {
        eta: sample(ORACLE, (9,), schedule=POST, solver="ddim", steps=5, eta=eta, seeds=1) for eta in (None, 0.0, 1.0)
    }
    assert torch.equal(batch[None], batch[0.0])
    assert not torch.equal(batch[0.0], batch[1.0])
    ddpm = sample(ORACLE, (9,), schedule=POST, solver="ddpm", steps=5, seeds=1)
    assert torch.equal(ddpm, batch[1.0])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"steps": 1001}, "from 1 to T = 1000"),
        ({"steps": 0}, "from 1 to T = 1000"),
        ({"solver": "euler"}, "2m, ddim, ddpm"),
        ({"grid": "linear"}, "no grid"),
        ({"eta": -1.0}, "at least 0"),
        ({"eta": math.nan}, "at least 0"),
        ({"seeds": []}, "one integer for each"),
        ({"seeds": None}, "one a picture"),
        ({"seeds": [1.5]}, "whole number"),
        ({"seeds": -1}, "whole number"),
        ({"seeds": [2**64]}, "whole number"),
        ({"target": "z"}, "no target"),
        ({"dtype": torch.int32}, "floating"),
        ({"variance": "large"}, "belongs to solver='ddpm'"),
        ({"solver": "ddpm", "variance": "huge"}, "no variance"),
        ({"solver": "ddpm", "unexplained": [0.1] * 999}, "each of the 1000 times"),
        ({"solver": "ddpm", "unexplained": [-0.1] * 1000}, "not below 0"),
    ],
)
def test_options_that_cannot_be_are_refused_with_a_sentence(options, reason):
    settings = {"schedule": POST, "seeds": 0, "steps": 3} | options
    with pytest.raises(InputError, match=reason):
        sample(ORACLE, (2,), **settings)


def test_a_shape_or_an_answer_that_does_not_fit():
    with pytest.raises(InputError, match="no batch"):
        sample(ORACLE, (3, 0), schedule=POST, seeds=0)
    with pytest.raises(InputError, match="list of sizes"):
        sample(ORACLE, 3, schedule=POST, seeds=0)
    with pytest.raises(InputError, match=r"answered \[1, 3\]"):
        sample(lambda x, t: torch.zeros(1, 3), (2,), schedule=POST, seeds=0)


def test_the_model_gets_long_times_and_its_own_type():
    def model(x, t):
        assert t.dtype == torch.long
        assert t.shape == (2,)
        assert x.dtype == torch.bfloat16
        assert not torch.is_grad_enabled()
        return x

    assert sample(model, (3,), schedule=POST, steps=2, seeds=[1, 2], dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_model_may_work_in_place():
    plain = sample(lambda x, t: 0.5 * x, (3,), schedule=POST, steps=4, seeds=0)
    assert torch.equal(sample(lambda x, t: x.mul_(0.5), (3,), schedule=POST, steps=4, seeds=0), plain)


def test_every_step_can_be_watched_and_changed():
    seen = []
    sample(ORACLE, (2,), schedule=POST, grid=[999, 5], seeds=0, watch=lambda x, t: seen.append(t))
    assert seen == [5, -1]
    x = sample(ORACLE, (2,), schedule=POST, steps=3, seeds=0, watch=lambda x, t: torch.ones(1, 2) if t < 0 else None)
    assert torch.equal(x, torch.ones(1, 2))


def test_coefficients_are_computed_in_double_precision():
    """A thousand deterministic steps in float32 end where float64 ends: amplitudes are not rounded."""
    options = {"schedule": POST, "solver": "ddim", "steps": 1000, "seeds": 0}
    single = sample(ORACLE, (50,), **options)
    double = sample(ORACLE, (50,), dtype=torch.float64, **options)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=3e-4)


def test_the_second_order_step_is_exact_for_a_picture_that_moves_on_a_line():
    """Where x0 does not change, 2m and ddim agree; where it does, 2m is closer at every number of steps."""
    still = sample(
        lambda x, t: (x - POST.A[t][:, None] * 0.3) / POST.B[t][:, None], (4,), schedule=POST, steps=9, seeds=0
    )
    np.testing.assert_allclose(still.numpy(), 0.3, atol=1e-3)
    for steps in (10, 30):
        errors = [abs(float(drawn(steps, solver=solver).std()) - 0.2) for solver in ("2m", "ddim")]
        assert errors[0] < errors[1] / 4


def test_options_for_a_chain_of_ones_own():
    x = walk(ORACLE, torch.zeros(1, 3), [4, 0], schedule=POST, options=Options(solver="ddim"), seeds=[0])
    assert x.shape == (1, 3)
    assert ddim_step(Transition(0.5, math.sqrt(0.75), 1.0, 0.0), eta=1.0).fresh == 0.0


@pytest.mark.parametrize("answer", [lambda x: (x,), lambda x: x.numpy(), lambda x: None])
def test_an_answer_that_is_no_tensor(answer):
    with pytest.raises(InputError, match="must be a tensor"):
        sample(lambda x, t: answer(x), (2,), schedule=POST, steps=2, seeds=0)


@pytest.mark.parametrize("dtype", ["float32", torch.complex64, torch.float8_e4m3fn])
def test_types_that_no_chain_has(dtype):
    with pytest.raises(InputError, match="floating type such as"):
        sample(ORACLE, (2,), schedule=POST, steps=2, seeds=0, dtype=dtype)


def test_the_second_order_step_by_its_formula():
    """x' = B'/B x + (A' - A B'/B)(x0 + h / (2 h_) (x0 - x0_)), with steps of unequal length, and with fresh noise."""
    before, move = transition(POST, 999, 600), transition(POST, 600, 450)
    l_before, here, there = (
        math.log(A / B) for A, B in ((before.A, before.B), (move.A, move.B), (move.A_next, move.B_next))
    )
    h, h_before = there - here, here - l_before
    x, x0, x0_before = 0.7, 0.4, 0.1
    eps = (x - move.A * x0) / move.B
    for eta in (0.0, 1.0):
        step = two_m_step(move, eta=eta, before=before)
        noise = math.sqrt(move.B_next**2 - (eta * posterior_deviation(move)) ** 2)
        paper = noise / move.B * x + (move.A_next - move.A * noise / move.B) * (
            x0 + h / (2 * h_before) * (x0 - x0_before)
        )
        assert step.signal * x0 + step.noise * eps + step.history * (x0 - x0_before) == pytest.approx(paper, rel=1e-9)
