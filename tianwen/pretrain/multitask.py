"""The second stage: an encoder learns many labelled tasks at once, their gradients of equal length.

Post: 8998 (tasks by frequency, one a batch, a tenth of the first stage's learning rate), 8896 (equal gradients).

Notation
    i  task      n_i  its examples      q  share of plain text
    A batch is of plain text with chance q, else of task i with chance n_i / sum n (one in 100 at least); a step
    is the sum over `accumulate` batches of g_i / |g_i|, see `gradients`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tianwen.backbone.encoder_folder import Encoder, save_encoder
from tianwen.errors import InputError
from tianwen.optim.schedule import piecewise_linear
from tianwen.pretrain.curves import draw_curves
from tianwen.pretrain.gradients import with_unit_gradient
from tianwen.pretrain.learning import refuse_other_model
from tianwen.pretrain.tasks import Task
from tianwen.training.atomic import write_file
from tianwen.training.data_order import BatchSource, mixture
from tianwen.training.distributed import joined_world, local_device
from tianwen.training.loop import fit
from tianwen.training.settings import FitSettings
from tianwen.training.step import to_device

ROUND = 100
"""Batches in which every task has its share once."""


@dataclass(frozen=True)
class MultitaskSettings:
    """How to train on tasks: `text_share` is that of plain text, if there is any; `accumulate`: batches in a step."""

    steps: int = 1000
    accumulate: int = 4
    learning_rate: float = 1e-4
    text_share: float = 0.4
    normalise: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    storage: Literal["fp32", "fp16", "int8"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.accumulate) < 1 or not self.learning_rate > 0 or not 0 < self.text_share < 1:
            raise InputError(
                f"steps={self.steps}, accumulate={self.accumulate}, learning_rate={self.learning_rate}, "
                f"text_share={self.text_share}: the first two are at least 1, the rate above 0, the share between 0 "
                "and 1."
            )


@dataclass(frozen=True)
class Named:
    """The batches of a task with its name: (name, batch)."""

    name: str
    source: BatchSource

    def batch(self, index: int, rank: int, world: int) -> tuple[str, Any] | None:
        """See BatchSource."""
        batch = self.source.batch(index, rank, world)
        return None if batch is None else (self.name, batch)

    def describe(self) -> dict[str, Any]:
        """See BatchSource."""
        return {"task": self.name, **self.source.describe()}


class Tasks(nn.Module):
    """The shared encoder and the head of each task, which holds the encoder too: the same memory."""

    def __init__(self, backbone: nn.Module, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict({task.name: task.head for task in tasks})
        held = {id(p) for p in backbone.parameters()}
        self.own = {name: [p for p in head.parameters() if id(p) not in held] for name, head in self.heads.items()}


def shares(tasks: Sequence[Task], text_share: float) -> dict[str, int]:
    """Batches of each task in a round, by its number of examples; plain text has `text_share` of the round."""
    labelled = {task.name: task.examples for task in tasks if task.name != "text"}
    text = len(labelled) < len(tasks)
    room = ROUND * (1 - text_share) if text else ROUND
    total = sum(labelled.values())
    told = {name: max(1, round(room * count / total)) for name, count in labelled.items()}
    return told | ({"text": max(1, round(ROUND * text_share))} if text else {})


def train_multitask(
    encoder: Encoder,
    tasks: Sequence[Task],
    out: str | Path,
    *,
    settings: MultitaskSettings,
    device: torch.device | None = None,
    **fit_options: Any,
) -> dict[str, Any]:
    """Train the encoder that the tasks share, save it in the folder `out` (its run, for resuming, in `out`/run).

    Gives its numbers: the loss of each task on what was kept apart, before and after. `fit_options` go to
    `FitSettings`. Raises InputError without tasks or with two of one name, TrainingError for a run of other settings.
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise InputError(f"The tasks are {names}: give at least one, each with a name of its own.")
    folder, place = Path(out), device or local_device()
    refuse_other_model(folder)
    known = {task.name: task for task in tasks}
    model = Tasks(encoder.backbone, tasks).to(place)
    shared = list(model.backbone.parameters())

    def loss_of(model: Tasks, named: tuple[str, Any]) -> tuple[Tensor, dict[str, float]]:
        name, batch = named
        loss, values = known[name].loss(model.heads[name], batch)
        value = loss.detach()
        if settings.normalise:
            loss = with_unit_gradient(loss, shared, model.own[name])
        return loss, {"weight": 1.0, "tokens": values.get("tokens", 0.0), f"loss of {name}": float(value)}

    steps, parts = settings.steps, shares(tasks, settings.text_share)
    with joined_world(place) as world:
        result = fit(
            model,
            loss_of,
            mixture({t.name: Named(t.name, t.source) for t in tasks}, parts, seed=settings.seed),
            optimiser=torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98)),
            schedule=piecewise_linear({0: 0.0, max(1, steps // 20): 1.0, max(steps, 2): 0.0}),
            settings=_fit_settings(settings, **fit_options),
            folder=folder / "run",
            evaluate=lambda m: held_out_losses(m, tasks),
        )
        numbers: dict[str, Any] = {"tasks": parts, "steps": result.step, "seconds": round(result.seconds, 1)}
        numbers |= {name: round(value, 4) for name, value in result.evaluation.items()}
        if world.writes:
            facts = {**encoder.facts, "multitask": numbers}
            save_encoder(folder, encoder.backbone, encoder.tokenizer, facts, storage=settings.storage)
            write_file(folder / "numbers.json", (json.dumps(numbers, ensure_ascii=False, indent=1) + "\n").encode())
            draw_curves(folder / "run" / "log.jsonl", folder / "curves.svg")
    return {"model": str(out), **numbers}


@torch.no_grad()
def held_out_losses(model: Tasks, tasks: Sequence[Task]) -> dict[str, float]:
    """Mean loss of each task on what is kept apart."""
    place = next(model.parameters()).device
    told = {}
    for task in tasks:
        total = weight = 0.0
        for batch in task.held_out():
            loss, values = task.loss(task.head, to_device(batch, place))
            total += float(loss) * values["weight"]
            weight += values["weight"]
        if weight:
            told[f"loss of {task.name}"] = total / weight
    return told


def _fit_settings(how: MultitaskSettings, **options: Any) -> FitSettings:
    often = max(10, how.steps // 20)
    usual = {"checkpoint_every": often, "evaluate_every": often, "log_every": max(1, min(20, how.steps // 20))}
    own = {"steps": how.steps, "precision": how.precision, "accumulate": how.accumulate, "seed": how.seed}
    return FitSettings(**{**own, **usual, **options})
