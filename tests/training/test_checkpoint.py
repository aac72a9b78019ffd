"""Checkpoints that are whole or not there, whatever happens to the disk."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tianwen.errors import TrainingError
from tianwen.training import FitSettings, FromFunction, fit
from tianwen.training.checkpoint import Checkpoints
from tianwen.training.lock import only_run_in


def save_two(folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for step in (10, 20):
        checkpoints.save(step, {"model": {"w": torch.full((3,), float(step))}}, {"step": step})
    return checkpoints


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    match kind:
        case "flip":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:-1])
        case "lose":
            path.unlink()


def test_saved_is_loaded(tmp_path: Path):
    checkpoints = save_two(tmp_path)
    assert checkpoints.steps() == [10, 20]
    assert checkpoints.newest() == 20
    assert checkpoints.newest(below=20) == 10
    states, facts = checkpoints.load(20)
    assert torch.equal(states["model"]["w"], torch.full((3,), 20.0))
    assert facts == {"step": 20}
    checkpoints.keep_last(1)
    assert checkpoints.steps() == [20]


@pytest.mark.parametrize("kind", ["flip", "cut", "lose"])
@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, kind: str):
    checkpoints = save_two(tmp_path)
    damage(checkpoints.path(20) / name, kind)
    assert checkpoints.newest() == 10
    with pytest.raises(TrainingError, match=name.replace(".", r"\.")):
        checkpoints.load(20)


def test_a_half_written_checkpoint_is_ignored_and_cleared_away(tmp_path: Path):
    checkpoints = save_two(tmp_path)
    shutil.copytree(checkpoints.path(20), checkpoints.folder / ".writing-123-step-00000030")
    assert checkpoints.newest() == 20
    checkpoints.clean()
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000010", "step-00000020"]


@pytest.mark.parametrize("at", range(5))
def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int):
    checkpoints = save_two(tmp_path)
    calls = [0]
    fsync = os.fsync

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        checkpoints.save(30, {"model": {"w": torch.zeros(3)}}, {})
    assert checkpoints.newest() in (20, 30)  # 30 only if the very last flush failed, after the rename
    assert not list(checkpoints.folder.glob(".writing-*"))


def test_one_run_at_a_time(tmp_path: Path):
    with only_run_in(tmp_path), pytest.raises(TrainingError, match="Another process"), only_run_in(tmp_path):
        pass
    with only_run_in(tmp_path):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written to"), only_run_in(tmp_path / "file" / "run"):
        pass


# The same, seen from a run


def run(folder: Path, *, steps: int = 12, rate: float = 0.1, resume: Any = True, **options: Any) -> nn.Linear:
    torch.manual_seed(1)
    model = nn.Linear(2, 1)
    settings = FitSettings(steps=steps, checkpoint_every=3, keep_last=3, **options)
    fit(
        model,
        lambda m, x: m(x).square().mean(),
        FromFunction(lambda index, rank, world: torch.tensor([[1.0, index]])),
        optimiser=torch.optim.AdamW(model.parameters(), lr=rate),
        settings=settings,
        folder=folder,
        resume=resume,
    )
    return model


def test_a_run_goes_on_from_the_newest_whole_checkpoint(tmp_path: Path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "hurt", steps=9)
    damage(tmp_path / "hurt/checkpoints/step-00000009/optimiser.safetensors", "flip")
    damage(tmp_path / "hurt/checkpoints/step-00000006/manifest.json", "lose")
    hurt = run(tmp_path / "hurt")
    assert torch.equal(whole.weight, hurt.weight)
    after = Checkpoints(tmp_path / "hurt")
    assert [after.newest(), after.newest(below=12), after.newest(below=9)] == [12, 9, 6]  # whole again


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(tmp_path: Path):
    run(tmp_path, steps=3)
    damage(tmp_path / "checkpoints/step-00000003/model.safetensors", "cut")
    with pytest.raises(TrainingError, match="1 checkpoints and all are damaged"):
        run(tmp_path)


def test_a_run_that_is_there_is_not_overwritten(tmp_path: Path):
    run(tmp_path, steps=3)
    with pytest.raises(TrainingError, match="has come to step 3"):
        run(tmp_path, resume=False)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rate": 0.2}, r"optimiser.groups\[0\].lr was 0.1, is 0.2"),
        ({"ema_decay": 0.9}, "ema_decay was None, is 0.9"),
        ({"clip_norm": None}, "clip_norm was 1.0, is None"),
        ({"seed": 3}, "seed was 0, is 3"),
        ({"precision": "bf16"}, "precision was 'fp32', is 'bf16'"),
    ],
)
def test_other_settings_are_refused_by_name_unless_forced(tmp_path: Path, changes: dict[str, Any], sentence: str):
    run(tmp_path, steps=3)
    with pytest.raises(TrainingError, match=sentence):
        run(tmp_path, **changes)
    run(tmp_path, resume="anyway", **changes)
    run(tmp_path, **changes)  # from now on these are the settings


def test_settings_that_do_not_change_the_result_may_change(tmp_path: Path):
    run(tmp_path, steps=3)
    run(tmp_path, steps=6, log_every=1, quiet=True, prefetch=2, skip_limit=3)


def test_another_model_is_refused(tmp_path: Path):
    run(tmp_path, steps=3)
    model = nn.Linear(3, 1)
    with pytest.raises(TrainingError, match=r"other settings: model\.shapes"):
        fit(
            model,
            lambda m, x: m(x).mean(),
            FromFunction(lambda *_: torch.zeros(1, 3)),
            optimiser=torch.optim.AdamW(model.parameters(), lr=0.1),
            settings=FitSettings(steps=9),
            folder=tmp_path,
        )


class Marks(torch.optim.Optimizer):
    """Keeps state that is not of its parameters' type: counts, marks, a wide momentum, plain numbers."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                s = self.state[p]
                if not s:
                    s.update(momentum=torch.zeros_like(p, dtype=torch.float64), age=torch.zeros(2, dtype=torch.int32))
                    s.update(touched=torch.zeros(2, dtype=torch.bool), calls=0, name="x")
                    s.update(pair=(torch.zeros(1, dtype=torch.uint8), 2))
                s["momentum"].mul_(0.9).add_(p.grad.double() / 3)
                s["age"] += 1
                s["touched"] |= torch.tensor([True, s["calls"] % 3 == 0])
                s["calls"] += 1
                scale = group["lr"] / float(s["age"][0]) * (2 if bool(s["touched"][1]) else 1)
                p.data.sub_((s["momentum"] * scale).to(p.dtype))


def test_optimisers_with_state_of_any_type_resume_exactly(tmp_path: Path):
    def go(folder: str, steps: int) -> tuple[nn.Linear, Marks]:
        torch.manual_seed(1)
        model = nn.Linear(2, 1).bfloat16()
        optimiser = Marks(model.parameters())
        source = FromFunction(lambda index, rank, world: torch.tensor([[1.0, index % 5]]).bfloat16())
        settings = FitSettings(steps=steps)
        fit(
            model,
            lambda m, x: m(x).square().mean(),
            source,
            optimiser=optimiser,
            settings=settings,
            folder=tmp_path / folder,
        )
        return model, optimiser

    whole, _ = go("whole", 9)
    go("parts", 4)
    parts, optimiser = go("parts", 9)
    assert torch.equal(whole.weight, parts.weight)
    state = optimiser.state[parts.weight]
    assert [state[key].dtype for key in ("momentum", "age", "touched")] == [torch.float64, torch.int32, torch.bool]
    assert (state["calls"], state["name"]) == (9, "x")
    assert isinstance(state["pair"], tuple)
    assert state["pair"][0].dtype == torch.uint8
