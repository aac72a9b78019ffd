"""How good the pictures are: light against paper-like net at equal compute, grids and solvers at few steps.

Post: 9152, 9181

Fashion-MNIST (Debian package dataset-fashion-mnist, or --data FOLDER). Every net is trained for the same processor
time, from fresh weights, on the same pictures, with labels; drawn pictures take the labels in turn. Networks of other
libraries stand beside them where these are installed: see picture_peers.py.

    python benchmarks/picture_quality.py [--seconds 600] [--side 28] [--pictures 1000] [--out FOLDER] [--json]

    notation     meaning
    frechet      Frechet distance over the features of a small classifier trained here (not FID), lower is better
    accuracy     share of drawn pictures in which that classifier sees the label asked for
    precision    share of drawn pictures that lie among real ones; recall: the other way round
    floor        the same numbers for pictures of the test split: as good as it gets
    grid_*       the light net's frechet by solver, grid and number of steps
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from picture_measures import CLASSES, Classifier, as_floats, frechet, look, read_fashion, share_inside, train_classifier
from picture_peers import FIRST, PEERS, spend
from torch import Tensor

from tianwen.diffusion.drawer import How
from tianwen.diffusion.grid_images import page, to_bytes, write_png
from tianwen.diffusion.learning import TrainDrawSettings, train_drawer
from tianwen.diffusion.picture_cache import Pictures, pictures_of

GRIDS = ("logsnr", "uniform", "trailing", "quadratic")
SOLVERS = ("2m", "ddim", "ddpm")
STEPS = (5, 10, 20, 50)


def run(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every number by name."""
    data = read_fashion(given.data, given.side)
    if data is None:
        return {"left out": "Fashion-MNIST is not there: apt-get install dataset-fashion-mnist, or --data FOLDER"}
    torch.manual_seed(0)
    judge = train_classifier(*data["train"])
    random = np.random.default_rng(1)
    real = look(judge, as_floats(data["train"][0][random.permutation(60_000)[: given.pictures]]))[0]
    test = random.permutation(10_000)[: given.pictures]
    numbers: dict[str, Any] = {"seconds": given.seconds, "side": given.side, "pictures": given.pictures}
    numbers |= {
        f"floor_{k}": v for k, v in score(judge, real, as_floats(data["test"][0][test]), data["test"][1][test]).items()
    }
    pictures = pictures_of(*data["train"], CLASSES)
    wanted = np.arange(given.pictures) % len(CLASSES)
    for net in given.nets.split(","):
        began = time.process_time()
        try:
            new = PEERS.get(net) or partial(our_net, net)  # type: ignore[arg-type]
            draw = new(pictures, folder / net, given)
        except ImportError:
            numbers[f"{net}_left_out"] = f"{net} is not installed"
            continue
        numbers[f"{net}_trained_seconds"], numbers[f"{net}_steps"] = (
            round(time.process_time() - began),
            given.steps_done,
        )
        x = draw(How(steps=20), given.pictures)
        write_png(folder / f"{net}.png", page(to_bytes(x[:80]), columns=10))
        numbers |= {f"{net}_{k}": v for k, v in score(judge, real, x, wanted).items()}
        told(numbers, net, given)
        if net == "light" and given.grids:
            numbers |= by_steps(draw, judge, real, min(given.pictures, given.grids), given)
    return numbers | {"torch": torch.__version__, "threads": torch.get_num_threads()}


def score(judge: Classifier, real: np.ndarray, x: Tensor, labels: np.ndarray) -> dict[str, float]:
    """The four numbers of a set of pictures."""
    features, classes = look(judge, x.clamp(-1, 1))
    return {
        "frechet": round(frechet(real, features), 3),
        "accuracy": round(float((classes == labels).mean()), 4),
        "precision": round(share_inside(real, features), 4),
        "recall": round(share_inside(features, real), 4),
    }


def by_steps(draw: Any, judge: Classifier, real: np.ndarray, count: int, given: argparse.Namespace) -> dict[str, float]:
    """Frechet distance by solver, grid and steps, over `count` pictures: compare these with each other."""
    found = {}
    for solver in SOLVERS:
        for grid in GRIDS if solver == "ddim" else GRIDS[:1]:
            for steps in STEPS:
                name = f"grid_{solver}_{grid}_{steps}"
                x = draw(How(steps=steps, solver=solver, grid=grid), count)
                found[name] = round(frechet(real, look(judge, x.clamp(-1, 1))[0]), 3)
                told(found, name, given)
    return found


def our_net(name: Any, pictures: Pictures, folder: Path, given: argparse.Namespace) -> Any:
    """Train one of ours for the processor time given; a function (how, count) -> pictures."""
    how = TrainDrawSettings(
        side=given.side,
        net=name,
        blocks=1,
        batch=32,
        steps=FIRST,
        samples_every=10**9,
        seed=given.seed,
        width=given.width,
    )
    found = []
    given.steps_done = spend(
        given.seconds,
        lambda steps: found.append(train_drawer(pictures, folder, settings=replace(how, steps=steps), quiet=True)),
    )
    drawer = found[-1]
    drawer.net.same_bits.exact = False  # type: ignore[union-attr]  # nobody asks for a picture again

    def draw(how: How, count: int) -> Tensor:
        parts = [range(k, min(k + 100, count)) for k in range(0, count, 100)]
        return torch.cat([drawer.draw(seeds=part, labels=CLASSES, how=how) for part in parts])

    return draw


def told(numbers: dict[str, Any], name: str, given: argparse.Namespace) -> None:
    """Progress for a person, as far as one looks."""
    if not given.json:
        print({key: value for key, value in numbers.items() if key.startswith(name)}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="How good the pictures are.")
    parser.add_argument("--data", default=None, help="folder with the four files of Fashion-MNIST")
    parser.add_argument("--seconds", type=float, default=600, help="processor time to train each net")
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--grids", type=int, default=500, help="pictures for each entry of the table; 0: no table")
    parser.add_argument("--nets", default="light,paper,diffusers,diffusers_net,lucidrains")
    parser.add_argument("--seed", type=int, default=0, help="of our nets, and of diffusers' in our training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="keep the trained nets there; a second run goes on")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(prefix="tianwen-") as scratch:
        numbers = run(given, given.out or Path(scratch))
    print(json.dumps(numbers) if given.json else "\n".join(f"{k:34} {v}" for k, v in numbers.items()))


if __name__ == "__main__":
    main()
