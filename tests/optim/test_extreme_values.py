"""Sign optimisers where numbers end: huge weights and gradients, weights that are not finite, nothing at all."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from tianwen.optim import Tiger

WAYS: list[dict[str, Any]] = [{}, {"fused": False}, {"fused": False, "foreach": True}]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["matrix", "embedding"])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 2e19), (torch.float32, 3e38), (torch.bfloat16, 1e30)])
def test_weights_whose_squares_overflow_come_back(way, kind, dtype, size):
    p = nn.Parameter(torch.full((4, 3), size, dtype=dtype))
    optimiser = Tiger([{"params": [p], "kind": kind}], **way)
    for _ in range(60):
        p.grad = torch.ones_like(p)
        optimiser.step()
    assert p.isfinite().all()
    assert p.abs().max() < 101  # within the wall; the rate never exceeds 1 / weight decay


@pytest.mark.parametrize("way", WAYS)
def test_the_size_of_huge_weights_is_right_without_weight_decay(way):
    for kind, dtype in itertools.product(("matrix", "embedding"), (torch.float32, torch.bfloat16)):
        p = nn.Parameter(torch.full((8, 4), 1e25, dtype=dtype))
        p.grad = torch.ones_like(p)
        Tiger([{"params": [p], "kind": kind, "weight_decay": 0.0}], lr=0.25, **way).step()
        torch.testing.assert_close(p.detach().double(), torch.full((8, 4), 7.5e24).double(), rtol=0.01, atol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["matrix", "embedding"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_ruins_no_other(way, kind, bad):
    p = nn.Parameter(torch.ones(4, 3))
    p.data[1, 2] = bad
    p.grad = torch.ones(4, 3)
    Tiger([{"params": [p], "kind": kind}], **way).step()
    assert (~p.isfinite()).sum() == 1
    assert (p < 1).sum() == 11


@pytest.mark.parametrize("way", WAYS)
def test_empty_matrices_by_every_rule_and_within_windows(way):
    found = [nn.Parameter(torch.zeros(0, 4)), nn.Parameter(torch.zeros(4, 0)), nn.Parameter(torch.ones(2, 2))]
    optimiser = Tiger(found, accumulate=2, embedding_update="stale", **way)
    for _ in range(2):
        for p in found:
            p.grad = torch.ones_like(p)
        optimiser.step()
    assert (found[2] < 1).all()


@pytest.mark.parametrize("way", WAYS)
def test_a_micro_step_without_any_gradient_counts_even_if_it_is_the_first(way):
    p = nn.Parameter(torch.ones(2, 2))
    optimiser = Tiger([p], accumulate=2, **way)
    optimiser.step()
    state = optimiser.state_dict()
    optimiser = Tiger([p], accumulate=2, **way)
    optimiser.load_state_dict(state)
    p.grad = torch.ones(2, 2)
    optimiser.step()
    assert (p < 1).all()


def test_a_huge_gradient_does_not_stop_adam_on_embeddings_for_ever():
    p = nn.Parameter(torch.ones(2, 2))
    optimiser = Tiger([{"params": [p], "kind": "embedding"}], embedding_update="adam", adam_betas=(0.0, 0.5), lr=0.01)
    p.grad = torch.full((2, 2), 1e30)
    optimiser.step()
    for _ in range(140):  # v halves with every step
        p.grad = torch.ones(2, 2)
        optimiser.step()
    assert (p < 0.99).all()
