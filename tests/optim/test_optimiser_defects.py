"""What the reference and other implementations get wrong, each by name; and gradients that are not finite."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tianwen.errors import TrainingError
from tianwen.optim.lion import Lion
from tianwen.optim.tiger import Tiger

WAYS: list[dict[str, Any]] = [{}, {"fused": False}, {"fused": False, "foreach": True}]
BAD = [math.nan, math.inf, -math.inf]
every_way = pytest.mark.parametrize("way", WAYS)


def steps(optimiser: torch.optim.Optimizer, p: Tensor, gradients: list[Tensor]) -> None:
    for g in gradients:
        p.grad = g.clone()
        optimiser.step()


@every_way
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["matrix", "embedding"])
def test_a_zero_initialised_tensor_moves(way, dtype, kind):
    p = nn.Parameter(torch.zeros(4, 3, dtype=dtype))
    tiger = Tiger([{"params": [p], "kind": kind}], **way)
    steps(tiger, p, [torch.ones(4, 3, dtype=dtype)] * 3)
    assert (p < 0).all()


@every_way
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("optimiser", [Tiger, Lion])
def test_infinities_are_caught_like_nans_and_the_momentum_stays_finite(way, bad, optimiser):
    p, other = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(5, 4))
    o = optimiser([p, other], **way)
    for p_ in (p, other):
        p_.grad = torch.randn(5, 4)
    o.step()
    before, m, beside = p.detach().clone(), o.state[p]["exp_avg"].clone(), other.detach().clone()
    p.grad[2, 1] = bad
    o.step()
    assert torch.equal(o.state[p]["exp_avg"], m)
    torch.testing.assert_close(p.detach(), before * 0.99)
    assert not torch.equal(other, beside)  # only the tensor concerned is kept from its step
    assert o.nonfinite_counts() == {"0": 1}
    p.grad = torch.randn(5, 4)
    after = p.detach().clone()
    o.step()
    assert (p != after).all()  # no weight is frozen for ever
    assert o.state[p]["exp_avg"].isfinite().all()


@every_way
def test_gains_are_shrunk_towards_one_and_the_rest_towards_zero(way):
    gain, bias = nn.Parameter(torch.full((4,), 3.0)), nn.Parameter(torch.full((4,), 3.0))
    tiger = Tiger([{"params": [gain], "kind": "gain"}, {"params": [bias], "kind": "bias"}], shrink=0.9, **way)
    gain.grad = bias.grad = torch.tensor([1.0, math.nan, 1.0, 1.0])
    tiger.step()
    torch.testing.assert_close(gain.detach(), torch.full((4,), 2.8))
    torch.testing.assert_close(bias.detach(), torch.full((4,), 2.7))


@every_way
@pytest.mark.parametrize("planted", [0, 1, 2])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_nan_at_any_micro_step_costs_no_decay_and_no_other_gradient(way, planted, bad, dtype):
    p = nn.Parameter(torch.randn(5, 4, dtype=dtype))
    tiger = Tiger([p], accumulate=3, **way)
    first = [torch.randn(5, 4, dtype=dtype) for _ in range(3)]
    second = [torch.randn(5, 4, dtype=dtype) for _ in range(3)]
    steps(tiger, p, first)
    m = 0.035 * sum(first) / 3
    torch.testing.assert_close(tiger.state[p]["exp_avg"], m)
    good = [g.clone() for i, g in enumerate(second) if i != planted]
    second[planted][0, 0] = bad
    before = p.detach().clone()
    steps(tiger, p, second)
    m = 0.965 * m + 0.035 * sum(good) / 3  # the decay comes once, with whatever micro-step is the first good one
    torch.testing.assert_close(tiger.state[p]["exp_avg"], m)
    theta = before * 0.99
    theta = theta - 1e-3 * theta.square().mean().sqrt() * (m.sign() + 0.01 * theta)
    torch.testing.assert_close(p.detach(), theta)
    assert tiger.nonfinite_counts() == {"0": 1}


@every_way
def test_a_window_without_one_good_gradient_changes_no_momentum_and_steps_no_weight(way):
    p = nn.Parameter(torch.ones(3, 3))
    tiger = Tiger([p], accumulate=2, **way)
    steps(tiger, p, [torch.ones(3, 3)] * 2)
    before, m = p.detach().clone(), tiger.state[p]["exp_avg"].clone()
    steps(tiger, p, [torch.full((3, 3), math.nan)] * 2)
    torch.testing.assert_close(p.detach(), before * 0.99**2)
    assert torch.equal(tiger.state[p]["exp_avg"], m)
    steps(tiger, p, [torch.ones(3, 3)] * 2)
    torch.testing.assert_close(tiger.state[p]["exp_avg"], 0.965 * m + 0.035)


@every_way
def test_skip_leaves_the_tensor_alone_and_raise_leaves_everything_alone(way):
    p, other = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3, 3))
    before = p.detach().clone()
    skip = Tiger([p], nonfinite="skip", **way)
    steps(skip, p, [torch.full((3, 3), math.inf)])
    assert torch.equal(p, before)
    assert skip.nonfinite_counts() == {"0": 1}
    strict = Tiger([("mine", p), ("other", other)], nonfinite="raise", **way)
    beside = other.detach().clone()
    other.grad = torch.ones(3, 3)
    with pytest.raises(TrainingError, match="gradient of mine is not finite"):
        strict.step()
    assert torch.equal(p, before)
    assert torch.equal(other, beside)
    p.grad = torch.ones(3, 3)
    strict.step()
    assert not torch.equal(other, beside)


@pytest.mark.parametrize("rule", ["lazy", "stale", "adam"])
@pytest.mark.parametrize("sparse", [False, True])
def test_embedding_rules_survive_a_nan(rule, sparse):
    table = nn.Embedding(6, 3, sparse=sparse)
    tiger = Tiger([{"params": [table.weight], "kind": "embedding"}], embedding_update=rule)
    for bad in (False, True, False):
        tiger.zero_grad()
        (table(torch.tensor([1, 2])) * (math.nan if bad else 1.0)).sum().backward()
        tiger.step()
    state = tiger.state[table.weight]
    assert all(value.isfinite().all() for value in state.values() if isinstance(value, Tensor))
    assert table.weight.isfinite().all()
    assert tiger.nonfinite_counts() == {"0": 1}


@every_way
def test_rows_touched_in_any_micro_step_of_the_window_are_moved(way):
    p = nn.Parameter(torch.randn(4, 3))
    tiger = Tiger([{"params": [p], "kind": "embedding"}], accumulate=3, embedding_update="lazy", **way)
    before = p.detach().clone()
    gradients = [torch.zeros(4, 3) for _ in range(3)]
    gradients[0][1] = 1.0  # not in the last micro-step's gradient
    gradients[1][2] = 1.0
    steps(tiger, p, gradients)
    assert [bool((row != old).all()) for row, old in zip(p, before, strict=True)] == [False, True, True, False]


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("optimiser", [Tiger, Lion])
@pytest.mark.parametrize("rounding", ["stochastic", "master"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_weights_move_as_far_as_float32_ones(way, optimiser, rounding, dtype):
    lr = {"lr": 1e-3} if optimiser is Tiger else {"lr": 2e-5}
    narrow = nn.Parameter(torch.full((64, 64), 0.02, dtype=dtype))
    wide, stuck = nn.Parameter(narrow.detach().float()), nn.Parameter(narrow.detach().clone())
    start = wide.detach().clone()
    runs = [
        (wide, optimiser([wide], **lr, **way)),
        (narrow, optimiser([narrow], rounding=rounding, **lr, **way)),
        (stuck, optimiser([stuck], rounding="nearest", **lr, **way)),
    ]
    for p, o in runs:
        steps(o, p, [torch.ones(64, 64, dtype=p.dtype)] * 15)
    assert runs[1][1].state[narrow]["exp_avg"].dtype == torch.float32
    reached = runs[1][1].state[narrow]["master"] if rounding == "master" else narrow.float()
    assert (start - reached).mean().item() == pytest.approx((start - wide).mean().item(), rel=0.05)
    assert not torch.equal(narrow.float(), start)
    if dtype == torch.bfloat16:
        assert torch.equal(stuck.float(), start)  # what rounding to nearest does


def test_a_master_copy_gives_way_to_who_wrote_into_the_weights():
    p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    tiger = Tiger([p], rounding="master", lr=0.1)
    steps(tiger, p, [torch.ones(3, dtype=torch.bfloat16)])
    p.data.fill_(5.0)
    steps(tiger, p, [torch.ones(3, dtype=torch.bfloat16)])
    torch.testing.assert_close(tiger.state[p]["master"], torch.full((3,), 4.95))


@pytest.mark.parametrize("rule", ["plain", "lazy", "stale", "adam"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("optimiser", [Tiger, Lion])
def test_sparse_gradients_do_what_dense_ones_do(rule, accumulate, optimiser):
    dense, sparse = nn.Embedding(9, 4), nn.Embedding(9, 4, sparse=True)
    sparse.load_state_dict(dense.state_dict())
    options = {"accumulate": accumulate} if optimiser is Tiger else {}
    optimisers = [
        optimiser([{"params": [table.weight], "kind": "embedding"}], lr=0.01, embedding_update=rule, **options)
        for table in (dense, sparse)
    ]
    for _ in range(7):
        tokens = torch.randint(0, 9, (5,))  # with repetitions: the sparse gradient is not coalesced
        weights = torch.randn(5, 4)
        for table, o in zip((dense, sparse), optimisers, strict=True):
            o.zero_grad()
            (table(tokens) * weights).sum().backward()
            o.step()
    torch.testing.assert_close(dense.weight, sparse.weight, rtol=1e-6, atol=1e-7)


def test_the_users_gradients_are_never_written_to():
    for way in WAYS:
        p = nn.Parameter(torch.randn(4, 4))
        g = torch.randn(4, 4)
        p.grad = g.clone()
        Tiger([p], maximize=True, accumulate=2, **way).step()
        Lion([p], maximize=True, **way).step()
        assert torch.equal(p.grad, g)
