"""Latents of pictures on disk, beside what is needed to decode them; and telling them from a codec's picks.

Post: 9181

Notation
    latents  float32 [pictures, channels, side, side]      picks: see `codec.py`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from tianwen.diffusion.codec import MAGIC
from tianwen.errors import InputError, ModelError
from tianwen.training.weights import load_weights, save_weights

KIND = "tianwen latents 1"


@dataclass(frozen=True)
class Latents:
    """Latents and how they were made: decoding wants the same labels and steps."""

    latents: Tensor
    labels: tuple[str, ...]
    steps: int


def save_latents(
    path: str | Path, latents: Float[Tensor, " pictures channels side side"], *, labels: Sequence[str], steps: int
) -> None:
    """Write one file, in one step. Raises ModelError if that is refused."""
    save_weights(path, {"latents": latents}, {"kind": KIND, "labels": list(labels), "steps": steps})


def read_latents(path: str | Path) -> Latents:
    """Read a file of `save_latents`. Raises InputError if it is another kind of file, or damaged."""
    try:
        found = load_weights(path)
    except ModelError as error:
        raise InputError(f"{str(path)!r} is no file of latents or picks that can be read: {error}") from error
    if found.metadata.get("kind") != KIND:
        raise InputError(f"{str(path)!r} holds no latents; give a file that `tianwen draw encode` wrote.")
    return Latents(found.tensors["latents"], tuple(found.metadata["labels"]), int(found.metadata["steps"]))


def read_picks(path: str | Path) -> bytes | None:
    """The whole file if it is one of the codec's, None if it is not. Raises InputError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read() if file.read(len(MAGIC)) == MAGIC and not file.seek(0) else None
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}.") from error
