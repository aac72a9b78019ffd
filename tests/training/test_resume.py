"""A resumed run is bit for bit the run that was never stopped."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tianwen.errors import TrainingError
from tianwen.optim.schedule import cosine
from tianwen.training import FitSettings, fit, in_batches


def examples() -> list[tuple[list[float], float]]:
    numbers = np.random.default_rng(5)
    return [(numbers.normal(size=4).tolist(), float(numbers.normal())) for _ in range(23)]


def collate(chosen: list[tuple[list[float], float]], noise: np.random.Generator) -> dict[str, Tensor]:
    x = torch.tensor([x for x, _ in chosen]) + torch.from_numpy(noise.normal(0, 0.01, (len(chosen), 4))).float()
    return {"x": x, "y": torch.tensor([y for _, y in chosen])}


def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Uses the global generators of random, numpy and torch (dropout)."""
    shake = 1 + 0.01 * random.random() + 0.01 * float(np.random.rand())
    loss = ((model(batch["x"])[:, 0] - batch["y"]) ** 2).mean() * shake
    return loss, {"tokens": 4.0 * len(batch["y"]), "shake": shake}


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def run(folder: Path, **changes: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    model, optimiser = make()
    options = {"steps": 24, "ema_decay": 0.9, "checkpoint_every": 5, "log_every": 7, "accumulate": 2, "leave": "last"}
    fit(
        model,
        loss_fn,
        in_batches(examples(), collate, size=5, seed=2),
        optimiser=optimiser,
        schedule=cosine(60, warmup=5),
        settings=FitSettings(**(options | changes)),
        folder=folder,
    )
    return model, optimiser


def lines(folder: Path) -> list[dict[str, Any]]:
    known = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second")} for line in known]


def test_resumed_is_the_run_never_stopped(tmp_path: Path) -> None:
    whole, whole_optimiser = run(tmp_path / "a")
    run(tmp_path / "b", steps=9)
    run(tmp_path / "b", steps=17)
    parts, parts_optimiser = run(tmp_path / "b")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    for a, b in zip(whole_optimiser.state.values(), parts_optimiser.state.values(), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert lines(tmp_path / "a")[-1] == lines(tmp_path / "b")[-1]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    run(tmp_path, steps=5)
    with pytest.raises(TrainingError, match="accumulate was 2, is 1"):
        run(tmp_path, accumulate=1)
