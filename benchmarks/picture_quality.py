"""How good the pictures are: light against paper-like net at equal compute, grids and solvers at few steps.

Post: 9152, 9181

Fashion-MNIST (Debian package dataset-fashion-mnist, or --data FOLDER). Every net is trained for the same processor
time, from fresh weights, on the same pictures, with labels; drawn pictures take the labels in turn. What diffusers
offers stands beside them if it is installed: its UNet2DModel of about the light net's size, trained as its example
trains (eps, AdamW 1e-4) and drawn by its DDIM with default settings.

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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from picture_measures import CLASSES, Classifier, as_floats, frechet, look, read_fashion, share_inside, train_classifier
from torch import Tensor, nn

from tianwen.diffusion.drawer import How
from tianwen.diffusion.grid_images import page, to_bytes, write_png
from tianwen.diffusion.learning import DiffusionLoss, PictureBatches, TrainDrawSettings, train_drawer
from tianwen.diffusion.picture_cache import Pictures, pictures_of
from tianwen.diffusion.schedule import Schedule
from tianwen.training import FitSettings, fit

GRIDS = ("logsnr", "uniform", "trailing", "quadratic")
SOLVERS = ("2m", "ddim", "ddpm")
STEPS = (5, 10, 20, 50)
FIRST = 24  # steps to time a net by


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
            draw = (
                diffusers_net(pictures, folder / net, given)
                if net == "diffusers"
                else our_net(net, pictures, folder / net, given)
            )
        except ImportError:
            numbers[f"{net}_left_out"] = f"{net} is not installed"
            continue
        numbers[f"{net}_trained_seconds"] = round(time.process_time() - began)
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


def spend(seconds: float, train: Callable[[int], object]) -> None:
    """Call train(steps in all) until about so much processor time is used; every call goes on from the one before."""
    steps, wanted, used = 0, FIRST, 0.0
    while True:  # the first stretches are mostly warming up and looking, so a speed says little until the last
        began = time.process_time()
        train(wanted)
        lasted = time.process_time() - began
        used, each, steps = used + lasted, lasted / (wanted - steps), wanted
        if used > 0.97 * seconds:
            return
        wanted = steps + max(1, round((seconds - used) / each))


def our_net(name: str, pictures: Pictures, folder: Path, given: argparse.Namespace) -> Any:
    """Train one of ours for the processor time given; a function (how, count) -> pictures."""
    how = TrainDrawSettings(
        side=given.side, net=name, blocks=1, batch=32, steps=FIRST, samples_every=10**9, seed=0, width=given.width
    )
    found = []
    spend(
        given.seconds,
        lambda steps: found.append(train_drawer(pictures, folder, settings=replace(how, steps=steps), quiet=True)),
    )
    drawer = found[-1]
    drawer.net.same_bits.exact = False  # type: ignore[union-attr]  # nobody asks for a picture again

    def draw(how: How, count: int) -> Tensor:
        parts = [range(k, min(k + 100, count)) for k in range(0, count, 100)]
        return torch.cat([drawer.draw(seeds=part, labels=CLASSES, how=how) for part in parts])

    return draw


class Theirs(nn.Module):
    """diffusers' network with the call of ours; its row after the last class stands for "no label"."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel  # type: ignore[import-not-found]

        self.net = UNet2DModel(
            sample_size=side,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(width, 2 * width, 4 * width),
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            num_class_embeds=len(CLASSES) + 1,
            norm_num_groups=16,
        )
        self.labels = object()  # it takes labels

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.net(x, t, class_labels=torch.where(labels < 0, len(CLASSES), labels)).sample


def diffusers_net(pictures: Pictures, folder: Path, given: argparse.Namespace) -> Any:
    """Train diffusers' network the way of its example, for the same processor time; draws by its DDIM."""
    from diffusers import DDIMScheduler  # type: ignore[import-not-found]

    torch.manual_seed(0)
    net = Theirs(given.side, given.width)
    how = TrainDrawSettings(side=given.side, batch=32, target="eps", schedule="paper")
    loss, batches = DiffusionLoss(Schedule.paper(), "eps"), PictureBatches(pictures, how)
    precision = "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    settings = FitSettings(steps=FIRST, precision=precision, ema_decay=0.999, quiet=True)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    spend(
        given.seconds,
        lambda steps: fit(
            net, loss, batches, optimiser=optimiser, settings=replace(settings, steps=steps), folder=folder
        ),
    )

    @torch.no_grad()
    def draw(how: How, count: int) -> Tensor:
        scheduler = DDIMScheduler(num_train_timesteps=1000)
        scheduler.set_timesteps(how.steps)
        done = []
        for first in range(0, count, 100):
            labels = torch.arange(first, min(first + 100, count)) % len(CLASSES)
            x = torch.randn(len(labels), 1, given.side, given.side, generator=torch.Generator().manual_seed(first))
            for t in scheduler.timesteps:
                x = scheduler.step(net(x, t.expand(len(x)), labels), t, x).prev_sample
            done.append(x)
        return torch.cat(done)

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
    parser.add_argument("--nets", default="light,paper,diffusers")
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
