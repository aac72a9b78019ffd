"""Noise that depends on one integer per picture and on nothing else: not on the batch, its order or the device.

Post: 9152, 9181

Philox turns (key, counter) into random bits without any state: the key is the picture's seed and the purpose of the
noise, the counter says which draw it is. So the noise of step 7 of picture k is the same alone and in any batch, can
be drawn again at any time (the codec lives on that), and is drawn on the CPU so that a GPU gets the same pictures.

Notation
    seeds   one integer per picture, 0 .. 2^64 - 1         stream   purpose: start, step, codebook ...
    z       [batch, *shape], float32, standard normal      draw     which draw of that purpose, such as the time
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tianwen.errors import InputError

Stream = Literal["start", "step", "known", "again", "codebook"]
_NUMBER: dict[Stream, int] = {"start": 0, "step": 1, "known": 2, "again": 3, "codebook": 4}


def checked_seeds(seeds: int | Iterable[int]) -> list[int]:
    """The seeds as a list; a single integer is one picture. Raises InputError for anything that is no seed."""
    if isinstance(seeds, int | np.integer):
        seeds = [int(seeds)]
    plain: Any = _plain(seeds)  # of arrays and tensors of any number of dimensions
    seeds = plain if isinstance(plain, Iterable) or not hasattr(seeds, "tolist") else [plain]
    if not isinstance(seeds, Iterable):
        raise InputError(f"Seeds are whole numbers, one a picture, such as range(16); given was {seeds!r}.")
    numbers: list[Any] = [_plain(seed) for seed in seeds]
    if not numbers:
        raise InputError("No seeds were given: give one integer for each picture wanted, such as range(16).")
    for seed in numbers:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64:
            raise InputError(f"A seed must be a whole number from 0 to 2^64 - 1, one a picture; given was {seed!r}.")
    return numbers


def _plain(seed: Any) -> Any:
    """A number of numpy or torch as one of Python; anything else, a row of numbers among it, as a list or as it is."""
    return seed.tolist() if hasattr(seed, "tolist") else seed


def normal(
    seeds: Sequence[int], shape: Sequence[int], *, stream: Stream, draw: int = 0
) -> Float[Tensor, " batch *shape"]:
    """Standard normal noise of each picture: [batch, *shape] float32 on the CPU."""
    return _fill([(seed, _NUMBER[stream], draw, 0) for seed in seeds], shape)


def codebook(seed: int, shape: Sequence[int], *, draw: int, entries: Sequence[int]) -> Float[Tensor, " entries *shape"]:
    """Some entries of the codebook of one step: [entries, *shape]. Nothing is kept; ask again for the same bits."""
    return _fill([(seed, _NUMBER["codebook"], draw, entry) for entry in entries], shape)


def _fill(origins: Sequence[tuple[int, int, int, int]], shape: Sequence[int]) -> Tensor:
    """One row for each (key, key, counter, counter); the counter's two low words are left to count the numbers."""
    source = np.random.Philox(key=0)
    generator = np.random.Generator(source)
    state: Any = source.state
    noise = np.empty((len(origins), *shape), dtype=np.float32)
    for row, (seed, stream, draw, entry) in zip(noise.reshape(len(origins), -1), origins, strict=True):
        # Setting the state is as good as a new generator and costs a tenth of it.
        state["state"]["key"][:] = (seed, stream)
        state["state"]["counter"][:] = (0, 0, draw, entry)
        source.state = state
        generator.standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(noise)


def fingerprint() -> str:
    """Eight hex digits that change if this numpy draws other numbers than the one that wrote a file."""
    return hashlib.sha256(normal([1], [64], stream="start").numpy().tobytes()).hexdigest()[:8]
