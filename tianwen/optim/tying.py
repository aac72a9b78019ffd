"""Tied input and output embeddings, with the halves of the hidden state swapped: gradients become dense.

Post: 9736 (remedy 2), 9698 (what tying does to a model that just copies, and why the halves are swapped)

Notation
    E  embeddings [vocabulary, dim]        h  hidden states after the last norm [..., dim]
    S[h] = h[dim/2:] || h[:dim/2]          logits = S[h] E^T, [..., vocabulary]

At the start of training h is close to E[w] of the token just read, and h E^T would be largest at w itself: the model
begins by repeating its input, with a large loss. Swapped halves of E[w] have no such likeness to it. Through the
softmax every row of E has a gradient at every step, so no momentum goes silent - until the loss reaches 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tianwen.errors import InputError


def swap_halves(h: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """S[h]: the second half of the last axis, then the first; its own inverse. dim must be even."""
    first, second = h.chunk(2, dim=-1)  # [..., dim / 2] each
    return torch.cat([second, first], dim=-1)


class TiedHead(nn.Module):
    """An output head without weights of its own: logits = S[h] E^T, or h E^T with half_swap=False."""

    def __init__(self, embedding: nn.Embedding, *, half_swap: bool = True) -> None:
        """Share the embedding's weight. Raises InputError if its halves cannot be swapped."""
        super().__init__()
        if half_swap and embedding.embedding_dim % 2:
            raise InputError(
                f"An embedding of {embedding.embedding_dim} components has no two halves. Use an even number, or "
                "half_swap=False."
            )
        self.weight = embedding.weight
        self.half_swap = half_swap

    def forward(self, h: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch vocabulary"]:
        """Logits over the vocabulary."""
        return nn.functional.linear(swap_halves(h) if self.half_swap else h, self.weight)

    def extra_repr(self) -> str:
        """What print(model) shows."""
        return f"half_swap={self.half_swap}"


def tie_embeddings(model: nn.Module, embedding: str, head: str, *, half_swap: bool = True) -> nn.Module:
    """Put a `TiedHead` in the place of the module `head` of a model, sharing the weight of the module `embedding`.

    tie_embeddings(model, "backbone.tokens", "lm_head")        # before the optimiser is made

    The model is changed and given back. A bias of the old head is dropped. Raises InputError if a name is wrong, if
    `embedding` is no nn.Embedding, or if the old head has another number of outputs.
    """
    modules = dict(model.named_modules())
    for name in (embedding, head):
        if name not in modules or not name:
            known = ", ".join(repr(known) for known in list(modules)[1:9])
            raise InputError(f"The model has no module {name!r}. Its modules are: {known} ...")
    table = modules[embedding]
    if not isinstance(table, nn.Embedding):
        raise InputError(f"{embedding!r} is a {type(table).__name__}; only an nn.Embedding can be tied to a head.")
    old = getattr(modules[head], "weight", None)
    if isinstance(old, Tensor) and old.shape != table.weight.shape:
        raise InputError(
            f"The weight of {head!r} is {list(old.shape)}, that of {embedding!r} {list(table.weight.shape)}: they "
            "cannot be one. Both need one row a token, of the same length."
        )
    parent, _, name = head.rpartition(".")
    setattr(modules[parent], name, TiedHead(table, half_swap=half_swap))
    return model
