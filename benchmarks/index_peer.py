"""What is asked of every way to hold decoding to a catalogue, so that all are measured alike.

Post: 8802

"compact" is what a peer gives by itself for 128 rows whose state it holds, where it can hold one: ragged lists, a
Python list a row, a padded table or a mask of bits. "scores" is a table [128, 12000], -inf where nothing may follow.
"""

from __future__ import annotations

from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from index_keys import ROWS, VOCABULARY, Keys
from torch import Tensor

SCORES = torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0))
FIRST_CHARACTER = 0x4E00
MOST_TOKEN = 11_000  # tokens of the catalogue are below it; what stands above is a peer's own


class Peer:
    """What is asked of a peer; `package` is None or what must be installed."""

    package: str | None = None

    def build(self, keys: Keys) -> None:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def open(self, folder: Path) -> None:
        raise NotImplementedError

    def stand(self, ids: np.ndarray) -> None:
        """Get ready for a step behind these prefixes [ROWS, depth]; not timed."""
        raise NotImplementedError

    def go_back(self) -> None:
        """Make the step before, as `generate` does, if `scores` goes on from there; not timed."""

    def compact(self) -> Any:
        raise NotImplementedError

    def lists(self, given: Any) -> list[list[int]]:
        """What `compact` gave, as a list of tokens a row."""
        raise NotImplementedError

    def scores(self) -> Tensor:
        raise NotImplementedError

    def offered(self, scores: Tensor) -> list[list[int]]:
        """The tokens that have scores, those of the catalogue alone."""
        return [row.nonzero()[:, 0].tolist() for row in torch.isfinite(scores[:, :MOST_TOKEN])]

    def version(self) -> str:
        return version(self.package) if self.package else ""


def as_text(keys: Keys, first_character: int = FIRST_CHARACTER) -> list[str]:
    """The keys as texts of one character a token, for peers that read text."""
    row_ptr, tokens = keys.flat()
    text = (tokens.astype("<u4") + first_character).tobytes().decode("utf-32-le")
    bounds = row_ptr.tolist()
    return [text[a:b] for a, b in pairwise(bounds)]
