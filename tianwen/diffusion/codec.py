"""Compression by a diffusion model: the chain's noises are picked from codebooks, and the picks are the file.

Post: 9245's successor (DDCM)
Paper: Ohayon et al., Compressed Image Generation with Denoising Diffusion Codebook Models, 2025.

Notation
    K        entries of each codebook (a power of two)         S   steps
    codes    [batch, S]: one pick for the start and one for every step but the last, which adds no noise
    z_k      entry k of the codebook of time t: noise drawn from (seed, t, k), never stored
    pick     argmax_k <z_k, x0 - x0_hat>: the noise that points from what the model sees to the picture

A file has S log2(K) bits. Codebooks are drawn anew, some entries at a time, wherever they are needed: at 128 x 128 the
reference's table of all of them takes 25 GB.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tianwen.diffusion.ddim import ddim_step
from tianwen.diffusion.grids import times_of
from tianwen.diffusion.noise import checked_seeds, codebook, fingerprint
from tianwen.diffusion.sampling import at_least_float32, checked_shape, look, transition
from tianwen.diffusion.schedule import Schedule
from tianwen.diffusion.steps import apply
from tianwen.diffusion.targets import Model, Target, checked_target
from tianwen.errors import InputError

ENTRY_BYTES = 1 << 23
"""Memory for entries of a codebook at a time, 8 MiB, whatever its size."""


@dataclass(frozen=True)
class CodecSettings:
    """What both sides must agree on besides the model."""

    shape: tuple[int, ...]
    times: tuple[int, ...]
    entries: int = 64
    seed: int = 0
    target: Target = "eps"
    numbers: str = ""  # fingerprint of the noise generator

    def __post_init__(self) -> None:
        checked_shape(self.shape)
        if not self.times or not all(type(t) is int for t in self.times):
            raise InputError(f"The times of the chain are whole numbers; given was {self.times[:8]}.")
        if not isinstance(self.entries, int) or self.entries < 2 or self.entries & (self.entries - 1):
            raise InputError(f"A codebook has a power of two of entries, 2, 4, 8 ...; given was {self.entries!r}.")
        if self.entries > 1 << 16:
            raise InputError(f"A codebook has at most 65,536 entries; given was {self.entries}.")
        if not isinstance(self.seed, int):
            raise InputError(f"The seed of the codebooks is one whole number; given was {self.seed!r}.")
        checked_seeds(self.seed)
        if not self.numbers:
            object.__setattr__(self, "numbers", fingerprint())
        elif self.numbers != fingerprint():
            raise InputError(
                "This file was written with a numpy that draws other random numbers, so its codebooks cannot be drawn "
                "again here. Read it with the version that wrote it."
            )

    @property
    def bits(self) -> int:
        """Bits of one pick."""
        return self.entries.bit_length() - 1


def settings_for(
    schedule: Schedule, shape: tuple[int, ...], *, steps: int, entries: int = 64, seed: int = 0, target: Target = "eps"
) -> CodecSettings:
    """Settings with the times of the log-SNR grid, `steps` of them: steps * log2(entries) bits a picture."""
    checked_target(target, schedule)
    return CodecSettings(tuple(shape), tuple(times_of(schedule, "logsnr", steps)), entries, seed, target)


@torch.no_grad()
def compress(
    eps_model: Model, x0: Float[Tensor, " batch *shape"], *, schedule: Schedule, settings: CodecSettings
) -> Int[Tensor, " batch S"]:
    """The picks that lead the chain to each picture."""
    if tuple(x0.shape[1:]) != settings.shape:
        raise InputError(f"The settings are for pictures of {settings.shape}; given was {tuple(x0.shape[1:])}.")
    goal = x0.to(at_least_float32(x0.dtype))
    return _walk(eps_model, schedule, settings, goal=goal, dtype=x0.dtype)[1]


@torch.no_grad()
def decompress(
    eps_model: Model,
    codes: Int[Tensor, " batch S"],
    *,
    schedule: Schedule,
    settings: CodecSettings,
    device: torch.device | str = "cpu",
) -> Float[Tensor, " batch *shape"]:
    """The pictures of the picks, float32."""
    if codes.dim() != 2 or codes.shape[1] != len(settings.times):
        raise InputError(f"A picture has {len(settings.times)} picks here; given was {list(codes.shape)}.")
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= settings.entries):
        raise InputError(f"A pick is a number from 0 to {settings.entries - 1}; these codes hold others.")
    return _walk(eps_model, schedule, settings, codes=codes.to(device), dtype=torch.float32)[0]


def _walk(
    model: Model,
    schedule: Schedule,
    settings: CodecSettings,
    *,
    goal: Tensor | None = None,
    codes: Tensor | None = None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The chain of both sides: picks are made where a goal is given, and read where codes are."""
    checked_target(settings.target, schedule)
    times = times_of(schedule, settings.times)
    picks: list[Tensor] = []

    def picked(draw: int, direction: Tensor | None) -> Tensor:
        """The entries that this draw's picks stand for: [batch, *shape]."""
        pick = _best(settings, draw, direction) if direction is not None else codes[:, len(picks)]  # type: ignore[index]
        picks.append(pick)
        return codebook(settings.seed, settings.shape, draw=draw, entries=pick.tolist())

    place = goal if goal is not None else codes
    assert place is not None
    x = picked(schedule.T, goal).to(place.device, at_least_float32(dtype))
    for t, following in pairwise([*times, -1]):
        move = transition(schedule, t, following)
        x0, eps = look(model, x, t, move, target=settings.target, dtype=dtype)
        if following < 0:
            x = x0
        else:
            z = picked(t, None if goal is None else goal - x0).to(x)
            x = apply(ddim_step(move, eta=1.0), x0, eps, z=z)
    return x, torch.stack(picks, dim=1)


