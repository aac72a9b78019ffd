"""Train a drawer on a folder of pictures: one call, resumed bit for bit after every interruption.

Post: 9152. Its settings (width 128, LAMB 1e-3, eps as target, half a day on one RTX 3090) are for faces of 128 x 128.
Ours are for small pictures and a CPU: width 32, AdamW, bf16 where the processor has it, and v as target: at the
noisiest times a small error of eps is a hundred times as large in the picture, which only long training cures. The
course of the learning rate is the post's and does not depend on the number of steps: a run that has ended can go on.

Notation
    x0 [N, channels, side, side] from -1 to 1      t uniform in 0 .. T-1, one a picture      e standard normal
    x = A_t x0 + B_t e       loss = mean over pictures of mean (or, as the post had it first, sum) over pixels and
    colours of (net(x, t, label) - goal)^2,  goal = e, x0 or v = A e - B x0
    one label in ten is hidden, so that the same network also learns the pictures of no label, which guidance needs
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tianwen.diffusion.analytic import unexplained_variance
from tianwen.diffusion.drawer import FILE, Drawer, DrawerSettings, NetName, new_net
from tianwen.diffusion.grid_images import from_bytes, page, to_bytes, write_png
from tianwen.diffusion.picture_cache import Pictures, Progress, open_pictures
from tianwen.diffusion.pictures import Fit, PictureShape
from tianwen.diffusion.schedule import Schedule
from tianwen.diffusion.targets import Target, goal
from tianwen.diffusion.unet_parts import UNetConfig
from tianwen.errors import InputError
from tianwen.optim.schedule import piecewise_linear
from tianwen.training.atomic import PART, remove_parts
from tianwen.training.data_order import in_batches
from tianwen.training.distributed import local_device
from tianwen.training.loop import fit
from tianwen.training.settings import FitSettings
from tianwen.training.weights import Storage

SMALLEST = 4
"""The side that the network halves down to, if it can."""
COURSE = {0: 0.0, 300: 1.0, 4_000: 1.0, 20_000: 0.5, 40_000: 0.1}
"""Learning rate by steps, as a part of the full one; straight lines between, but for the warm-up the post's."""
LEVELS = {1: (1,), 2: (1, 2), 3: (1, 2, 4), 4: (1, 2, 2, 4), 5: (1, 1, 2, 2, 4), 6: (1, 1, 2, 2, 4, 4)}
"""Widths of the levels, as multiples, for so many levels; the last is the post's."""
SHOWN = 16
"""Pictures on a page while training."""


@dataclass(frozen=True)
class TrainDrawSettings:
    """How to train a drawer.

    `side`, `gray`, `fit`: what pictures are made into. `net`, `width`, `multipliers`, `blocks`, `attention`: the
    network. `schedule`, `times`, `zero_terminal_snr`, `target`: what it learns. `loss`: mean or sum over pixels.
    `flip`: every other picture mirrored. `precision` None: bf16 where the processor has it. `samples_every` None: ten
    times on the way. `analytic`: measure the variances of Analytic-DPM at the end. `storage`: how weights are saved.
    """

    steps: int = 10_000
    batch: int = 32
    learning_rate: float = 1e-3
    side: int = 32
    gray: bool | None = None
    fit: Fit = "crop"
    net: NetName = "light"
    width: int = 32
    multipliers: tuple[int, ...] | None = None
    blocks: int = 2
    attention: tuple[int, ...] = ()
    schedule: str = "post"
    times: int = 1000
    zero_terminal_snr: bool = False
    target: Target = "v"
    loss: Literal["mean", "sum"] = "mean"
    flip: bool = False
    hidden_labels: float = 0.1
    use_labels: bool = True
    ema_decay: float = 0.999
    precision: Literal["fp32", "bf16"] | None = None
    analytic: bool = False
    samples_every: int | None = None
    storage: Storage = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not 0 < self.learning_rate < math.inf:
            raise InputError(
                f"steps={self.steps}, batch={self.batch}, learning_rate={self.learning_rate}: the first two are 1 or "
                "more, the last is above 0 and finite."
            )
        if not -(2**63) <= self.seed < 2**63:
            raise InputError(f"seed={self.seed}: a whole number of at most 63 bits.")
        if not 0 <= self.hidden_labels < 1:
            raise InputError(f"hidden_labels={self.hidden_labels}: a share from 0 to below 1, such as 0.1.")
        if self.loss not in ("mean", "sum"):
            raise InputError(f"loss={self.loss!r}: 'mean' or 'sum' over the pixels of a picture.")
        if self.samples_every is not None and self.samples_every < 1:
            raise InputError(f"samples_every={self.samples_every}: steps between two pages of samples, 1 or more.")


