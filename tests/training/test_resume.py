"""A resumed run is bit for bit the run that was never stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tianwen.errors import TrainingError
from tianwen.optim.schedule import cosine
from tianwen.training import FitSettings, TrainingInterrupted, fit, in_batches, interrupts


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


def run(folder: Path, *, before_step: Any = None, **changes: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
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
        before_step=before_step,
    )
    return model, optimiser


def last_files(folder: Path) -> dict[str, bytes]:
    """The tensors of the newest checkpoint: model, optimiser, moving average."""
    newest = max((folder / "checkpoints").iterdir())
    return {file.name: file.read_bytes() for file in newest.glob("*.safetensors")}


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
    assert last_files(tmp_path / "a") == last_files(tmp_path / "b")
    assert last_files(tmp_path / "a").keys() == {"model.safetensors", "optimiser.safetensors", "ema.safetensors"}
    assert lines(tmp_path / "a")[-1] == lines(tmp_path / "b")[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)

    def stop_in_step_12(step: int) -> None:
        if step == 12:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # launchers pass on what the terminal sent already

    with pytest.raises(TrainingInterrupted) as stopped:
        run(tmp_path / "b", before_step=stop_in_step_12)
    assert stopped.value.code == 128 + number
    assert (stopped.value.step, stopped.value.signal, stopped.value.folder) == (12, number, tmp_path / "b")
    assert f"Stopped by {number.name} after step 12." in capsys.readouterr().err
    assert signal.getsignal(number) == before
    run(tmp_path / "b")
    run(tmp_path / "a")
    assert last_files(tmp_path / "a") == last_files(tmp_path / "b")
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "GRACE", 0.0)

    def insist(step: int) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, before_step=insist)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_a_signal_in_the_last_step_does_not_undo_the_end(tmp_path: Path) -> None:
    run(tmp_path, steps=3, before_step=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 3 else None)


def test_fit_works_outside_the_main_thread(tmp_path: Path) -> None:
    run(tmp_path / "a", steps=6)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run, tmp_path / "b", steps=6).result()
    assert last_files(tmp_path / "a") == last_files(tmp_path / "b")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    run(tmp_path, steps=5)
    with pytest.raises(TrainingError, match="accumulate was 2, is 1"):
        run(tmp_path, accumulate=1)
