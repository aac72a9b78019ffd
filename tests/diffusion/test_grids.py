"""Which times are visited: always T-1, always S different ones, and lists of one's own checked."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tianwen.diffusion import Schedule, times_of
from tianwen.diffusion.grids import GridName
from tianwen.errors import InputError

NAMES = get_args(GridName)
SCHEDULES = {
    "post": Schedule.post(),
    "cosine": Schedule.cosine(),
    "short": Schedule.paper(7),
    "zero": Schedule.post().with_zero_terminal_snr(),
    "one": Schedule.post(1),
    "two": Schedule.cosine(2),
    "steep": Schedule.from_amplitudes([0.9999999, 1e-3, 1e-9, 0.0]),
}


@given(st.sampled_from(sorted(SCHEDULES)), st.sampled_from(NAMES), st.integers(1, 1000))
def test_s_different_falling_times_from_the_last(which, name, steps):
    schedule = SCHEDULES[which]
    steps = 1 + (steps - 1) % schedule.T
    times = times_of(schedule, name, steps)
    assert len(times) == steps
    assert times[0] == schedule.T - 1  # "[::stride]" of the post's code and diffusers' "leading" miss it
    assert all(now > after >= 0 for now, after in pairwise(times))


@pytest.mark.parametrize("name", NAMES)
def test_as_many_steps_as_times_visit_all(name):
    assert times_of(Schedule.post(), name, 1000) == list(range(999, -1, -1))


@pytest.mark.parametrize("name", ["logsnr", "uniform", "quadratic"])
def test_grids_that_end_at_the_cleanest_time(name):
    assert times_of(Schedule.post(), name, 10)[-1] == 0


def test_named_grids_are_what_their_names_say():
    schedule = Schedule.post()
    assert times_of(schedule, "uniform", 10) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert times_of(schedule, "trailing", 10) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    np.testing.assert_allclose(
        np.diff(np.sqrt(times_of(schedule, "quadratic", 20)[:-4])), -np.sqrt(999) / 19, atol=0.05
    )
    depth = schedule.log_snr[times_of(schedule, "logsnr", 15)]
    lengths = (depth[1:] - depth[:-1])[:-4]  # whole times are too coarse for the last few
    assert lengths.max() / lengths.min() < 1.8
    assert bool((lengths[:-1] > lengths[1:] - 0.02).all())  # the longer ones in the noise


@pytest.mark.parametrize("steps", [0, -3, 1001, 2.0, True, "ten"])
def test_a_number_of_steps_that_cannot_be(steps):
    with pytest.raises(InputError, match="from 1 to T = 1000"):
        times_of(Schedule.post(), "logsnr", steps)


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        ([], "at least one"),
        ([999, 500, 500, 0], "repeats"),
        ([0, 500, 999], "other way round"),
        ([999, 100, 500], "other way round"),
        ([1000, 500], "0 to T-1 = 999"),
        ([999, -1], "0 to T-1 = 999"),
        ([900, 500, 0], "starts at 900"),
        ([999, 0.5], "whole number"),
        ([True], "whole number"),
        (["999"], "whole number"),
        (None, "list of times"),
        (5, "list of times"),
        (np.array(999), "whole number"),
        (torch.tensor(999), "whole number"),
        ([torch.tensor([999, 1])], "whole number"),
        (torch.tensor([[999, 1]]), "whole number"),
        (torch.tensor([999.0, 1.0]), "whole number"),
        ("leading", "logsnr, uniform, trailing, quadratic"),
    ],
)
def test_a_grid_that_cannot_be(grid, reason):
    with pytest.raises(InputError, match=reason):
        times_of(Schedule.post(), grid)


def test_a_list_of_ones_own():
    assert times_of(Schedule.post(), [999, 10, 3]) == [999, 10, 3]
    assert times_of(Schedule.post(), torch.tensor([999, 10, 3]), 3) == [999, 10, 3]
    assert times_of(Schedule.post(), np.array([999])) == [999]
    assert times_of(Schedule.post(), range(999, 0, -100)) == list(range(999, 0, -100))
    with pytest.raises(InputError, match="leave steps out"):
        times_of(Schedule.post(), [999, 10, 3], 2)


def test_steps_are_twenty_unless_there_are_fewer_times():
    assert len(times_of(Schedule.post())) == 20
    assert len(times_of(Schedule.post(7))) == 7
