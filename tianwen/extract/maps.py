"""What the pointer heads say of one text, in numpy: queries, keys and biases, from which any score follows.

Post: 8877

Notation
    n  tokens of the text, without [CLS] and [SEP]      C  classes of a map      s  size of a query
    score(c, i, j) = starts[c, i] + ends[c, j] + <q_i, k_j>      the scale 1/sqrt(s) is in the queries

Biases are added first: products of more or fewer rows at a time differ in the last bit, and large biases of unlike sign
would make more of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from tianwen.extract.gplinker import Projections
    from tianwen.extract.pointer import Projection


class PointerMap(NamedTuple):
    """One map of one text. Classes that do not share queries and keys have them with an axis of classes before."""

    queries: Float[np.ndarray, " *classes tokens size"]
    keys: Float[np.ndarray, " *classes tokens size"]
    starts: Float[np.ndarray, " classes tokens"]
    ends: Float[np.ndarray, " classes tokens"]

    @property
    def shared(self) -> bool:
        """Whether all classes share queries and keys."""
        return self.queries.ndim == 2

    def products(
        self, rows: Int[np.ndarray, " rows"] | slice, columns: Int[np.ndarray, " columns"] | slice, classes: slice
    ) -> Float[np.ndarray, " #classes rows columns"]:
        """<q_i, k_j> of some rows, columns and classes; one class where all share it."""
        queries = self.queries[None, rows] if self.shared else self.queries[classes][:, rows]
        keys = self.keys[None, columns] if self.shared else self.keys[classes][:, columns]
        return queries @ keys.swapaxes(-1, -2)

    def grid(
        self, rows: Int[np.ndarray, " rows"] | slice, columns: Int[np.ndarray, " columns"] | slice, classes: slice
    ) -> Float[np.ndarray, " classes rows columns"]:
        """Scores of some rows, columns and classes."""
        scores = self.starts[classes][:, rows, None] + self.ends[classes][:, None, columns]
        scores += self.products(rows, columns, classes)
        return scores

    def cells(
        self, rows: Int[np.ndarray, " cells"], columns: Int[np.ndarray, " cells"]
    ) -> Float[np.ndarray, " classes cells"]:
        """Scores of single cells, for every class."""
        products = np.einsum("...ns,...ns->...n", self.queries[..., rows, :], self.keys[..., columns, :])
        return self.starts[:, rows] + self.ends[:, columns] + products


class TextMaps(NamedTuple):
    """The three maps of one text; no heads and tails where only entities are looked for."""

    entity: PointerMap
    heads: PointerMap | None = None
    tails: PointerMap | None = None


def text_maps(projections: Projections) -> TextMaps:
    """The maps of one text [CLS] .. [SEP], from the network's projections of a batch of 1."""
    return TextMaps(*(None if one is None else _pointer_map(one) for one in projections))  # type: ignore[arg-type]


def _pointer_map(one: Projection) -> PointerMap:
    one = one.wide()
    queries, keys = (x[0, ..., 1:-1, :].cpu().numpy() for x in (one.queries, one.keys))
    if one.row_bias is None or one.column_bias is None:
        nothing = np.zeros((one.heads, queries.shape[-2]), np.float32)
        return PointerMap(queries, keys, nothing, nothing)
    return PointerMap(queries, keys, *(bias[0, :, 1:-1].cpu().numpy() for bias in (one.row_bias, one.column_bias)))
