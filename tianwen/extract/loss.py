"""Multilabel categorical cross-entropy over maps of scores, exact, from the positions of the positives alone.

Post: 7359 (the loss), 8888 and 8373 (over maps), 4187 (as a smooth maximum). The threshold between yes and no is 0.

Notation
    B, H, T   batch, labels, tokens          s_c  score of cell c of one map; the T * T cells of a map are its classes
    L(map)  = log(1 + sum over negatives of e^s) + log(1 + sum over positives of e^-s)
    loss    = mean over the batch of the sum of L over the H maps
    A, u, v   of the efficient head: s_mn = A_mn + u_m + v_n with A shared by all labels

The negatives are what is left of the map once -inf stands at the positives. The well-known sparse form, which takes the
positives' share away from the sum over everything by log(1 - exp(..)), loses all digits once a positive passes a score
of about 10. Here nothing is subtracted.

`projection_loss` gives the same number without the maps: for a label without positives in a text, the sum over its
cells factors into e^u . (e^A e^v), one matrix product for all labels. Maps are made for the labels that a text has.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tianwen.errors import InputError
from tianwen.extract.pointer import Projection

MINUS_INFINITY = float("-inf")
LARGEST_EXPONENT = {torch.float32: 50.0, torch.float64: 600.0}
"""Exponents end at -87 and -708: up to such a largest sum A + u + v, a product of three exponentials that vanishes
belongs to a cell that the 1 in log(1 + ..) hides anyway. Above it float64 is taken, and above that the maps."""


def multilabel_loss(
    scores: Float[Tensor, " batch heads length length"], positives: Int[Tensor, " n 4"]
) -> Float[Tensor, ""]:
    """Mean over the batch of the sum over the maps of the loss above; float32 (float64 if the scores are).

    `scores` are -inf where masked; `positives` holds (batch, head, row, column), in any order. Maps without cells, and
    a batch without texts, have a loss of 0. Raises InputError if a positive lies outside the maps or on a masked cell:
    the loss would be infinite and nothing could lower it.
    """
    if scores.ndim != 4:
        raise InputError(f"Scores have shape {tuple(scores.shape)}; give [batch, heads, length, length].")
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()
    batch, heads, length, width = scores.shape
    cells, maps = _flat(positives, (batch, heads, length, width))
    if not scores.numel():
        return scores.sum()  # 0, with a gradient
    flat = scores.reshape(-1)
    positive = _positive_part(flat.gather(0, cells), maps, batch * heads)
    negative = log_one_plus_sum(flat.index_fill(0, cells, MINUS_INFINITY).view(batch * heads, length * width))
    return (negative.sum() + positive.sum()) / batch


def projection_loss(projection: Projection, positives: Int[Tensor, " n 4"]) -> Float[Tensor, ""]:
    """`multilabel_loss(projection.dense_scores(), positives)`, without the maps where the head is the efficient one."""
    projection = projection.wide()
    products, rows, columns = projection.products(), projection.row_bias, projection.column_bias
    if rows is None or columns is None:
        return multilabel_loss(projection.dense_scores(), positives)
    (batch, length), heads = projection.valid.shape, projection.heads
    allowed = projection.cell_mask()
    _flat(positives, (batch, heads, length, length))
    present, place = torch.unique(positives[:, 0] * heads + positives[:, 1], return_inverse=True)  # maps with positives
    nothing = torch.ones(batch * heads, dtype=torch.bool, device=allowed.device)
    nothing[present] = False
    owner, head = present // heads, present % heads
    some = products.index_select(0, owner) + rows[owner, head][:, :, None] + columns[owner, head][:, None, :]
    some = some.masked_fill(~allowed[owner], MINUS_INFINITY)  # [maps, T, T]
    local = torch.stack([place, torch.zeros_like(place), positives[:, 2], positives[:, 3]], dim=1)
    told = multilabel_loss(some[:, None], local) * len(present) if len(present) else products.sum() * 0
    absent = _log_one_plus_total(products, rows, columns, allowed).flatten()[nothing]
    return (told + absent.sum().to(told.dtype)) / batch


def log_one_plus_sum(scores: Float[Tensor, " maps cells"]) -> Float[Tensor, " maps"]:
    """log(1 + sum of e^s) of each row; rows of nothing but -inf give 0 and a gradient of 0."""
    highest = scores.detach().amax(dim=-1, keepdim=True).clamp(min=0)
    return ((scores - highest).exp().sum(-1) + (-highest[:, 0]).exp()).log() + highest[:, 0]


def _log_one_plus_total(products: Tensor, rows: Tensor, columns: Tensor, allowed: Tensor) -> Tensor:
    """log(1 + sum over allowed cells of e^(A + u + v)) of each map: [B, H], from A [B, T, T] and u, v [B, H, T]."""
    used = allowed.any(-1, keepdim=True).transpose(1, 2), allowed.any(1, keepdim=True)  # rows, columns: [B, 1, T]
    rows, columns = rows.masked_fill(~used[0], MINUS_INFINITY), columns.masked_fill(~used[1], MINUS_INFINITY)
    products = products.masked_fill(~allowed, MINUS_INFINITY)
    tops = [_finite(x.detach().amax(dim)) for x, dim in ((products, (1, 2)), (rows, 2), (columns, 2))]
    shift = tops[0][:, None] + tops[1] + tops[2]  # [B, H]
    if float(shift.max()) > LARGEST_EXPONENT[products.dtype]:
        if products.dtype == torch.float32:
            return _log_one_plus_total(products.double(), rows.double(), columns.double(), allowed)
        maps = products[:, None] + rows[:, :, :, None] + columns[:, :, None, :]  # [B, H, T, T]
        return log_one_plus_sum(maps.flatten(2).flatten(0, 1)).view(shift.shape)
    below = torch.einsum(
        "bmn,bhn->bhm", (products - tops[0][:, None, None]).exp(), (columns - tops[2][..., None]).exp()
    )
    total = (below * (rows - tops[1][..., None]).exp()).sum(-1)  # [B, H]
    base = shift.clamp(min=0)
    return (total * (shift - base).exp() + (-base).exp()).log() + base


def _finite(x: Tensor) -> Tensor:
    return x.masked_fill(x == MINUS_INFINITY, 0.0)


def _positive_part(scores: Tensor, maps: Tensor, count: int) -> Tensor:
    """log(1 + sum of e^-s) of each of `count` maps, from the scores of all positives and the map of each."""
    if bool((scores == MINUS_INFINITY).any()):
        where = int((scores == MINUS_INFINITY).nonzero()[0])
        raise InputError(
            f"Positive {where} stands on a masked cell (padding, or a span that ends before it begins): its score can "
            "never rise. Leave such labels out; check_data counts them."
        )
    highest = scores.new_zeros(count).scatter_reduce(0, maps, -scores.detach(), "amax")  # at least 0
    total = (-highest).exp().index_add(0, maps, (-scores - highest[maps]).exp())
    return total.log() + highest


def _flat(positives: Tensor, shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Of each positive, once: the number of its cell, and of its map."""
    if positives.ndim != 2 or positives.shape[1] != 4:
        raise InputError(f"Positives have shape {tuple(positives.shape)}; give [n, 4]: batch, head, row, column.")
    if positives.is_floating_point():
        raise InputError(f"Positives are places, so whole numbers, not {positives.dtype}.")
    size = torch.tensor(shape, device=positives.device)
    if len(positives) and bool(((positives < 0) | (positives >= size)).any()):
        raise InputError(
            f"A positive lies outside the maps of shape {shape}; the largest are {positives.amax(0).tolist()}."
        )
    batch, head, row, column = positives.long().unbind(1)
    maps = batch * shape[1] + head
    cells = torch.unique((maps * shape[2] + row) * shape[3] + column)
    return cells, cells // (shape[2] * shape[3])
