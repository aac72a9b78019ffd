"""Networks and trainings of other libraries, for the comparison of drawn pictures at equal processor time.

diffusers       its UNet2DModel of the light net's widths, trained as its example trains (eps, its linear schedule,
                AdamW 1e-4) and drawn by its DDIM with default settings
diffusers_net   the same network in our training and drawing (v, 1e-3, the post's schedule, 2m on logsnr): what the
                network alone is worth
lucidrains      denoising-diffusion-pytorch: its Unet of the same widths, its loss (v, sigmoid schedule), Adam 1e-4
                and DDIM of 20 steps; it knows no labels, so its accuracy says nothing
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from picture_measures import CLASSES
from torch import Tensor, nn

from tianwen.diffusion.drawer import How
from tianwen.diffusion.learning import COURSE, DiffusionLoss, PictureBatches, TrainDrawSettings, quick_precision
from tianwen.diffusion.picture_cache import Pictures
from tianwen.diffusion.sampling import sample
from tianwen.diffusion.schedule import Schedule
from tianwen.optim.schedule import piecewise_linear
from tianwen.training import FitSettings, fit

FIRST = 24  # steps to time a net by
Draw = Callable[[How, int], Tensor]


def spend(seconds: float, train: Callable[[int], object]) -> int:
    """Call train(steps in all) until about so much processor time is used; each call goes on from the last. Steps."""
    steps, wanted, used = 0, FIRST, 0.0
    while True:  # the first stretches are mostly warming up and looking, so a speed says little until the last
        began = time.process_time()
        train(wanted)
        lasted = time.process_time() - began
        used, each, steps = used + lasted, lasted / (wanted - steps), wanted
        if used > 0.97 * seconds:
            return steps
        wanted = steps + max(1, round((seconds - used) / each))


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


def diffusers(pictures: Pictures, folder: Path, given: argparse.Namespace) -> Draw:
    """Train diffusers' network the way of its example; draws by its DDIM."""
    from diffusers import DDIMScheduler  # type: ignore[import-not-found]

    torch.manual_seed(0)
    net = Theirs(given.side, given.width)
    how = TrainDrawSettings(side=given.side, batch=32, target="eps", schedule="paper")
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    loss = DiffusionLoss(Schedule.paper(), "eps")
    _trained(net, loss, PictureBatches(pictures, how), optimiser, folder, given, ema_decay=0.999)

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


def diffusers_net(pictures: Pictures, folder: Path, given: argparse.Namespace) -> Draw:
    """diffusers' network in our training and our sampler."""
    torch.manual_seed(given.seed)
    net, schedule = Theirs(given.side, given.width), Schedule.post()
    how = TrainDrawSettings(side=given.side, batch=32)
    optimiser = torch.optim.AdamW(net.parameters(), lr=how.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    options = {"ema_decay": how.ema_decay, "schedule": piecewise_linear(COURSE)}
    loss = DiffusionLoss(schedule, how.target)
    _trained(net, loss, PictureBatches(pictures, how), optimiser, folder, given, **options)

    def draw(how: How, count: int) -> Tensor:
        done = []
        for first in range(0, count, 100):
            seeds = range(first, min(first + 100, count))
            labels = torch.tensor(seeds) % len(CLASSES)
            model = lambda x, t, labels=labels: net(x, t, labels)  # noqa: E731
            walk = {"steps": how.steps, "solver": how.solver, "grid": how.grid, "target": "v"}
            done.append(sample(model, (1, given.side, given.side), schedule=schedule, seeds=seeds, **walk))  # type: ignore[arg-type]
        return torch.cat(done)

    return torch.no_grad()(draw)


def lucidrains(pictures: Pictures, folder: Path, given: argparse.Namespace) -> Draw:
    """denoising-diffusion-pytorch with its defaults; the pictures it draws have no labels."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet  # type: ignore[import-not-found]

    torch.manual_seed(0)
    net = GaussianDiffusion(
        Unet(given.width, dim_mults=(1, 2, 4), channels=1), image_size=given.side, sampling_timesteps=20
    )

    def loss(net: Any, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return net(batch[0].float() / 255), {"weight": float(len(batch[0]))}

    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.9, 0.99))
    batches = PictureBatches(pictures, TrainDrawSettings(side=given.side, batch=32))
    _trained(net, loss, batches, optimiser, folder, given, ema_decay=0.995)

    def draw(how: How, count: int) -> Tensor:
        net.sampling_timesteps = how.steps or 20
        return torch.cat([net.sample(batch_size=min(100, count - first)) for first in range(0, count, 100)]) * 2 - 1

    return draw


def _trained(
    net: nn.Module, loss: Any, batches: Any, optimiser: Any, folder: Path, given: argparse.Namespace, **options: Any
) -> None:
    """Train for the processor time given; with the same loop and precision as ours."""
    schedule = options.pop("schedule", None)
    settings = FitSettings(steps=FIRST, precision=quick_precision(), quiet=True, **options)
    course = {} if schedule is None else {"schedule": schedule}
    given.steps_done = spend(
        given.seconds,
        lambda steps: fit(
            net, loss, batches, optimiser=optimiser, settings=replace(settings, steps=steps), folder=folder, **course
        ),
    )
    net.eval()


PEERS: dict[str, Callable[..., Draw]] = {
    "diffusers": diffusers,
    "diffusers_net": diffusers_net,
    "lucidrains": lucidrains,
}
