"""Rows without a gradient: the drift that the post describes, and each remedy's promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tianwen.optim.lion import Lion
from tianwen.optim.tiger import Tiger

WAYS: list[dict[str, Any]] = [{}, {"fused": False}, {"fused": False, "foreach": True}]
every_way = pytest.mark.parametrize("way", WAYS)


def table(rule: str, way: dict[str, Any], optimiser: Any = Tiger, **options: Any) -> tuple[nn.Parameter, Any]:
    p = nn.Parameter(torch.randn(3, 8, dtype=torch.float64) * 0.02)
    return p, optimiser([{"params": [p], "kind": "embedding"}], embedding_update=rule, **options, **way)


def touch(p: nn.Parameter, optimiser: Any, row: int | None) -> None:
    p.grad = torch.zeros_like(p)
    if row is not None:
        p.grad[row] = torch.sign(torch.arange(8) - 3.5)
    optimiser.step()


@every_way
def test_the_drift_of_a_silent_row_follows_the_logistic_law(way):
    p, tiger = table("plain", way, lr=0.05)
    p.data[0] = -0.02 * torch.sign(torch.arange(8) - 3.5)  # along the step: the law holds from the start
    touch(p, tiger, 0)
    for _ in range(119):
        touch(p, tiger, None)
    rms, wall = 0.02, 100.0
    for _ in range(120):
        rms += 0.05 * rms * (1 - rms / wall)  # the logistic law, step by step: up 340 times in 120 steps
    torch.testing.assert_close(p[0].detach().abs(), torch.full((8,), rms, dtype=torch.float64))


@every_way
@pytest.mark.parametrize("optimiser", [Tiger, Lion])
def test_lazy_leaves_untouched_rows_bit_for_bit(way, optimiser):
    p, o = table("lazy", way, optimiser, weight_decay=0.1)
    before = p.detach().clone()
    touch(p, o, 0)
    moved = p.detach().clone()
    for _ in range(20):
        touch(p, o, 1)
    assert torch.equal(p[2], before[2])
    assert torch.equal(p[0], moved[0])
    assert not torch.equal(p[0], before[0])


@every_way
def test_lazy_momentum_decays_while_a_row_is_silent(way):
    p, tiger = table("lazy", way)
    touch(p, tiger, 0)
    m = tiger.state[p]["exp_avg"][0].clone()
    for _ in range(4):
        touch(p, tiger, None)
    touch(p, tiger, 0)
    torch.testing.assert_close(tiger.state[p]["exp_avg"][0], 0.965**5 * m + 0.035 * p.grad[0])


@every_way
def test_stale_moves_an_occurrence_by_what_a_momentum_would(way):
    p, tiger = table("stale", way, beta=0.75, weight_decay=0.0, relative=False, lr=1e-4)
    before = p.detach().clone()
    touch(p, tiger, 0)
    for _ in range(70):
        touch(p, tiger, None)
    expected = torch.full((8,), 1e-4 / 0.25, dtype=torch.float64)  # 1 + .75 + .75^2 + ... = 1 / (1 - beta)
    torch.testing.assert_close((p - before)[0].abs(), expected, rtol=1e-6, atol=0.0)
    assert torch.equal(p[1:], before[1:])
    still = p.detach().clone()
    touch(p, tiger, None)
    assert torch.equal(p, still)  # forgotten: not one bit moves any more


@every_way
def test_frequent_rows_are_stepped_by_every_rule_alike(way):
    ends = []
    for rule in ("plain", "lazy", "stale"):
        torch.manual_seed(1)
        p, tiger = table(rule, way)
        for _ in range(10):
            p.grad = torch.randn_like(p)
            tiger.step()
        ends.append(p.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-14, atol=0.0)
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-14, atol=0.0)


@every_way
def test_adam_on_embeddings_steps_like_adam(way):
    p, tiger = table("adam", way, relative=False, weight_decay=0.0)
    q = nn.Parameter(p.detach().clone())
    adam = torch.optim.Adam([q], lr=1e-3)
    for row in (0, 1, 0, None, 2):
        touch(p, tiger, row)
        q.grad = p.grad.clone()
        adam.step()
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-15)


@every_way
def test_without_kinds_the_rule_holds_for_every_matrix(way):
    p = nn.Parameter(torch.randn(3, 4))
    tiger = Tiger([p], embedding_update="lazy", **way)
    before = p.detach().clone()
    p.grad = torch.zeros(3, 4)
    p.grad[1] = 1
    tiger.step()
    assert torch.equal(p[0], before[0])
    rate = 1e-3 * before.square().mean().sqrt()  # of the whole matrix: nobody said that rows are tokens
    torch.testing.assert_close(p[1].detach(), before[1] - rate * (1 + 0.01 * before[1]))


def test_experts_are_rows_too():
    p = nn.Parameter(torch.randn(4, 3, 5))
    tiger = Tiger([{"params": [p], "kind": "embedding"}], embedding_update="lazy")
    before = p.detach().clone()
    p.grad = torch.zeros_like(p)
    p.grad[2, 0, 0] = 1
    tiger.step()
    assert torch.equal(p[[0, 1, 3]], before[[0, 1, 3]])
    rate = 1e-3 * before[2].square().mean().sqrt()
    expected = before[2] - rate * (p.grad[2] + 0.01 * before[2])
    torch.testing.assert_close(p[2].detach(), expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", ["lazy", "stale"])
def test_lion_blends_a_row_with_what_is_left_of_its_momentum(way, rule):
    row = nn.Parameter(torch.ones(2, 4))
    optimiser = Lion([{"params": [row], "kind": "embedding"}], betas=(0.9, 0.5), embedding_update=rule, **way)
    for sign in (1.0, 0.0, 0.0, 0.0):
        row.grad = torch.zeros(2, 4)
        row.grad[0] = sign
        optimiser.step()
    before = row.detach().clone()
    row.grad = torch.zeros(2, 4)
    row.grad[0] = -1  # .9 of a momentum of .5^4 is less than .1 of the gradient, .9 of .5 would be more
    optimiser.step()
    assert (row[0] > before[0]).all()


@every_way
def test_a_rule_changed_in_the_middle_knows_which_rows_were_moving(way):
    p, o = table("plain", way)
    touch(p, o, 0)
    o.param_groups[0]["embedding_update"] = "lazy"
    touch(p, o, None)
    age = o.state[p]["age"]
    assert age.flatten()[0] != age.flatten()[2]  # row 0 had a momentum, row 2 never moved
    assert age.flatten()[1] == age.flatten()[2]
