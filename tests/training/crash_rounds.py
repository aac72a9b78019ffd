"""Run by test_crash.py: start runs, stop or kill them at random moments, start them again, print the outcome.

    python crash_rounds.py FOLDER ROUNDS

One process imports torch once and forks for each run: it has started no threads, so its children are sound.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tianwen.optim.schedule import cosine
from tianwen.training import FitSettings, FromFunction, fit

STEPS = 40
EARLY = 77


def batch(index: int, rank: int, world: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(index).normal(size=(6, 5))).float()


def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
    time.sleep(0.001)  # long enough for a signal to fall into a step
    return (model(x)[:, 0] - x.sum(1) * (1 + 0.1 * random.random() + 0.1 * np.random.rand())).square().mean()


def train(folder: Path) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.2), nn.Linear(6, 1))
    settings = FitSettings(
        steps=STEPS,
        ema_decay=0.9,
        checkpoint_every=4,
        evaluate_every=7,
        keep_best="-loss",
        log_every=3,
        leave="last",
    )
    fit(
        model,
        loss_fn,
        FromFunction(batch),
        optimiser=torch.optim.AdamW(model.parameters(), lr=0.02),
        schedule=cosine(STEPS, warmup=5),
        settings=settings,
        folder=folder,
        evaluate=lambda m: {"loss": float(loss_fn(m, batch(10**6, 0, 1)))},
    )


def start(folder: Path) -> int:
    """A child that trains; what it says goes to FOLDER.err."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with open(f"{folder}.err", "a") as errors:
            sys.stderr = errors
            try:
                train(folder)
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            except KeyboardInterrupt:  # before the loop began or after it ended
                code = EARLY
            except BaseException:
                traceback.print_exc(file=errors)
    finally:
        os._exit(code)


def outcome(folder: Path) -> dict[str, str]:
    """What a finished run left: checksums of its last checkpoint and best weights, and its log without the clock."""
    last = folder / "checkpoints" / f"step-{STEPS:08d}"
    found = {file.name: sha256(file.read_bytes()).hexdigest() for file in last.glob("*.safetensors")}
    found["best"] = sha256((folder / "best.safetensors").read_bytes()).hexdigest()
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found["log"] = json.dumps([{k: v for k, v in line.items() if k != "seconds"} for line in lines])
    return found


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(root: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)], lr=0.1)  # imports half of torch at its first use: once, not in every child
    started = time.monotonic()
    first = wait(start(root / "whole"))
    whole = time.monotonic() - started
    codes: list[int] = []
    chance = random.Random(7)
    kinds = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    for number in range(rounds):
        child = start(root / "stopped")
        time.sleep(chance.uniform(0.05, 0.6) * whole)
        os.kill(child, kinds[number % 3])
        codes.append(wait(child))
        if codes[-1] == 0 and number + 1 < rounds:  # it came to its end: begin another
            os.rename(root / "stopped", root / f"stopped-{number}")
    last = wait(start(root / "stopped"))
    ended = [root / "stopped", *root.glob("stopped-*[0-9]")]
    told = {"first": first, "last": last, "codes": codes, "whole": outcome(root / "whole")}
    said = (root / "stopped.err").read_text() if (root / "stopped.err").exists() else ""
    print(json.dumps(told | {"ended": [outcome(folder) for folder in ended], "said": said}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
