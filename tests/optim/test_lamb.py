"""LAMB against the algorithm written out in numpy, and its state in a checkpoint."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tianwen.errors import InputError
from tianwen.optim.lamb import Lamb


def slow_lamb(theta: np.ndarray, gradients: list[np.ndarray], *, lr: float, decay: float) -> np.ndarray:
    """Algorithm 2 of the paper in float64, with bias correction; vectors without trust ratio and decay."""
    m, v, one, two, eps = np.zeros_like(theta), np.zeros_like(theta), 0.9, 0.999, 1e-6
    for t, g in enumerate(gradients, 1):
        m, v = one * m + (1 - one) * g, two * v + (1 - two) * g * g
        r = (m / (1 - one**t)) / (np.sqrt(v / (1 - two**t)) + eps)
        if theta.ndim > 1:
            r = r + decay * theta
            size, length = np.sqrt((theta**2).sum()), np.sqrt((r**2).sum())
            r = r * (size / length if size and length else 1.0)
        theta = theta - lr * r
    return theta


@pytest.mark.parametrize("shape", [(5, 3), (4,), (2, 3, 2)])
def test_it_is_the_algorithm_of_the_paper(shape):
    random = np.random.default_rng(1)
    theta, gradients = random.normal(size=shape), [random.normal(size=shape) for _ in range(7)]
    parameter = nn.Parameter(torch.from_numpy(theta.copy()))
    optimiser = Lamb([parameter], lr=0.02, weight_decay=0.1)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimiser.step()
    wanted = slow_lamb(theta, gradients, lr=0.02, decay=0.1)
    np.testing.assert_allclose(parameter.detach().numpy(), wanted, rtol=1e-9, atol=1e-12)
    assert np.abs(wanted - theta).max() > 0.01


def test_weights_of_zero_move_and_without_a_gradient_nothing_does():
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad = torch.ones(2, 2)
    Lamb([zero, still], lr=0.1).step()
    assert torch.allclose(zero, torch.full((2, 2), -0.1), atol=1e-5)
    assert torch.equal(still, torch.ones(2, 2))


def test_state_goes_through_a_checkpoint_exactly():
    def moved(parameter: nn.Parameter, optimiser: Lamb, steps: range) -> None:
        for step in steps:
            parameter.grad = torch.full((3, 2), 0.1 * step)
            optimiser.step()

    whole = nn.Parameter(torch.ones(3, 2))
    moved(whole, Lamb([whole]), range(6))
    half = nn.Parameter(torch.ones(3, 2))
    first = Lamb([half])
    moved(half, first, range(3))
    second = Lamb([half])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    moved(half, second, range(3, 6))
    assert torch.equal(whole, half)


@pytest.mark.parametrize("odd", [{"lr": 0.0}, {"betas": (1.0, 0.9)}, {"eps": 0.0}, {"weight_decay": -1.0}])
def test_options_out_of_range_are_refused(odd):
    with pytest.raises(InputError, match="the rate and eps are above 0"):
        Lamb([nn.Parameter(torch.ones(1))], **odd)
