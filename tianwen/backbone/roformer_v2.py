"""RoFormerV2: RoFormer without biases, with RMS normalisation without gain, post-norm and ReLU feed-forward.

Post: 8998 (architecture and initialisation), 8265 (RoPE), 8747 (scale of the initialisation).

Notation
    B  batch           T  new tokens       P  tokens in the cache      n  tokens of a pack (padding-free batch)
    L  layers          d  width            h  heads, each of size s = d / h
    x  <- norm(x + a * attention(x));  x <- norm(x + a * feed_forward(x));  a = 1, or a schedule 0 -> 1 from scratch
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tianwen.backbone.linear import Linear
from tianwen.backbone.masks import Rule
from tianwen.backbone.packing import Attends, Pack, pack
from tianwen.backbone.rope import RopeTable, rotate
from tianwen.errors import InputError

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [B, h, P, s], keys already rotated."""


@dataclass(frozen=True)
class RoFormerV2Config:
    """Shape of a RoFormerV2; the defaults are the published small model."""

    vocabulary: int = 12000
    layers: int = 6
    width: int = 384
    heads: int = 6
    feed_forward: int | None = None  # 4 * width
    segments: int = 2
    max_length: int = 512  # length it was trained for; RoPE itself has no limit and longer inputs are computed
    eps: float = 1e-7  # the original's; converted checkpoints say 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        if min(self.vocabulary, self.layers, self.width, self.heads, self.segments, self.max_length) < 1:
            raise InputError(f"Every size of a RoFormerV2 must be at least 1; given was {self}.")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise InputError(
                f"Width {self.width} and {self.heads} heads give heads of size {self.width / self.heads:g}; the size "
                "must be a whole, even number, for RoPE turns pairs. Choose a width that is a multiple of 2 * heads."
            )


SMALL = RoFormerV2Config()
BASE = RoFormerV2Config(layers=12, width=768, heads=12)
LARGE = RoFormerV2Config(layers=24, width=1024, heads=16)
"""The three published sizes: 15.2, 94.2 and 314.3 million parameters."""


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean x^2 + eps) over the last axis, without gain."""
    return F.rms_norm(x, x.shape[-1:], eps=eps)


def residual_weight(step: int, *, steps: int) -> float:
    """The post's `a` at `step`: 0 at the start, 1 from `steps` on, a straight line between. Not trainable."""
    return min(1.0, max(0.0, step / steps)) if steps > 0 else 1.0


class Attention(nn.Module):
    """Multi-head attention with RoPE on queries and keys; query, key and value share one matrix product."""

    def __init__(self, config: RoFormerV2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.qkv = Linear(config.width, 3 * config.width)
        self.output = Linear(config.width, config.width)

    def forward(
        self,
        x: Float[Tensor, " batch new width"],
        turns: Float[Tensor, " #batch new half 2"],
        mask: Bool[Tensor, " #batch 1 #new total"] | Attends | None,
        past: KeyValue | None = None,
    ) -> tuple[Float[Tensor, " batch new width"], KeyValue]:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [B, T, 3, h, s]
        q, k = rotate(qkv[:, :, :2], turns).permute(2, 0, 3, 1, 4)  # queries and keys in one pass; each [B, h, T, s]
        v = qkv[:, :, 2].transpose(1, 2)  # [B, h, T, s]
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)  # [B, h, P + T, s]
        dropout = self.dropout if self.training else 0.0
        if mask is None or isinstance(mask, Tensor):
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        else:
            mixed = mask.attend(q, k, v, dropout=dropout)
        return self.output(mixed.transpose(1, 2).flatten(2)), (k, v)  # [B, T, d]


