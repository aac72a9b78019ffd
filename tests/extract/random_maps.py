"""Maps of a text that nobody wrote, of any density; and the projections of the network that stand for the same."""

from __future__ import annotations

import numpy as np
import torch

from tianwen.extract.gplinker import Projections
from tianwen.extract.maps import PointerMap, TextMaps
from tianwen.extract.pointer import Projection


def random_map(rng: np.random.Generator, tokens: int, classes: int, *, shift: float, shared: bool) -> PointerMap:
    """Scores of mean `shift` and deviation about 2."""
    shape = (tokens, 8) if shared else (classes, tokens, 8)
    queries, keys = rng.normal(size=(2, *shape)) / 8**0.25
    starts, ends = rng.normal(size=(2, classes, tokens))
    if not shared:
        starts, ends = np.zeros_like(starts), np.zeros_like(ends)
    starts = starts + shift
    return PointerMap(*(x.astype(np.float32) for x in (queries, keys, starts, ends)))


def random_text(
    seed: int, *, tokens: int = 12, classes: int = 2, predicates: int = 3, shift: float = -2.0, shared: bool = True
) -> TextMaps:
    rng = np.random.default_rng(seed)
    sizes = (classes, predicates, predicates)
    return TextMaps(*(random_map(rng, tokens, size, shift=shift, shared=shared) for size in sizes))


def batch_of(texts: list[TextMaps], *, triangular_links: bool = False) -> Projections:
    """The projections [B, T, ..] that the network would have given, with [CLS], [SEP] and padding."""
    lengths = [len(text.entity.starts[0]) for text in texts]
    longest = max(lengths) + 2
    valid = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        valid[row, 1 : 1 + length] = True
    maps = []
    for which in range(3):
        pointers = [text[which] for text in texts]
        fields = [[_padded(getattr(p, name), longest, at) for p in pointers] for name, at in AXIS.items()]
        queries, keys, starts, ends = (torch.from_numpy(np.stack(field)) for field in fields)
        if pointers[0].shared:
            biases = (starts, ends)
        else:  # the standard head has none, so a shift goes into the products
            one = torch.ones_like(queries[..., :1])
            queries, keys = torch.cat([queries, starts[..., None]], -1), torch.cat([keys, one], -1)
            biases = (None, None)
        maps.append(
            Projection(queries, keys, *biases, valid, pointers[0].starts.shape[0], which == 0 or triangular_links)
        )
    return Projections(*maps)


AXIS = {"queries": -2, "keys": -2, "starts": -1, "ends": -1}


def _padded(x: np.ndarray, longest: int, axis: int) -> np.ndarray:
    """Garbage where no token is, as a network leaves it."""
    width = [(0, 0)] * x.ndim
    width[axis] = (1, longest - x.shape[axis] - 1)
    return np.pad(x, width, constant_values=9.0)
