"""The loop against loops written by hand, and its guards against runs that go wrong."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tianwen.errors import InputError, MissingExtra, TrainingError
from tianwen.optim.ema import Ema
from tianwen.optim.schedule import constant, cosine, piecewise_linear
from tianwen.training import FitResult, FitSettings, FromFunction, fit, load_weights
from tianwen.training.checkpoint import Checkpoints


def numbers(index: int, size: int = 8) -> tuple[Tensor, Tensor]:
    chance = np.random.default_rng(index)
    x = torch.from_numpy(chance.normal(size=(size, 3)))
    return x, x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.1


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0])[:, 0] - batch[1]).square().mean()


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(3, 1).double()


def run(folder: Path, model: nn.Module, *, loss: Any = loss_fn, rate: float = 0.05, **options: Any) -> FitResult:
    settings = {"steps": 20, "log_every": 5, "checkpoint_every": 5}
    outer = {
        key: options.pop(key) for key in ("evaluate", "before_step", "schedule", "batches", "resume") if key in options
    }
    batches = outer.pop("batches", lambda index, rank, world: numbers(index))
    optimiser = torch.optim.SGD(model.parameters(), lr=rate)
    return fit(
        model,
        loss,
        FromFunction(batches),
        optimiser=optimiser,
        settings=FitSettings(**(settings | options)),
        folder=folder,
        **outer,
    )


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_it_is_the_loop_written_by_hand(tmp_path: Path):
    fitted, by_hand = linear(), linear()
    optimiser = torch.optim.SGD(by_hand.parameters(), lr=0.05)
    factor = cosine(20, warmup=4)
    losses = []
    for t in range(1, 21):
        optimiser.param_groups[0]["lr"] = 0.05 * factor(t)
        optimiser.zero_grad()
        loss = loss_fn(by_hand, numbers(t - 1))
        loss.backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), math.inf)
        optimiser.step()
        losses.append(float(loss.detach()))
    result = run(tmp_path, fitted, schedule=factor, clip_norm=None)
    assert equal(fitted, by_hand)
    lines = log(tmp_path)
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert lines[1]["loss"] == pytest.approx(np.mean(losses[5:10]))
    assert lines[1]["lr"] == pytest.approx(0.05 * factor(10))
    assert result.step == 20
    assert result.loss == lines[-1]["loss"]
    assert lines[0]["seconds"] <= lines[-1]["seconds"] <= result.seconds + 0.001  # rounded in the log


def test_accumulated_parts_are_one_batch_whatever_their_sizes(tmp_path: Path):
    def part(index: int, rank: int, world: int) -> tuple[Tensor, Tensor]:
        x, y = numbers(index // 2)
        return (x[:2], y[:2]) if index % 2 == 0 else (x[2:], y[2:])

    def weighted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return loss_fn(model, batch), {"weight": len(batch[1]), "mean": model.weight.mean()}

    whole, parts, unweighted = linear(), linear(), linear()
    run(tmp_path / "whole", whole, clip_norm=0.5)
    run(tmp_path / "parts", parts, loss=weighted, batches=part, accumulate=2, clip_norm=0.5)
    run(tmp_path / "unweighted", unweighted, batches=part, accumulate=2, clip_norm=0.5)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-12, atol=1e-12)
    assert log(tmp_path / "parts")[0]["loss"] == pytest.approx(log(tmp_path / "whole")[0]["loss"], rel=1e-12)
    assert log(tmp_path / "parts")[0]["grad_norm"] == pytest.approx(log(tmp_path / "whole")[0]["grad_norm"], rel=1e-12)
    assert not torch.allclose(unweighted.weight, whole.weight, rtol=1e-6)


def test_clipping_is_torchs(tmp_path: Path):
    fitted, by_hand = linear(), linear()
    optimiser = torch.optim.SGD(by_hand.parameters(), lr=0.05)
    for step in range(20):
        optimiser.zero_grad()
        loss_fn(by_hand, numbers(step)).backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.3)
        optimiser.step()
    run(tmp_path, fitted, clip_norm=0.3)
    torch.testing.assert_close(fitted.weight, by_hand.weight, rtol=1e-5, atol=1e-6)  # torch divides by |g| + 1e-6


def test_batches_with_nothing_to_learn_from_change_nothing(tmp_path: Path):
    def only_even(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        if len(batch[1]) == 0:
            return batch[1].mean() * model.weight.sum(), {"weight": 0}  # the mean of nothing is not a number
        return loss_fn(model, batch), {"weight": len(batch[1])}

    fitted = linear()
    with_gaps = lambda index, rank, world: numbers(index // 2, 8 if index % 2 == 0 else 0)  # noqa: E731
    result = run(tmp_path, fitted, loss=only_even, batches=with_gaps, accumulate=2, steps=10)
    whole = linear()
    run(tmp_path / "whole", whole, steps=10)
    torch.testing.assert_close(fitted.weight, whole.weight, rtol=1e-12, atol=1e-12)
    assert result.skipped == 0
    alone = linear()
    assert run(tmp_path / "alone", alone, loss=only_even, batches=lambda *_: numbers(0, 0), steps=3).skipped == 0
    assert equal(alone, linear())


def test_the_average_is_evaluated_and_left_and_training_goes_on_with_the_weights(tmp_path: Path):
    seen: list[Tensor] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        torch.rand(3), random.random(), np.random.rand()  # must not disturb the training
        seen.append(model.weight.detach().clone())
        return {"error": float(loss_fn(model, numbers(999)))}

    averaged, plain = linear(), linear()
    result = run(tmp_path / "a", averaged, ema_decay=0.9, evaluate=evaluate, evaluate_every=8)
    ema, model = Ema(plain, 0.9), plain
    run(tmp_path / "b", model, before_step=lambda t: ema.update() if t > 1 else None)
    ema.update()
    assert len(seen) == 3  # after 8, 16 and the last
    assert torch.equal(averaged.weight, seen[-1])
    torch.testing.assert_close(averaged.weight.detach(), ema.average["weight"])
    assert not averaged.training
    assert result.evaluation["error"] == pytest.approx(loss_fn(averaged, numbers(999)).item())
    evaluations = [line for line in log(tmp_path / "a") if "evaluation" in line]
    assert [line["step"] for line in evaluations] == [8, 16, 20]


def test_the_best_weights_are_kept_and_left(tmp_path: Path):
    scores = iter([0.2, 0.9, float("nan"), 0.5, 0.9])
    weights: list[Tensor] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        weights.append(model.weight.detach().clone())
        return {"f1": next(scores)}

    model = linear()
    result = run(tmp_path, model, evaluate=evaluate, evaluate_every=4, keep_best="f1", checkpoint_every=99)
    assert (result.best, result.best_step) == (0.9, 8)
    assert torch.equal(model.weight, weights[1])
    assert Checkpoints(tmp_path).steps() == [8, 20]  # saved with the best, and at the end
    kept = load_weights(tmp_path / "best.safetensors")
    assert kept.metadata == {"step": 8, "evaluation": {"f1": 0.9}}
    assert torch.equal(kept.tensors["weight"], weights[1])


def test_lowest_is_best_with_a_minus_and_patience_ends_the_run(tmp_path: Path):
    scores = iter([3.0, 2.0, 2.5, 2.1, 0.0])
    model = linear()
    options = {"evaluate_every": 2, "keep_best": "-loss", "patience": 2}
    result = run(tmp_path, model, evaluate=lambda m: {"loss": next(scores)}, **options)
    assert (result.best, result.best_step, result.step) == (2.0, 4, 8)
    again = run(tmp_path, linear(), evaluate=lambda m: {"loss": next(scores)}, **options)
    assert again.step == 8


def test_before_step_hears_the_number_of_the_update(tmp_path: Path):
    heard: list[int] = []
    run(tmp_path, linear(), steps=3, before_step=heard.append)
    run(tmp_path, linear(), steps=5, before_step=heard.append)
    assert heard == [1, 2, 3, 4, 5]


def test_learning_rates_are_given_back(tmp_path: Path):
    model = linear()
    optimiser = torch.optim.SGD(
        [{"params": [model.weight]}, {"params": [model.bias], "lr": torch.tensor(0.5)}], lr=0.1, foreach=False
    )
    source = FromFunction(lambda index, rank, world: numbers(index))
    settings = FitSettings(steps=4)
    fit(model, loss_fn, source, optimiser=optimiser, settings=settings, folder=tmp_path, schedule=cosine(4))
    assert [float(group["lr"]) for group in optimiser.param_groups] == [0.1, 0.5]


def test_bf16_learns_and_keeps_fp32_weights(tmp_path: Path):
    kinds: set[torch.dtype] = set()

    def watched(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        out = model(batch[0].float())
        kinds.add(out.dtype)
        return (out[:, 0].float() - batch[1].float()).square().mean()

    model = linear().float()
    result = run(tmp_path, model, loss=watched, precision="bf16", steps=60, log_every=20)
    assert kinds == {torch.bfloat16}
    assert model.weight.dtype == torch.float32
    assert result.loss < 0.1 * log(tmp_path)[0]["loss"]


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path):
    expected = [torch.rand(1).item(), random.random(), np.random.rand()]
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    model = nn.Linear(3, 1).double()  # draws from torch's generator
    torch.manual_seed(0)
    run(tmp_path, model)
    assert [torch.rand(1).item(), random.random(), np.random.rand()] == expected


def poisoned(when: Callable[[int], bool], *, rate_below: float = 0.0) -> tuple[Any, list[int]]:
    """A loss that is nan at the steps told, and the list of those steps as they come."""
    met: list[int] = []
    now = [0]

    def poison(model: nn.Module, batch: tuple[int, tuple[Tensor, Tensor]]) -> Tensor:
        now[0] = batch[0]
        if when(batch[0]):
            met.append(batch[0])
            return loss_fn(model, batch[1]) * float("nan")
        return loss_fn(model, batch[1])

    return poison, met


def tagged(index: int, rank: int, world: int) -> tuple[int, tuple[Tensor, Tensor]]:
    return index, numbers(index)


def test_a_poisoned_step_is_skipped(tmp_path: Path):
    poison, _ = poisoned(lambda step: step in (3, 7))
    fitted, by_hand = linear(), linear()
    result = run(tmp_path, fitted, loss=poison, batches=tagged, clip_norm=None)
    optimiser = torch.optim.SGD(by_hand.parameters(), lr=0.05)
    for step in set(range(20)) - {3, 7}:
        optimiser.zero_grad()
        loss_fn(by_hand, numbers(step)).backward()
        optimiser.step()
    assert equal(fitted, by_hand)
    assert (result.skipped, result.rollbacks) == (2, 0)
    assert [line["step"] for line in log(tmp_path) if line.get("event") == "skipped"] == [4, 8]
    assert [line["loss"] for line in log(tmp_path) if line.get("event") == "skipped"] == [None, None]


def test_an_infinite_gradient_counts_as_poison(tmp_path: Path):
    def steep(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model.weight - model.weight.detach()).abs().sqrt().sum() + 1  # finite loss, infinite slope

    model = linear()
    with pytest.raises(TrainingError, match="not finite for 3 steps in a row, up to step 3"):
        run(tmp_path, model, loss=steep, skip_limit=3)
    assert equal(model, linear())


def test_poison_in_a_row_rolls_back_with_half_the_rate(tmp_path: Path):
    poison, met = poisoned(lambda step: 12 <= step < 15 and met.count(step) < 1)
    model = linear()
    result = run(tmp_path, model, loss=poison, batches=tagged, skip_limit=3, schedule=constant())
    assert met == [12, 13, 14]
    assert (result.step, result.skipped, result.rollbacks) == (20, 3, 1)
    rollback = next(line for line in log(tmp_path) if line.get("event") == "rollback")
    assert (rollback["step"], rollback["to"], rollback["rate"]) == (15, 10, 0.5)
    assert log(tmp_path)[-1]["lr"] == pytest.approx(0.025)


def test_a_checkpoint_that_leads_to_poison_again_is_passed_over(tmp_path: Path):
    poison, met = poisoned(lambda step: 12 <= step < 15 and met.count(step) < 2)
    result = run(tmp_path, linear(), loss=poison, batches=tagged, skip_limit=3)
    assert [line["to"] for line in log(tmp_path) if line.get("event") == "rollback"] == [10, 5]
    assert (result.step, result.rollbacks) == (20, 2)


def test_a_run_that_stays_poisoned_gives_up_with_a_sentence(tmp_path: Path):
    poison, met = poisoned(lambda step: step >= 7)
    with pytest.raises(TrainingError, match=r"after 2 roll-backs. Lower the learning rate"):
        run(tmp_path, linear(), loss=poison, batches=tagged, skip_limit=2, rollback_limit=2)
    assert met == [7, 8] * 3
    assert [line["event"] for line in log(tmp_path) if "event" in line].count("rollback") == 2


def test_passing_poison_on_is_a_choice(tmp_path: Path):
    poison, _ = poisoned(lambda step: step == 3)
    model = linear()
    result = run(tmp_path, model, loss=poison, batches=tagged, nonfinite="pass", clip_norm=None)
    assert result.skipped == 0
    assert bool(model.weight.isnan().all())


@pytest.mark.parametrize(
    "options",
    [
        {"steps": -1},
        {"accumulate": 0},
        {"clip_norm": 0.0},
        {"ema_decay": 1.0},
        {"patience": 3},
        {"leave": "best"},
        {"leave": "average"},
        {"keep_best": "f1"},
        {"log_every": 0},
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any]):
    with pytest.raises(InputError):
        run(tmp_path, linear(), **options)


def test_a_best_value_that_evaluate_does_not_give(tmp_path: Path):
    with pytest.raises(InputError, match="gave precision, recall"):
        run(tmp_path, linear(), evaluate=lambda m: {"recall": 1.0, "precision": 1.0}, keep_best="f1", steps=1)


@pytest.mark.parametrize("wrong", [lambda m, b: 3.0, lambda m, b: m(b[0])])
def test_a_loss_that_is_not_one_number(tmp_path: Path, wrong: Any):
    with pytest.raises(TrainingError, match="tensor of one element"):
        run(tmp_path, linear(), loss=wrong)


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(MissingExtra, match=r"tianwen\[logs\]"):
        run(tmp_path, linear(), tensorboard=True)


def test_zero_steps_and_a_piecewise_schedule(tmp_path: Path):
    model = linear()
    assert run(tmp_path, model, steps=0).step == 0
    assert run(tmp_path, model, steps=2, schedule=piecewise_linear({2: 1.0})).step == 2