@dataclass(frozen=True)
class PictureBatches:
    """Batches of pictures for `fit`; what they are learnt for belongs to what must stay the same when resumed."""

    pictures: Pictures
    how: TrainDrawSettings

    def batch(self, index: int, rank: int, world: int) -> Any:
        """(uint8 [N, channels, side, side], labels int64 [N]); see BatchSource."""
        return self._order().batch(index, rank, world)

    def describe(self) -> dict[str, Any]:
        """See BatchSource."""
        names = ("flip", "hidden_labels", "loss", "schedule", "target", "zero_terminal_snr")
        course = {name: getattr(self.how, name) for name in names}
        return {"pictures": self.pictures.digest, **course, **self._order().describe()}

    def _order(self) -> Any:
        return in_batches(range(len(self.pictures)), self._collate, size=self.how.batch, seed=self.how.seed)

    def _collate(self, rows: Sequence[int], random: np.random.Generator) -> tuple[Tensor, Tensor]:
        pixels = self.pictures.pixels[np.asarray(rows)]  # [N, channels, side, side], a copy
        labels = self.pictures.labels[np.asarray(rows)].copy()  # [N]
        if self.how.flip:
            mirrored = random.random(len(rows)) < 0.5
            pixels[mirrored] = pixels[mirrored, :, :, ::-1]
        labels[random.random(len(rows)) < self.how.hidden_labels] = -1
        return torch.from_numpy(pixels), torch.from_numpy(labels)


def read_folder(
    folder: str | Path, out: str | Path, how: TrainDrawSettings, *, progress: Progress | None = None
) -> Pictures:
    """The pictures to train on, as these settings want them, kept in `out`/run/pictures; see `open_pictures`.

    `out` may lie inside `folder`: its pages of samples are not taken for pictures. It may not be `folder` itself.
    """
    drawer_settings(how, colours=1, labels=())  # what cannot be trained is refused before all is read
    if Path(out).exists() and Path(folder).exists() and Path(out).samefile(folder):
        raise InputError(
            f"{str(out)!r} is the folder of the pictures itself: the pages drawn while training would be taken for "
            f"pictures. Name another for the drawer, such as {str(Path(out) / 'drawer')!r}."
        )
    shape = PictureShape(how.side, how.gray, how.fit)
    return open_pictures(folder, Path(out) / "run" / "pictures", shape, but=out, progress=progress)


