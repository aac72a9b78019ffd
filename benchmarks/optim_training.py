"""Tiger, Lion, AdamW and LAMB on our own trainings at equal steps, each at its best rate: which loss they reach.

Post: 9512, 9473, 9736

Every optimiser runs at rates a factor 2 apart with the first seed, until the best lies between two others; the best
rate then runs with further seeds. Told is the loss on held-out data, of the last weights (no average). The four tasks
are in optim_tasks.py; those whose data are not given are left out.

    python benchmarks/optim_training.py [--questions TRAIN HELD_OUT] [--text FILE] [--labelled TRAIN HELD_OUT]
        [--fashion-mnist FOLDER] [--seeds 3]

    notation        meaning
    NAME            held-out loss at the best rate, mean over seeds      NAME_spread   largest minus smallest of them
    NAME_rates      {rate: held-out loss} with the first seed            NAME_seconds  a training, processor time
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from optim_tasks import Make, Task, asker, extractor, language_model, pictures

from tianwen.optim.lamb import Lamb
from tianwen.optim.lion import Lion
from tianwen.optim.param_groups import param_groups_for
from tianwen.optim.tiger import Tiger

OPTIMISERS: dict[str, tuple[Make, tuple[float, ...]]] = {
    "adamw": (
        lambda model, lr: torch.optim.AdamW(param_groups_for(model, weight_decay=0.01), lr=lr, betas=(0.9, 0.98)),
        (1e-3, 2e-3, 4e-3),
    ),
    "lion": (lambda model, lr: Lion(param_groups_for(model), lr=lr, weight_decay=0.1), (2e-4, 4e-4, 8e-4)),
    "tiger": (lambda model, lr: Tiger(param_groups_for(model), lr=lr), (4e-3, 8e-3, 16e-3)),
    "tiger_stale": (
        lambda model, lr: Tiger(param_groups_for(model), lr=lr, embedding_update="stale"),
        (4e-3, 8e-3, 16e-3),
    ),
    "lamb": (
        lambda model, lr: Lamb(param_groups_for(model), lr=lr, betas=(0.9, 0.99), weight_decay=0.01),
        (1e-2, 2e-2, 4e-2),
    ),
}


def compared(task: Task, seeds: int) -> dict[str, Any]:
    """Every optimiser on one task: its best rate with the first seed, then the other seeds."""
    numbers: dict[str, Any] = {}
    for name, (make, rates) in OPTIMISERS.items():
        began = time.process_time()
        tried = {rate: task.trained(make, rate, 0) for rate in rates}
        best = widened(tried, lambda rate: task.trained(make, rate, 0))  # noqa: B023 - called at once
        losses = [tried[best], *(task.trained(make, best, seed) for seed in range(1, seeds))]
        numbers[name] = round(statistics.mean(losses), 4)
        numbers[f"{name}_spread"] = round(max(losses) - min(losses), 4)
        numbers[f"{name}_best_rate"] = best
        numbers[f"{name}_rates"] = {f"{rate:g}": round(loss, 4) for rate, loss in sorted(tried.items())}
        numbers[f"{name}_seconds"] = round((time.process_time() - began) / (len(tried) + seeds - 1), 1)
        print(task.name, name, numbers[name], best, file=sys.stderr, flush=True)
    return numbers | {"steps": task.steps}


def widened(tried: dict[float, float], loss: Callable[[float], float]) -> float:
    """The best rate; as long as it is the least or greatest tried, one beyond is tried too (at most three more)."""
    for _ in range(3):
        best = min(tried, key=lambda rate: tried[rate] if math.isfinite(tried[rate]) else math.inf)
        if min(tried) < best < max(tried):
            break
        beyond = best / 2 if best == min(tried) else best * 2
        tried[beyond] = loss(beyond)
    return min(tried, key=lambda rate: tried[rate] if math.isfinite(tried[rate]) else math.inf)


def tasks(given: argparse.Namespace) -> Iterator[Task]:
    """Those whose data are given."""
    if given.questions:
        yield asker(given.questions[0], given.questions[1], given.steps or 150)
    if given.text:
        yield language_model(given.text, given.steps or 200)
    if given.labelled:
        yield extractor(given.labelled[0], given.labelled[1], given.steps or 200)
    if given.fashion_mnist:
        yield pictures(given.fashion_mnist, given.steps or 250)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", nargs=2, type=Path, metavar=("TRAIN", "HELD_OUT"))
    parser.add_argument("--text", type=Path, metavar="FILE", help="UTF-8, or xz of it")
    parser.add_argument("--labelled", nargs=2, type=Path, metavar=("TRAIN", "HELD_OUT"))
    parser.add_argument("--fashion-mnist", type=Path, metavar="FOLDER")
    parser.add_argument("--steps", type=int, help="of every training; 150 to 250 unless told")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="it prints JSON anyway, a line a task")
    given = parser.parse_args()
    for task in tasks(given):
        numbers = compared(task, given.seeds)
        print(json.dumps({"task": task.name, **numbers, "seeds": given.seeds, "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