class Layer(nn.Module):
    """Attention and feed-forward, each followed by residual addition and normalisation (post-norm)."""

    def __init__(self, config: RoFormerV2Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.inner = Linear(config.width, config.feed_forward or 4 * config.width)
        self.outer = Linear(config.feed_forward or 4 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.eps = config.eps

    def forward(
        self,
        x: Float[Tensor, " batch new width"],
        turns: Float[Tensor, " #batch new half 2"],
        mask: Bool[Tensor, " #batch 1 #new total"] | Attends | None,
        past: KeyValue | None,
        residual_weight: float,
    ) -> tuple[Float[Tensor, " batch new width"], KeyValue]:
        mixed, present = self.attention(x, turns, mask, past)
        x = rms_norm(torch.add(x, self.dropout(mixed), alpha=residual_weight), self.eps)
        inner = self.outer(self.inner(x, relu=True))
        return rms_norm(torch.add(x, self.dropout(inner), alpha=residual_weight), self.eps), present


class RoFormerV2(nn.Module):
    """The backbone: token ids to hidden states, with any attention mask and an optional key-value cache."""

    def __init__(self, config: RoFormerV2Config) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.segments = nn.Embedding(config.segments, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.residual_weight = 1.0  # `a` of the post; a schedule may raise it from 0 when training from scratch
        self.checkpoint_gradients = False  # recompute layers in the backward pass: less memory, a third more time
        self.rope = RopeTable(config.max_length, config.width // config.heads)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Normal truncated at two standard deviations, std 1.13684723 / sqrt(fan_in) / sqrt(L); width for embeddings.

        Cutting the tails shrinks the deviation by 1 / 1.13684723, so that it becomes (fan_in L)^(-1/2) exactly.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                fan_in = module.in_features if isinstance(module, nn.Linear) else module.embedding_dim
                std = 1.13684723 * fan_in**-0.5 * self.config.layers**-0.5
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)

    def embed(
        self,
        ids: Int[Tensor, " batch new"],
        segments: Int[Tensor, " batch new"],
        extra: Float[Tensor, " batch new width"] | None = None,
    ) -> Float[Tensor, " batch new width"]:
        """Token plus segment embedding (plus `extra`), dropout, then the norm: the original's order."""
        x = self.tokens(ids) + self.segments(segments)
        if extra is not None:
            x = x + extra
        return rms_norm(self.dropout(x), self.config.eps)

    def forward(
        self,
        ids: Int[Tensor, " batch new"],
        *,
        segments: Int[Tensor, " batch new"] | None = None,
        positions: Int[Tensor, " batch new"] | None = None,
        mask: Bool[Tensor, " #batch 1 #new total"] | None = None,
        past: Sequence[KeyValue] | None = None,
        extra: Float[Tensor, " batch new width"] | None = None,
    ) -> tuple[Float[Tensor, " batch new width"], list[KeyValue]]:
        """Hidden states of the new tokens and the cache of all tokens so far.

        `mask` is true where a new token (row) may look at a cached or new token (column); `masks.py` builds them.
        `positions` default to 0..T-1, after the cache if there is one, and may exceed `max_length`: the rotation is
        computed for them, but how well a model reads beyond its training length is for you to measure.
        `extra` is added to the embeddings. With `checkpoint_gradients` (training only) the cache comes back empty.
        """
        cached = 0 if past is None else past[0][0].shape[2]
        bound = None
        if positions is None:
            bound = cached + ids.shape[1]
            positions = torch.arange(cached, bound, device=ids.device)[None]  # [1, T]
        x = self.embed(ids, torch.zeros_like(ids) if segments is None else segments, extra)
        return self._run_layers(x, self.rope.rows(positions, bound=bound), mask, past)

    def forward_packed(
        self, batch: Pack, *, extra: Float[Tensor, " tokens width"] | None = None
    ) -> Float[Tensor, " tokens width"]:
        """Hidden states of a padding-free batch; equal to `forward` on each sequence alone."""
        x = self.embed(batch.ids[None], batch.segments[None], None if extra is None else extra[None])  # [1, n, d]
        turns = self.rope.rows(batch.positions[None], bound=max(batch.lengths))
        return self._run_layers(x, turns, batch.runs, None)[0][0]

    def forward_tokens(
        self,
        ids: Int[Tensor, " tokens"],
        *,
        segments: Int[Tensor, " tokens"],
        positions: Int[Tensor, " tokens"],
        attention: Sequence[Attends],
        extra: Float[Tensor, " tokens width"] | None = None,
    ) -> Float[Tensor, " tokens width"]:
        """Hidden states of tokens laid end to end; each layer's `attention` mixes them and keeps its own cache."""
        x = self.embed(ids[None], segments[None], None if extra is None else extra[None])  # [1, n, d]
        turns = self.rope.rows(positions[None])
        for layer, mixer in zip(self.layers, attention, strict=True):
            x, _ = layer(x, turns, mixer, None, self.residual_weight)
        return x[0]

    @torch.no_grad()
    def encode(
        self,
        sequences: Sequence[ArrayLike],
        *,
        segments: Sequence[ArrayLike] | None = None,
        rule: Rule = "encoder",
        budget: int = 1024,
    ) -> list[Float[Tensor, " length width"]]:
        """Hidden states of each sequence, in input order, computed in padding-free batches of about `budget` tokens.

        Dropout is on if the model is in training mode: call `model.eval()` first. Empty sequences give [0, width].
        Raises InputError for ids that the vocabulary does not have.
        """
        device = self.tokens.weight.device
        results = [self.tokens.weight.new_empty(0, self.config.width) for _ in sequences]
        for batch in pack(sequences, segments=segments, rule=rule, budget=budget):
            self._check_ids(batch)
            for index, hidden in batch.split(self.forward_packed(batch.to(device))):
                results[index] = hidden
        return results

    def _check_ids(self, batch: Pack) -> None:
        for values, size, what in (
            (batch.ids, self.config.vocabulary, "token"),
            (batch.segments, self.config.segments, "segment"),
        ):
            low, high = (int(value) for value in values.aminmax())
            if low < 0 or high >= size:
                worst = low if low < 0 else high
                culprit = next(index for index, row in batch.split(values) if bool((row == worst).any()))
                raise InputError(
                    f"Sequence {culprit} has the {what} id {worst}; this model knows 0 to {size - 1}. "
                    "Encode the text with the tokenizer that belongs to the model."
                )

    def _run_layers(
        self, x: Tensor, turns: Tensor, mask: Tensor | Attends | None, past: Sequence[KeyValue] | None
    ) -> tuple[Tensor, list[KeyValue]]:
        present: list[KeyValue] = []
        for index, layer in enumerate(self.layers):
            if self.checkpoint_gradients and self.training and torch.is_grad_enabled() and past is None:
                # Only x comes out: a kept cache would hold the very memory that recomputing saves.
                x = checkpoint(_without_cache, layer, x, turns, mask, self.residual_weight, use_reentrant=False)
                continue
            x, key_value = layer(x, turns, mask, None if past is None else past[index], self.residual_weight)
            present.append(key_value)
        return x, present

    def parameter_count(self) -> int:
        """Number of parameters, the tied head counted once."""
        return sum(math.prod(p.shape) for p in self.parameters())


def _without_cache(layer: Layer, x: Tensor, turns: Tensor, mask: Tensor | Attends | None, weight: float) -> Tensor:
    return layer(x, turns, mask, None, weight)[0]