def train_drawer(
    pictures: str | Path | Pictures,
    out: str | Path,
    *,
    settings: TrainDrawSettings | None = None,
    quiet: bool = False,
    **fit_options: Any,
) -> Drawer:
    """Train on a folder of pictures, or on `Pictures`, and save the drawer in the folder `out`; returns it.

    The run, for resuming, is in `out`/run, pages of samples in `out`/samples. `fit_options` go to `FitSettings`.
    Raises InputError for a folder without pictures or settings that cannot be used, TrainingError when training cannot
    go on.
    """
    how, place = settings or TrainDrawSettings(), Path(out)
    known = pictures if isinstance(pictures, Pictures) else read_folder(pictures, place, how)
    drawer = untrained(known, how)
    net = drawer.net.to(local_device())
    optimiser = torch.optim.AdamW(net.parameters(), lr=how.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    look = Look(drawer, known, place, how)
    done = fit(
        net,
        DiffusionLoss(drawer.schedule, how.target, summed=how.loss == "sum"),
        PictureBatches(known, how),
        optimiser=optimiser,
        schedule=piecewise_linear(COURSE),
        settings=FitSettings(
            **{
                "steps": how.steps,
                "precision": how.precision or quick_precision(),
                "ema_decay": how.ema_decay,
                # a sum over pixels is so much longer a gradient, as its author noted
                "clip_norm": 1.0 if how.loss == "mean" else float(np.prod(drawer.shape)),
                "evaluate_every": how.samples_every or max(1, how.steps // 10),
                "seed": how.seed,
                "quiet": quiet,
                **fit_options,
            }
        ),
        folder=place / "run",
        evaluate=look,
        before_step=look.at,
    )
    drawer = drawer.with_about(steps=done.step, pictures=len(known))  # more than asked for, if more were done
    if how.analytic:
        drawer = _with_variances(drawer, known)
    drawer.save(place, storage=how.storage)
    return drawer


def _with_variances(drawer: Drawer, pictures: Pictures, *, most: int = 256) -> Drawer:
    """What the prediction leaves open at each time, measured on up to `most` of the pictures."""
    rows = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).astype(int)
    batches = [from_bytes(pictures.pixels[rows[k : k + 32]]).to(drawer.device) for k in range(0, len(rows), 32)]
    model, target = drawer.model(), drawer.settings.target
    found = unexplained_variance(model, batches, schedule=drawer.schedule, target=target)
    return Drawer(drawer.net, replace(drawer.settings, unexplained=tuple(found)))


def untrained(pictures: Pictures, how: TrainDrawSettings) -> Drawer:
    """A drawer of fresh weights, shaped for these pictures."""
    labels = pictures.label_names if how.use_labels else ()
    _, channels, height, width = pictures.pixels.shape
    if height != width:
        raise InputError(f"Pictures of {height} x {width}: a drawer learns squares.")
    settings = drawer_settings(replace(how, side=width), colours=channels, labels=labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        return Drawer(new_net(settings), settings)


def drawer_settings(how: TrainDrawSettings, *, colours: int, labels: tuple[str, ...]) -> DrawerSettings:
    """What the drawer will be. Raises InputError if that cannot be, eps with zero terminal SNR for one."""
    return DrawerSettings(
        net_config(how, colours=colours, classes=len(labels)),
        net=how.net,
        schedule=how.schedule,
        zero_terminal_snr=how.zero_terminal_snr,
        target=how.target,
        labels=labels,
    )


def net_config(how: TrainDrawSettings, *, colours: int, classes: int) -> UNetConfig:
    """The network's shape: as many levels as the side can be halved down to about 4.

    Raises InputError for a side that cannot be halved twice, or a width that is no multiple of 8.
    """
    side = how.side
    if side % 4 or side < 8:
        near = max(8, round(side / 4) * 4)
        raise InputError(f"side={side}: the network halves pictures at least twice; take a multiple of 4, as {near}.")
    if how.width % 8 or how.width < 8:
        raise InputError(f"width={how.width}: a multiple of 8, such as 32 (small) or 128 (the post's).")
    halvings = 0
    while side % 2 == 0 and side // 2 >= SMALLEST and halvings < max(LEVELS) - 1:
        side //= 2
        halvings += 1
    sides = [how.side >> k for k in range(halvings + 1)]
    if not set(how.attention) <= set(sides):
        raise InputError(
            f"attention={list(how.attention)}: pictures of side {how.side} have the sides "
            f"{', '.join(map(str, sides))} inside the network; name some of these."
        )
    return UNetConfig(
        side=how.side,
        colours=colours,
        width=how.width,
        multipliers=how.multipliers or LEVELS[halvings + 1],
        blocks=how.blocks,
        smallest_side=side,
        groups=32 if how.width % 32 == 0 else 8,
        times=how.times,
        classes=classes,
        attention_sides=how.attention,
    )


def quick_precision() -> Literal["fp32", "bf16"]:
    """bf16 where the processor computes with it, fp32 elsewhere (there bf16 would be slow)."""
    device = local_device()
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return "bf16" if any(getattr(torch.cpu, name, bool)() for name in known) else "fp32"


class DiffusionLoss:
    """The loss in the head of this file, as `fit` wants it; its random numbers are those that `fit` seeds."""

    def __init__(self, schedule: Schedule, target: Target, *, summed: bool = False) -> None:
        self.schedule, self.summed = schedule, summed
        self.target: Target = target

    def __call__(self, net: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        pixels, labels = batch  # uint8 [N, channels, side, side], int64 [N]
        x0 = pixels.float() / 127.5 - 1
        t = torch.randint(self.schedule.T, (len(x0),), device=x0.device)  # [N]
        eps = torch.randn_like(x0)
        return self.mean(net, x0, eps, t, labels), {"weight": float(len(x0))}

    def mean(self, net: Any, x0: Tensor, eps: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The loss at given noise and times; one number."""
        A, B = self.schedule.at(t, x0)  # each [N, 1, 1, 1]
        x = A * x0 + B * eps
        prediction = net(x, t, labels) if net.labels is not None else net(x, t)
        errors = (prediction.float() - goal(x0, eps, A, B, target=self.target)).square().flatten(1)  # [N, pixels]
        return (errors.sum(1) if self.summed else errors.mean(1)).mean()


class Look:
    """What happens at an evaluation: the loss at fixed times and noises, a page of samples, the model so far saved."""

    def __init__(self, drawer: Drawer, pictures: Pictures, out: Path, how: TrainDrawSettings) -> None:
        self.drawer, self.pictures, self.out, self.how = drawer, pictures, out, how
        self.loss = DiffusionLoss(drawer.schedule, how.target)
        self.step = 0

    def at(self, step: int) -> None:
        """Told of every step before it is done; the page is named by it."""
        self.step = step

    def __call__(self, net: nn.Module) -> dict[str, float]:
        told = {"fixed_loss": self._fixed_loss(net)}
        remove_parts(self.out / "samples")  # of a run that was killed as it wrote them; nobody else writes there now
        for part in self.out.glob(f"{PART}*-{FILE}"):
            part.unlink(missing_ok=True)
        drawer, labels = self.drawer, self.drawer.settings.labels
        wanted = [labels[k % len(labels)] if labels else None for k in range(SHOWN)]
        drawn = drawer.draw(SHOWN, labels=wanted)
        write_png(self.out / "samples" / f"step-{self.step:08d}.png", page(to_bytes(drawn)))
        drawer.with_about(steps=self.step, pictures=len(self.pictures)).save(self.out, storage=self.how.storage)
        return told

    def _fixed_loss(self, net: nn.Module) -> float:
        """Over at most 64 of the pictures, with times spread evenly: comparable from one evaluation to the next."""
        rows = np.linspace(0, len(self.pictures) - 1, min(64, len(self.pictures))).astype(int)
        device = self.drawer.device
        x0 = torch.from_numpy(self.pictures.pixels[rows]).to(device).float() / 127.5 - 1
        labels = torch.from_numpy(self.pictures.labels[rows]).to(device)
        eps = torch.from_numpy(np.random.default_rng(0).standard_normal(x0.shape, np.float32)).to(device)
        t = torch.linspace(0, self.drawer.schedule.T - 1, len(rows), device=device).long()
        return float(self.loss.mean(net, x0, eps, t, labels))