def _best(settings: CodecSettings, draw: int, direction: Tensor) -> Int[Tensor, " batch"]:
    """For each picture the entry with the largest inner product, over the codebook in pieces of bounded memory."""
    wanted = direction.detach().to("cpu", torch.float64).flatten(1)  # [batch, d]
    at_once = max(1, ENTRY_BYTES // (8 * wanted.shape[1]))
    best = torch.full(wanted.shape[:1], -torch.inf, dtype=torch.float64)
    pick = torch.zeros(wanted.shape[0], dtype=torch.long)
    for first in range(0, settings.entries, at_once):
        some = range(first, min(first + at_once, settings.entries))
        entries = codebook(settings.seed, settings.shape, draw=draw, entries=some).flatten(1).double()  # [k, d]
        value, where = (wanted @ entries.T).max(dim=1)
        pick = torch.where(value > best, where + first, pick)
        best = torch.maximum(value, best)
    return pick


MAGIC = b"TWDC1\n"


def to_bytes(codes: Int[Tensor, " batch S"], settings: CodecSettings) -> bytes:
    """A file: one line of JSON with the settings, then the picks, log2(K) bits each."""
    header = json.dumps(asdict(settings) | {"pictures": codes.shape[0]}).encode()
    picks = codes.cpu().numpy().astype(np.uint32)[..., None]
    bits = (picks >> np.arange(settings.bits, dtype=np.uint32)) & 1  # [batch, S, bits], the low bit first
    return MAGIC + header + b"\n" + np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def from_bytes(data: bytes) -> tuple[Int[Tensor, " batch S"], CodecSettings]:
    """The picks and settings of a file. Raises InputError if it is none, or is cut off."""
    try:
        if not data.startswith(MAGIC):
            raise ValueError("the beginning is not that of such a file")
        head, _, packed = data[len(MAGIC) :].partition(b"\n")
        values = json.loads(head)
        if not isinstance(values, dict):
            raise ValueError("its settings are not a table of names and values")
        pictures = int(values.pop("pictures"))
        settings = CodecSettings(
            shape=tuple(values["shape"]),
            times=tuple(values["times"]),
            entries=values["entries"],
            seed=values["seed"],
            target=values["target"],
            numbers=values["numbers"],
        )
        return torch.from_numpy(_unpacked(packed, pictures, settings)), settings
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"This is no file of compressed pictures that can be read: {error}.") from None


def _unpacked(packed: bytes, pictures: int, settings: CodecSettings) -> NDArray[np.int64]:
    count = pictures * len(settings.times) * settings.bits
    if pictures < 0 or len(packed) != (count + 7) // 8:
        raise ValueError(f"it should hold {(count + 7) // 8} bytes of picks and holds {len(packed)}")
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count)
    weights = 1 << np.arange(settings.bits, dtype=np.int64)
    return bits.reshape(pictures, len(settings.times), settings.bits).astype(np.int64) @ weights  # [pictures, S]
