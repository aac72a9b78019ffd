"""Random numbers as a function of seed, step and rank: a resumed run draws what the first run would have drawn.

Before each step `reseed(seed, step, rank)` sets Python's, numpy's and torch's global generators (CPU and GPU) to what
follows from its arguments alone. No generator state has to be saved, an evaluation in between cannot disturb the
training, and every rank has its own stream.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch


def seed_from(*key: int | str) -> int:
    """63 bits that follow from the key alone, the same on every machine."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little") >> 1


def reseed(*key: int | str) -> None:
    """Set the global generators of random, numpy and torch (all devices) to the state of this key."""
    seed = seed_from(*key)
    random.seed(seed)
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    torch.manual_seed(seed)


@contextmanager
def preserved() -> Iterator[None]:
    """Leave the caller's global generators as they were, whatever the block does to them."""
    python, legacy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(cpu)
        if gpus is not None:
            torch.cuda.set_rng_state_all(gpus)
