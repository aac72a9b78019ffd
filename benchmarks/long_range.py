"""Which mixer learns what from far back? Each in the same shell, at equal parameters, on the same examples.

Post: 9554 (the claim that a linear recurrence is enough for long inputs)

Two layers of width 64, about 100,000 parameters each (`parameters` in the result says how many exactly), causal, in
float32; the same batches in the same order, so equal steps are equal examples, and the products of a step cost the
same but for attention's own, which grow with the square of the length. `lstm` is torch's LSTM in the mixer's place, as
wide as gives it as many weights. Accuracy is the share of wanted places that are right, on examples never trained on.
One seed each: a difference of a few points means nothing.

    python benchmarks/long_range.py [--tasks copying selective] [--models lru lstm] [--steps 300] [--threads 1]
        [--fashion-mnist FOLDER] [--curves FILE.json] [--plot FILE.svg] [--json]

    notation     meaning
    TASK_MODEL   accuracy at the end        TASK_MODEL_seconds   time of the processor, measuring included
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curves import as_json, plot
from long_range_tasks import Task, copying, digits, listops, selective_copying
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.backbone.mixers import MIXERS, ShellConfig
from tianwen.optim.schedule import piecewise_linear
from tianwen.recurrent.parameter_groups import parameter_groups
from tianwen.training import FitSettings, FromFunction, fit
from tianwen.write.language_model import UNWANTED, LanguageModel

MODELS = (*MIXERS, "lstm")
TASKS = ("copying", "selective", "listops", "digits")
WIDTH, LAYERS, HEADS = 64, 2, 4


class LstmMixer(nn.Module):
    """torch's LSTM between two layers of the shell, of a size that gives 4 width^2 weights: 4h(d + h) + hd."""

    def __init__(self, width: int) -> None:
        super().__init__()
        size = round(width * (89**0.5 - 5) / 8)
        self.lstm = nn.LSTM(width, size, bias=False, batch_first=True)
        self.output = nn.Linear(size, width, bias=False)

    def init_state(self, batch: int) -> None:
        """torch's own: zeros."""
        return

    def forward(
        self, x: Tensor, *, state: Any = None, reset: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Whole rows only."""
        assert reset is None
        assert lengths is None
        y, state = self.lstm(x, state)
        return self.output(y), state


def make_model(name: str, task: Task) -> LanguageModel:
    """A fresh model of the kind `name`, the same weights each time."""
    torch.manual_seed(0)
    config = ShellConfig(
        vocabulary=task.vocabulary,
        mixer="lru" if name == "lstm" else name,  # type: ignore[arg-type]
        layers=LAYERS,
        width=WIDTH,
        heads=HEADS,
        window=task.length,
        dropout=0.0,
    )
    return LanguageModel(config, mixers=[LstmMixer(WIDTH) for _ in range(LAYERS)] if name == "lstm" else None)


def loss(model: LanguageModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy of what is wanted. No id begins a document here, so the state is never set back."""
    hidden, _ = model.shell(batch["ids"])
    places = batch["targets"] != UNWANTED
    logits = hidden[places] @ model.shell.tokens.weight.T  # [wanted places, V]
    return F.cross_entropy(logits, batch["targets"][places]), {"tokens": float(batch["ids"].numel())}


@torch.no_grad()
def accuracy(model: LanguageModel, test: dict[str, Tensor]) -> float:
    """Share of the wanted places where the likeliest id is right."""
    right, wanted = 0, 0
    for ids, targets in zip(test["ids"].split(128), test["targets"].split(128), strict=True):
        hidden, _ = model.shell(ids)
        places = targets != UNWANTED
        logits = hidden[places] @ model.shell.tokens.weight.T  # [wanted places, V]
        right += int((logits.argmax(-1) == targets[places]).sum())
        wanted += int(places.sum())
    return right / wanted


def train(name: str, task: Task, *, steps: int, batch: int, rate: float, quiet: bool) -> dict[str, Any]:
    """One run: parameters, accuracy, seconds and the curve [[step, accuracy], ...]."""
    model = make_model(name, task)

    def make(index: int, rank: int, world: int) -> dict[str, Tensor]:
        return task.make(np.random.default_rng([1, index]), batch)

    curve: list[tuple[int, float]] = []
    started = time.process_time()
    with tempfile.TemporaryDirectory(prefix="tianwen-") as folder:
        every = max(1, steps // 6)
        fit(
            model,
            loss,
            FromFunction(make, name=task.name),
            optimiser=torch.optim.AdamW(parameter_groups(model, lr=rate), betas=(0.9, 0.98)),
            schedule=piecewise_linear({0: 0.0, min(50, steps): 1.0, steps + 1: 0.1}),
            settings=FitSettings(steps=steps, evaluate_every=every, quiet=quiet, checkpoint_every=10**6),
            folder=folder,
            evaluate=lambda trained: {"accuracy": accuracy(trained, task.test)},
        )
        for line in (json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()):
            if "evaluation" in line:
                curve.append((line["step"], round(line["evaluation"]["accuracy"], 4)))
    return {
        "parameters": model.shell.parameter_count(),
        "accuracy": curve[-1][1],
        "seconds": round(time.process_time() - started, 1),
        "curve": curve,
    }


def make_task(name: str, fashion: Path | None) -> Task:
    match name:
        case "copying":
            return copying()
        case "selective":
            return selective_copying()
        case "listops":
            return listops()
        case _:
            return digits(fashion)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--fashion-mnist", type=Path, default=None, help="folder of its four .gz files")
    parser.add_argument("--curves", type=Path, default=None, help="add the curves to this JSON file")
    parser.add_argument("--plot", type=Path, default=None, help="draw all curves of that file as SVG")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    known = json.loads(options.curves.read_text()) if options.curves and options.curves.exists() else {}
    numbers: dict[str, Any] = {}
    for task in (make_task(name, options.fashion_mnist) for name in options.tasks):
        for name in options.models:
            told = train(
                name, task, steps=options.steps, batch=options.batch, rate=options.rate, quiet=options.json
            ) | {"steps": options.steps, "batch": options.batch, "length": task.length, "chance": task.chance}
            known.setdefault(task.name, {})[name] = told
            numbers |= {f"{task.name}_{name}": told["accuracy"], f"{task.name}_{name}_seconds": told["seconds"]}
            if not options.json:
                print(f"{task.name:12} {name:10} {told['accuracy']:.3f}  {told['seconds']} s", flush=True)
            if options.curves:
                options.curves.write_text(as_json(known))
    if options.plot:
        options.plot.write_text(plot(known, what="accuracy"))
    if options.json:
        print(json.dumps(numbers | {"torch": torch.__version__, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
