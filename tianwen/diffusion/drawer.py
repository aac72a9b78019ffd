"""A trained drawer of pictures: network, schedule, target and labels together, in a folder of one file.

Post: 9152, 9181

    drawer = Drawer.load()                       # the bundled one: digits
    x = drawer.draw(16)                             # [16, channels, side, side], from -1 to 1
    x = drawer.draw(seeds=[1, 2, 3, 4], labels="7", guidance=2.0, how=How(steps=10))

Notation
    x  [pictures, channels, side, side], -1 black, 1 white      t  0 .. T-1
    guidance  0 ignores the label, 1 is plain, above 1 insists on it (see `guidance.py`)

The weights saved are the moving average of the training, never the last step's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

import tianwen
from tianwen.diffusion import codec
from tianwen.diffusion.grids import DEFAULT_STEPS, Grid, times_of
from tianwen.diffusion.guidance import guided
from tianwen.diffusion.inpainting import inpaint
from tianwen.diffusion.latents import decode, edit, encode, slerp
from tianwen.diffusion.noise import checked_seeds, normal
from tianwen.diffusion.sampling import Options, Solver, Watch, sample
from tianwen.diffusion.schedule import Schedule
from tianwen.diffusion.targets import Model, Target, checked_target
from tianwen.diffusion.unet_light import LightUNet
from tianwen.diffusion.unet_paper import PaperUNet
from tianwen.diffusion.unet_parts import UNetConfig
from tianwen.errors import InputError, ModelError
from tianwen.training.weights import Storage, load_weights, save_weights

ARCHITECTURE = "tianwen drawer 1"
FILE = "model.safetensors"

NetName = Literal["light", "paper"]
Labels = str | int | None | Sequence[str | int | None]
"""A label by name or number for all pictures, or several that the pictures take in turn."""


@dataclass(frozen=True)
class How:
    """How to walk the chain: see `sampling.sample`. `steps` None: 20."""

    steps: int | None = None
    solver: Solver = "2m"
    grid: Grid = "logsnr"
    eta: float | None = None


DEFAULT = How()


@dataclass(frozen=True)
class DrawerSettings:
    """What a drawer is, besides its weights; plain values, kept in its file."""

    config: UNetConfig
    net: NetName = "light"
    schedule: str = "post"
    zero_terminal_snr: bool = False
    target: Target = "eps"
    labels: tuple[str, ...] = ()
    unexplained: tuple[float, ...] | None = None
    """Analytic-DPM's share of the variance that the prediction leaves open, for each time; None: not measured."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What is good to know of its training: steps, pictures."""

    def __post_init__(self) -> None:
        if self.net not in get_args(NetName):
            raise InputError(f"There is no network {self.net!r}; there are {', '.join(get_args(NetName))}.")
        if self.config.classes != len(self.labels):
            raise InputError(f"{len(self.labels)} labels for a network with {self.config.classes} classes.")
        checked_target(self.target, self.amplitudes)

    @property
    def amplitudes(self) -> Schedule:
        """The schedule that the name stands for."""
        schedule = Schedule.named(self.schedule, self.config.times)
        return schedule.with_zero_terminal_snr() if self.zero_terminal_snr else schedule

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        plain = {name: getattr(self, name) for name in ("net", "schedule", "zero_terminal_snr", "target")}
        return plain | {
            "config": self.config.to_dict(),
            "labels": list(self.labels),
            "unexplained": None if self.unexplained is None else list(self.unexplained),
            "about": dict(self.about),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DrawerSettings:
        """The inverse of `as_dict`."""
        unexplained = values.get("unexplained")
        return cls(
            **{
                **values,
                "config": UNetConfig.from_dict(values["config"]),
                "labels": tuple(values["labels"]),
                "unexplained": None if unexplained is None else tuple(unexplained),
            }
        )


def new_net(settings: DrawerSettings) -> nn.Module:
    """The network with fresh weights from torch's random numbers."""
    match settings.net:
        case "light":
            return LightUNet(settings.config)
        case "paper":
            return PaperUNet(settings.config)


class Drawer:
    """A network that was trained to see noise in pictures, and all that is needed to draw with it."""

    def __init__(self, net: nn.Module, settings: DrawerSettings) -> None:
        self.net, self.settings = net.eval(), settings
        self.schedule = settings.amplitudes

    @classmethod
    def load(cls, folder: str | Path | None = None) -> Drawer:
        """Read a folder that `save` or training wrote; None is the bundled drawer of digits.

        Raises ModelError that says what is missing, damaged or of another kind.
        """
        place = Path(folder) if folder is not None else Path(tianwen.__file__).parent / "models" / "drawer"
        file = place / FILE if place.is_dir() or not place.exists() else place
        if not file.is_file():
            hint = "Its training may not have come to its first evaluation. " if (place / "run").is_dir() else ""
            raise ModelError(
                f"There is no drawer in {str(place)!r}. {hint}Train one: tianwen draw train PICTURES --out DIR"
            )
        weights = load_weights(file)
        kind = weights.metadata.get("architecture")
        if kind != ARCHITECTURE:
            raise ModelError(f"{str(file)!r} holds {kind or 'no drawer'!r}; this version reads {ARCHITECTURE!r}.")
        try:
            settings = DrawerSettings.from_dict(weights.metadata["settings"])
            net = new_net(settings)
            net.load_state_dict({name: tensor.float() for name, tensor in weights.tensors.items()})
        except (RuntimeError, InputError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"{str(file)!r} does not fit what it states of itself: {error}") from error
        return cls(net, settings)

    def save(self, folder: str | Path, *, storage: Storage = "fp32") -> None:
        """Write the folder, in one step. Raises ModelError if that is refused."""
        metadata = {"architecture": ARCHITECTURE, "settings": self.settings.as_dict()}
        save_weights(Path(folder) / FILE, self.net.state_dict(), metadata, storage=storage)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one picture: (channels, side, side)."""
        config = self.settings.config
        return (config.colours, config.side, config.side)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.net.parameters()).device

    def label_number(self, label: str | int | None) -> int:
        """The number of a label by its name (or number); -1 for None. InputError lists the labels there are."""
        names = self.settings.labels
        if label is None:
            return -1
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
            return label
        if label in names:
            return names.index(str(label))
        known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        has = f"its labels are {known}" if names else "it was trained without labels (subfolders of its pictures)"
        raise InputError(f"The drawer knows no label {label!r}: {has}.")

    def model(self, labels: Labels = None, *, guidance: float = 1.0) -> Model:
        """The network as samplers want it: (x, t) -> prediction.

        `labels`: None, one for all pictures, or a list that the pictures take in turn. Raises InputError for labels or
        guidance that cannot be used.
        """
        wanted = [labels] if labels is None or isinstance(labels, str | int) else list(labels)
        numbers = [self.label_number(label) for label in wanted] or [-1]
        if guidance != 1 and max(numbers) < 0:
            raise InputError("Guidance other than 1 needs a label to insist on: give one, or leave guidance out.")
        guided(self.net, torch.tensor(numbers), weight=guidance)  # refuses a weight that is no number
        if not self.settings.labels:
            return self.net

        def called(x: Tensor, t: Tensor) -> Tensor:
            each = torch.tensor([numbers[k % len(numbers)] for k in range(len(x))], device=x.device)  # [pictures]
            return guided(self.net, each, weight=guidance)(x, t)

        return called

    def draw(
        self,
        count: int | None = None,
        *,
        seeds: Iterable[int] | None = None,
        labels: Labels = None,
        guidance: float = 1.0,
        how: How = DEFAULT,
        watch: Watch | None = None,
    ) -> Float[Tensor, " pictures channels side side"]:
        """New pictures, about -1 to 1, not clipped; picture k follows from seeds[k] alone (`count`: seeds 0, 1, ...).

        See `model` for labels and guidance. Raises InputError for options that cannot be used.
        """
        if (count is None) == (seeds is None):
            raise InputError("Say how many pictures to draw, or give their seeds; one of the two.")
        if count is not None and count < 1:
            raise InputError(f"{count} pictures cannot be drawn; the least is 1.")
        return sample(
            self.model(labels, guidance=guidance),
            self.shape,
            schedule=self.schedule,
            solver=how.solver,
            grid=how.grid,
            steps=how.steps,
            eta=how.eta,
            seeds=range(count or 0) if seeds is None else seeds,
            target=self.settings.target,
            unexplained=self.settings.unexplained if how.solver == "ddpm" else None,
            device=self.device,
            watch=watch,
        )

    def encode(
        self, pictures: Float[Tensor, " pictures channels side side"], *, labels: Labels = None, how: How = DEFAULT
    ) -> Float[Tensor, " pictures channels side side"]:
        """The latents that `decode` with the same `how` turns into these pictures, nearly."""
        return encode(
            self.model(labels),
            self._fitting(pictures),
            schedule=self.schedule,
            grid=how.grid,
            steps=how.steps,
            target=self.settings.target,
        )

    def decode(
        self, latents: Float[Tensor, " pictures channels side side"], *, labels: Labels = None, how: How = DEFAULT
    ) -> Float[Tensor, " pictures channels side side"]:
        """The pictures of latents, by the deterministic chain (DDIM), whose inverse `encode` is."""
        return decode(
            self.model(labels),
            self._fitting(latents),
            schedule=self.schedule,
            grid=how.grid,
            steps=how.steps,
            options=Options("ddim", target=self.settings.target),
        )

    def noise(self, seeds: Iterable[int]) -> Float[Tensor, " pictures channels side side"]:
        """The noise that `draw` starts from for these seeds: a latent as good as an encoded picture's."""
        return normal(checked_seeds(seeds), self.shape, stream="start").to(self.device)

    def between(
        self,
        first: Float[Tensor, " pictures channels side side"],
        second: Float[Tensor, " pictures channels side side"],
        count: int,
        *,
        labels: Labels = None,
        how: How = DEFAULT,
    ) -> Float[Tensor, " pictures channels side side"]:
        """`count` pictures on the way from one latent to another (each a batch of one), both ends among them."""
        if count < 2:
            raise InputError(f"A way of {count} pictures has no two ends; the least is 2.")
        on_the_way = [slerp(first, second, k / (count - 1)) for k in range(count)]
        return self.decode(torch.cat(on_the_way), labels=labels, how=how)

    def edit(
        self,
        pictures: Float[Tensor, " pictures channels side side"],
        *,
        strength: float,
        seeds: Sequence[int],
        labels: Labels = None,
        guidance: float = 1.0,
        how: How = DEFAULT,
    ) -> Float[Tensor, " pictures channels side side"]:
        """Pictures noised up to the share `strength` of the times and drawn anew from there, one seed for each."""
        if not 0 <= strength <= 1:
            raise InputError(f"strength={strength}: from 0 (the picture stays) to 1 (nothing of it is left).")
        t = round(strength * (self.schedule.T - 1))
        times_of(self.schedule, how.grid if isinstance(how.grid, str) else "logsnr", how.steps)  # refuses too many
        steps = min(how.steps or DEFAULT_STEPS, t + 1) if isinstance(how.grid, str) else how.steps
        return edit(
            self.model(labels, guidance=guidance),
            self._fitting(pictures),
            t=t,
            schedule=self.schedule,
            grid=how.grid,
            steps=steps,
            options=Options(how.solver, how.eta, self.settings.target),
            seeds=seeds,
        )

    def fill(
        self,
        pictures: Float[Tensor, " pictures channels side side"],
        keep: Tensor,
        *,
        seeds: Sequence[int],
        labels: Labels = None,
        guidance: float = 1.0,
        how: How = DEFAULT,
    ) -> Float[Tensor, " pictures channels side side"]:
        """Pictures as they are where `keep` is true (bool, broadcast to their shape), made up elsewhere, to match."""
        return inpaint(
            self.model(labels, guidance=guidance),
            self._fitting(pictures),
            keep,
            schedule=self.schedule,
            grid=how.grid,
            steps=how.steps,
            eta=1.0 if how.eta is None else how.eta,
            target=self.settings.target,
            seeds=seeds,
        )

    def compress(
        self, pictures: Float[Tensor, " pictures channels side side"], *, entries: int = 256, how: How = DEFAULT
    ) -> bytes:
        """A file of steps * log2(entries) bits a picture, from which `decompress` draws about the same pictures."""
        settings = codec.settings_for(
            self.schedule, self.shape, steps=how.steps or 50, entries=entries, target=self.settings.target
        )
        model = self.model()
        codes = codec.compress(model, self._fitting(pictures), schedule=self.schedule, settings=settings)
        return codec.to_bytes(codes, settings)

    def decompress(self, content: bytes) -> Float[Tensor, " pictures channels side side"]:
        """The pictures of a file of `compress`. InputError if it is none, or belongs to pictures of another shape."""
        codes, settings = codec.from_bytes(content)
        if settings.shape != self.shape or settings.target != self.settings.target:
            raise InputError(
                f"The file holds pictures of {settings.shape}, and this drawer draws {self.shape}: use the model "
                "that compressed them."
            )
        model = self.model()
        return codec.decompress(model, codes, schedule=self.schedule, settings=settings, device=self.device)

    def _fitting(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape or not len(x):
            raise InputError(f"The drawer works on [pictures, {', '.join(map(str, self.shape))}]; given {[*x.shape]}.")
        return x.to(self.device, torch.float32)

    def with_about(self, **facts: Any) -> Drawer:
        """The same drawer with more said about its training."""
        return Drawer(self.net, replace(self.settings, about={**self.settings.about, **facts}))
