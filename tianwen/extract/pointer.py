"""GlobalPointer and Efficient GlobalPointer: a score for every span (or pair of tokens) and every label.

Post: 8373 (GlobalPointer), 8877 (the efficient one). Used by 8888 for entities and for the links between them.

Notation
    B, T, d   batch, tokens, width        H  labels ("heads")        s  head size, 64        m, n  row and column
    h_m       hidden state [d]            R_m  rotation by position m (RoPE, interleaved pairs, base 10000), or identity
    standard  q, k = halves of the H parts of Dense(h) [2 H s];    S[h, m, n] = <R_m q_hm, R_n k_hn> / sqrt(s)
    efficient x = Dense(h) [2 s];  q = x[0::2], k = x[1::2];  b = Dense(x) / 2 [2 H], from x before the rotation
              S[h, m, n] = <R_m q_m, R_n k_n> / sqrt(s) + b_n[2 h] + b_m[2 h + 1]
    The even outputs of b belong to the COLUMN (end), the odd ones to the row (start).

A cell is masked (-inf) if its row or column is no token of the text (padding, [CLS], [SEP]), or below the diagonal of a
map of spans. A `Projection` is what a head makes of a text in O(T (s + H)) numbers; whole maps have H T^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tianwen.backbone.rope import RopeTable, rotate
from tianwen.errors import InputError


@dataclass(frozen=True)
class Projection:
    """One head's queries, keys and biases, rotated where the head rotates: any of its scores follows from them."""

    queries: Tensor  # times 1 / sqrt(s); efficient: [B, T, s], shared by all labels; standard: [B, H, T, s]
    keys: Tensor  # as queries
    row_bias: Tensor | None  # [B, H, T], efficient only
    column_bias: Tensor | None  # [B, H, T], efficient only
    valid: Tensor  # bool [B, T]: tokens that may be pointed at
    heads: int
    triangular: bool  # only row <= column

    def cell_mask(self) -> Bool[Tensor, " batch length length"]:
        """True at the cells that may score."""
        allowed = self.valid[:, :, None] & self.valid[:, None, :]
        return allowed.triu() if self.triangular else allowed

    def products(self) -> Float[Tensor, " batch *heads length length"]:
        """<q_m, k_n>, nothing masked: [B, T, T] of the efficient head, [B, H, T, T] of the standard one."""
        return self.queries @ self.keys.transpose(-1, -2)

    def dense_scores(self) -> Float[Tensor, " batch heads length length"]:
        """The whole maps, -inf where masked."""
        scores = self.products()
        if self.row_bias is not None and self.column_bias is not None:
            scores = scores[:, None] + self.column_bias[:, :, None, :] + self.row_bias[:, :, :, None]  # [B, H, T, T]
        return scores.masked_fill(~self.cell_mask()[:, None], float("-inf"))

    def pair_scores(
        self, batch: Int[Tensor, " n"], head: Int[Tensor, " n"], row: Int[Tensor, " n"], column: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Single cells of the maps, at the cost of n products of length s."""
        if self.row_bias is None or self.column_bias is None:
            scores = (self.queries[batch, head, row] * self.keys[batch, head, column]).sum(-1)  # [n]
        else:
            scores = (self.queries[batch, row] * self.keys[batch, column]).sum(-1)  # [n]
            scores = scores + self.column_bias[batch, head, column] + self.row_bias[batch, head, row]
        return scores.masked_fill(~self._allowed(batch, row, column), float("-inf"))

    def label_scores(
        self, batch: Int[Tensor, " n"], row: Int[Tensor, " n"], column: Int[Tensor, " n"]
    ) -> Float[Tensor, " n heads"]:
        """The cells (row, column) of all maps at once."""
        if self.row_bias is None or self.column_bias is None:
            scores = (self.queries[batch, :, row] * self.keys[batch, :, column]).sum(-1)  # [n, H]
        else:
            scores = (self.queries[batch, row] * self.keys[batch, column]).sum(-1, keepdim=True)  # [n, 1]
            scores = scores + self.column_bias[batch, :, column] + self.row_bias[batch, :, row]  # [n, H]
        return scores.masked_fill(~self._allowed(batch, row, column)[:, None], float("-inf"))

    def wide(self) -> Projection:
        """bf16 or fp16 numbers as float32: scores of many cells are about to be added up."""
        floats = {
            "queries": self.queries,
            "keys": self.keys,
            "row_bias": self.row_bias,
            "column_bias": self.column_bias,
        }
        small = (torch.bfloat16, torch.float16)
        return replace(self, **{k: x.float() for k, x in floats.items() if x is not None and x.dtype in small})

    def split(self, lengths: Sequence[int]) -> list[Projection]:
        """The parts of a projection of ONE row that holds sequences end to end, of these lengths."""
        if len(self.valid) != 1:
            raise InputError(f"Only one packed row can be split; this projection has {len(self.valid)} rows.")
        parts = list(lengths)
        queries, keys = self.queries.split(parts, dim=-2), self.keys.split(parts, dim=-2)
        nothing = [None] * len(parts)
        rows = nothing if self.row_bias is None else self.row_bias.split(parts, dim=-1)
        columns = nothing if self.column_bias is None else self.column_bias.split(parts, dim=-1)
        return [
            replace(self, queries=q, keys=k, row_bias=r, column_bias=c, valid=v)
            for q, k, r, c, v in zip(queries, keys, rows, columns, self.valid.split(parts, dim=-1), strict=True)
        ]

    def _allowed(self, batch: Tensor, row: Tensor, column: Tensor) -> Tensor:
        allowed = self.valid[batch, row] & self.valid[batch, column]
        return allowed & (row <= column) if self.triangular else allowed


class Pointer(nn.Module):
    """What both kinds of head share: size, rotation, triangle."""

    def __init__(self, width: int, heads: int, *, size: int = 64, rope: bool = True, triangular: bool = True) -> None:
        super().__init__()
        if heads < 1 or size < 2 or size % 2:
            raise InputError(
                f"{heads} labels, head size {size}: there must be a label, and an even size, for RoPE turns pairs."
            )
        self.heads, self.size, self.triangular = heads, size, triangular
        self.table = RopeTable(512, size) if rope else None
        self.width = width

    def forward(
        self,
        hidden: Float[Tensor, " batch length width"],
        valid: Bool[Tensor, " batch length"],
        *,
        positions: Int[Tensor, " #batch length"] | None = None,
        bound: int | None = None,
    ) -> Projection:
        """The projection of a batch; `valid` marks the tokens of the text.

        `positions` default to 0 .. T-1; only their differences matter. `bound`: a promise that they lie below it.
        """
        raise NotImplementedError

    def _turned(self, x: Tensor, positions: Tensor | None, bound: int | None) -> Tensor:
        """x [B, T, .., s] rotated by position, or as it is."""
        if self.table is None:
            return x
        if positions is None:
            positions, bound = torch.arange(x.shape[1], device=x.device)[None], x.shape[1]  # [1, T]
        return rotate(x, self.table.rows(positions, bound=bound))

    def _initialise(self) -> None:
        """LeCun normal: cut at two deviations, variance 1 / fan_in after the cut; biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                std = 1.13684723 * module.in_features**-0.5
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                nn.init.zeros_(module.bias)


class GlobalPointer(Pointer):
    """Queries and keys of their own for each label: 2 H s d weights."""

    def __init__(self, width: int, heads: int, *, size: int = 64, rope: bool = True, triangular: bool = True) -> None:
        super().__init__(width, heads, size=size, rope=rope, triangular=triangular)
        self.dense = nn.Linear(width, 2 * heads * size)
        self._initialise()

    def forward(
        self, hidden: Tensor, valid: Tensor, *, positions: Tensor | None = None, bound: int | None = None
    ) -> Projection:
        """See `Pointer.forward`."""
        x = self.dense(hidden).unflatten(-1, (self.heads, 2 * self.size))  # [B, T, H, 2 s]
        q, k = (self._turned(half, positions, bound).transpose(1, 2) for half in x.chunk(2, dim=-1))  # [B, H, T, s]
        return Projection(q * self.size**-0.5, k, None, None, valid, self.heads, self.triangular)


class EfficientGlobalPointer(Pointer):
    """One query and key for all labels, and two biases a label: 2 s d + 4 s H weights."""

    def __init__(self, width: int, heads: int, *, size: int = 64, rope: bool = True, triangular: bool = True) -> None:
        super().__init__(width, heads, size=size, rope=rope, triangular=triangular)
        self.dense = nn.Linear(width, 2 * size)
        self.biases = nn.Linear(2 * size, 2 * heads)
        self._initialise()

    def forward(
        self, hidden: Tensor, valid: Tensor, *, positions: Tensor | None = None, bound: int | None = None
    ) -> Projection:
        """See `Pointer.forward`."""
        x = self.dense(hidden)  # [B, T, 2 s]
        bias = self.biases(x).transpose(1, 2) / 2  # [B, 2 H, T]
        q, k = (self._turned(x[..., i::2].contiguous(), positions, bound) for i in (0, 1))  # [B, T, s]
        return Projection(q * self.size**-0.5, k, bias[:, 1::2], bias[:, ::2], valid, self.heads, self.triangular)
