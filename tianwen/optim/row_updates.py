"""Embedding rows whose token did not occur: left alone, stepped less and less, or left to Adam.

Post: 9736 (remedies 1 and 3), 6869 (lazy rows)

A sign has no size: a row whose gradient is 0 goes on being moved by whole steps while its momentum is not 0, until it
sits at 1/lam. Rules, for a row that was last touched (had a gradient other than 0) `age` windows ago:
    plain   as any other weight: the drift
    lazy    moved only in windows that touch it
    stale   its step is multiplied by beta^age, so that an occurrence moves it by 1 / (1 - beta) steps in all: as far as
            a momentum of ordinary SGD would
    adam    Adam's direction in the place of the sign; its step dies out with the gradient

State, [rows] each: age, -1 where the window at hand has touched the row. The momentum of untouched rows is not written:
its decay is made up for when the row is next touched, m <- beta^age m, and a sign does not see the difference.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tianwen.optim.shards import local
from tianwen.optim.work import Work

FORGOTTEN = 1e-8
"""beta^age below this counts as 0: the step would be lost in rounding anyway."""


def touched_rows(g: Tensor) -> Tensor:
    """Indices [touched] of the rows of g [rows, ...] that are not all 0."""
    return (g != 0).flatten(1).any(dim=1).nonzero()[:, 0]


def absorb_rows(work: Work, *, look: float, beta: float) -> Tensor | None:
    """Put the gradient of the touched rows into their momentum. Gives Lion's blend [rows, ...], None for Tiger."""
    grad, m, age = work.grad, work.momentum, local(work.state["age"])
    assert grad is not None
    if grad.layout == torch.sparse_coo:
        indices, values = grad._indices()[0], grad._values()  # [stored], [stored, ...]
        here = touched_rows(values)
        rows, g = indices[here], values[here]
    else:
        rows = touched_rows(grad)
        g = grad[rows]
    g = g.to(m.dtype)
    old = age[rows]
    late = _power(beta, old.clamp(min=0)).to(m.dtype).view(-1, *[1] * (m.ndim - 1))  # [touched, 1, ...]
    before = m[rows] * late
    decay = torch.where(old < 0, 1.0, torch.full_like(old, beta, dtype=torch.float64)).to(m.dtype).view(late.shape)
    direction = None
    if look != beta:
        direction = m.clone()
        direction[rows] = look * before + (1 - look) * work.share * g
    m[rows] = decay * before + (1 - beta) * work.share * g
    age[rows] = -1
    return direction


def row_factors(work: Work, beta: float) -> Tensor:
    """Close the window: what each row's step is multiplied by, [rows, 1, ...]."""
    age = local(work.state["age"])
    age.add_(1).clamp_(max=1 << 30)
    factors = (age == 0).float() if work.update == "lazy" else _power(beta, age)
    return factors.to(work.momentum.dtype).view(-1, *[1] * (work.momentum.ndim - 1))


def _power(beta: float, age: Tensor) -> Tensor:
    if beta == 0:
        return (age == 0).double()
    factors = torch.exp(age.double() * math.log(beta))
    return torch.where(factors < FORGOTTEN, 0.0, factors)


def adam_absorb(work: Work) -> None:
    """Add this micro-step's share of the gradient; squares need the whole window's, so it is summed first."""
    g = work.dense_grad() * work.share
    if "grad_sum" in work.state:
        local(work.state["grad_sum"]).add_(g)
    else:
        work.state["grad_sum"] = g


def adam_direction(work: Work) -> Tensor:
    """Close the window: Adam's m / (sqrt(v) + eps), both corrected for their start at 0."""
    group, state, m, v = work.group, work.state, work.momentum, local(work.state["exp_avg_sq"])
    beta1, beta2 = group["adam_betas"]
    g = local(state["grad_sum"])
    state["updates"] += 1
    m.lerp_(g, 1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    v.clamp_(max=torch.finfo(v.dtype).max)  # the square of a huge gradient must not stay infinite for ever
    m_hat = m / (1 - beta1 ** state["updates"])
    v_hat = v / (1 - beta2 ** state["updates"])
    if group["accumulate"] > 1:
        g.zero_()
    else:
        del state["grad_sum"]
    return m_hat / (v_hat.sqrt() + group["adam_eps"])
