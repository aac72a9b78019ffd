"""Stopped and resumed at any micro-step, through a file, a run goes on to the same bits; and within `fit`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tianwen.errors import InputError
from tianwen.optim.lion import Lion
from tianwen.optim.param_groups import param_groups_for
from tianwen.optim.schedule import cosine
from tianwen.optim.tiger import Tiger
from tianwen.training import FitSettings, fit, in_batches


def model_of(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(12, 6), nn.LayerNorm(6), nn.Linear(6, 3)).to(dtype)


def give_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for name, p in model.named_parameters():
        g = torch.randn(p.shape, generator=generator).to(p.dtype)
        if name == "0.weight":
            g[torch.rand(len(g), generator=generator) < 0.7] = 0
        if step in (2, 5) and name == "2.bias":
            g[0] = float("nan")
        p.grad = None if step % 4 == 1 and name == "1.bias" else g


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("way", [{}, {"fused": False, "foreach": True}])
@pytest.mark.parametrize("rule", ["plain", "lazy", "stale", "adam"])
@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [
        (torch.float32, "stochastic"),
        (torch.float64, "stochastic"),
        (torch.bfloat16, "stochastic"),
        (torch.bfloat16, "master"),
    ],
)
def test_resumed_bit_for_bit_in_the_middle_of_a_window(way, rule, dtype, rounding):
    def build() -> tuple[nn.Module, Tiger]:
        model = model_of(dtype)
        options = {"accumulate": 3, "embedding_update": rule, "rounding": rounding, "lr": 0.01, **way}
        return model, Tiger(param_groups_for(model), **options)

    straight, tiger = build()
    for step in range(9):
        give_gradients(straight, step)
        tiger.step()
    model, tiger_a = build()
    for step in range(4):
        give_gradients(model, step)
        tiger_a.step()
    saved = through_a_file({"model": model.state_dict(), "tiger": tiger_a.state_dict()})
    again, tiger_b = build()
    again.load_state_dict(saved["model"])
    tiger_b.load_state_dict(saved["tiger"])
    for step in range(4, 9):
        give_gradients(again, step)
        tiger_b.step()
    for (name, a), b in zip(straight.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
        for key, value in tiger.state[a].items():
            other = tiger_b.state[b][key]
            assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, (name, key)
            assert not isinstance(value, Tensor) or value.dtype == other.dtype
    assert tiger.nonfinite_counts() == tiger_b.nonfinite_counts() == {"2.bias": 2}


def examples() -> list[tuple[int, float]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (int(torch.randint(12, (), generator=generator)), float(torch.randn((), generator=generator)))
        for _ in range(24)
    ]


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]).sum(-1) - batch[1]).square().mean()


def collate(chosen: list[tuple[int, float]], _random: Any) -> tuple[Tensor, Tensor]:
    return torch.tensor([token for token, _ in chosen]), torch.tensor([y for _, y in chosen], dtype=torch.float64)


def train(folder: Path, make: Any, **settings: Any) -> nn.Module:
    model = model_of(torch.float64)
    fit(
        model,
        loss_fn,
        in_batches(examples(), collate, size=4, seed=1),
        optimiser=make(model),
        settings=FitSettings(clip_norm=None, checkpoint_every=3, **settings),
        folder=folder,
    )
    return model


def test_within_fit_accumulation_in_the_optimiser_is_that_of_the_loop(tmp_path):
    inside = train(tmp_path / "a", lambda m: Tiger(param_groups_for(m), lr=0.01, accumulate=2), steps=12)
    outside = train(tmp_path / "b", lambda m: Tiger(param_groups_for(m), lr=0.01), steps=6, accumulate=2)
    for a, b in zip(inside.parameters(), outside.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: Tiger(param_groups_for(m), lr=0.01, accumulate=2, embedding_update="stale"),
        lambda m: Lion(param_groups_for(m), lr=0.001, embedding_update="lazy"),
        lambda m: Tiger(param_groups_for(m), lr=0.01, embedding_update="adam"),
    ],
)
def test_fit_resumes_it_bit_for_bit(tmp_path, make):
    straight = train(tmp_path / "straight", make, steps=10)
    train(tmp_path / "stopped", make, steps=5)  # in the middle of a window of two
    again = train(tmp_path / "stopped", make, steps=10)
    for a, b in zip(straight.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_fit_lets_the_optimiser_shrink_what_is_not_finite(tmp_path):
    def bad_once(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss = loss_fn(model, batch)
        bad_once.calls += 1  # type: ignore[attr-defined]
        return loss * (float("inf") if bad_once.calls == 2 else 1)  # type: ignore[attr-defined]

    bad_once.calls = 0  # type: ignore[attr-defined]
    model = model_of(torch.float64)
    tiger = Tiger(param_groups_for(model))
    settings = FitSettings(steps=4, clip_norm=None, nonfinite="pass")
    batches = in_batches(examples(), collate, size=4, seed=1)
    result = fit(model, bad_once, batches, optimiser=tiger, settings=settings, folder=tmp_path, schedule=cosine(10))
    assert result.skipped == 0
    assert sum(tiger.nonfinite_counts().values()) == 5
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_state_of_another_lion_can_be_loaded():
    p, q = nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.ones(3))
    lion = Lion([p, q], lr=0.1, nonfinite="skip")
    theirs = {
        "state": {0: {"exp_avg": torch.ones(3, 4)}},
        "param_groups": [{"lr": 0.2, "betas": (0.5, 0.9), "weight_decay": 0.0, "params": [0, 1]}],
    }
    lion.load_state_dict(theirs)
    assert lion.param_groups[0]["nonfinite"] == "skip"
    p.grad = torch.zeros(3, 4)
    lion.step()
    torch.testing.assert_close(p.detach(), torch.full((3, 4), -0.2))
    torch.testing.assert_close(lion.state[p]["exp_avg"], torch.full((3, 4), 0.9))


@pytest.mark.parametrize("rule", ["lazy", "stale", "adam"])
def test_the_rule_for_embeddings_can_be_changed_in_a_running_training(rule):
    model = model_of(torch.float32)
    tiger = Tiger(param_groups_for(model), accumulate=2)
    for step in range(9):
        if step == 4:
            for group in tiger.param_groups:
                group["embedding_update"] = rule
        give_gradients(model, step)
        tiger.step()
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("way", [{}, {"fused": False}])
def test_state_of_another_shape_is_refused_before_anything_is_written(way):
    p = nn.Parameter(torch.ones(3, 4))
    tiger = Tiger([("table", p)], **way)
    p.grad = torch.ones(3, 4)
    tiger.step()
    p.grad = None
    p.data = torch.ones(300, 4)
    p.grad = torch.ones(300, 4)
    with pytest.raises(InputError, match="table has the shape \\(300, 4\\), its momentum \\(3, 4\\)"):
        tiger.step()


def test_the_same_groups_serve_two_optimisers():
    groups = param_groups_for(model_of(torch.float32))
    Tiger(groups, lr=0.5)
    assert Lion(groups, lr=0.25).param_groups[0]["lr"] == 0.25
