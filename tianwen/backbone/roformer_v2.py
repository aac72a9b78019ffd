"""RoFormerV2: RoFormer without biases, with RMS normalisation without gain, post-norm and ReLU feed-forward.

Post: 8998 (architecture and initialisation), 8265 (RoPE), 8747 (scale of the initialisation).

Notation
    B  batch           T  new tokens       P  tokens in the cache
    L  layers          d  width            h  heads, each of size d / h
    x  <- norm(x + a * attention(x));  x <- norm(x + a * feed_forward(x));  a = 1, or a schedule 0 -> 1 from scratch
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.backbone.rope import gather_tables, rope_tables, rotate

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [B, h, P, d / h], keys already rotated."""


@dataclass(frozen=True)
class RoFormerV2Config:
    """Shape of a RoFormerV2; the defaults are the published small model."""

    vocabulary: int = 12000
    layers: int = 6
    width: int = 384
    heads: int = 6
    feed_forward: int | None = None  # 4 * width
    segments: int = 2
    max_length: int = 512
    eps: float = 1e-7
    dropout: float = 0.1
    attention_dropout: float = 0.1


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean x^2 + eps) over the last axis, without gain."""
    return F.rms_norm(x, x.shape[-1:], eps=eps)


class Attention(nn.Module):
    """Multi-head attention with RoPE on queries and keys; query, key and value share one matrix product."""

    def __init__(self, config: RoFormerV2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self,
        x: Float[Tensor, " batch new width"],
        rope: tuple[Tensor, Tensor],
        mask: Bool[Tensor, " batch 1 new total"] | None,
        past: KeyValue | None = None,
    ) -> tuple[Float[Tensor, " batch new width"], KeyValue]:
        batch, new, width = x.shape
        qkv = self.qkv(x).view(batch, new, 3, self.heads, width // self.heads)  # [B, T, 3, h, d/h]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, h, T, d/h]
        q, k = rotate(q, *rope), rotate(k, *rope)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)  # [B, h, P + T, d/h]
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        mixed = mixed.transpose(1, 2).reshape(batch, new, width)  # [B, T, d]
        return self.output(mixed), (k, v)


class Layer(nn.Module):
    """Attention and feed-forward, each followed by residual addition and normalisation (post-norm)."""

    def __init__(self, config: RoFormerV2Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.inner = nn.Linear(config.width, config.feed_forward or 4 * config.width, bias=False)
        self.outer = nn.Linear(config.feed_forward or 4 * config.width, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.eps = config.eps

    def forward(
        self,
        x: Float[Tensor, " batch new width"],
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: KeyValue | None,
        residual_weight: float,
    ) -> tuple[Float[Tensor, " batch new width"], KeyValue]:
        mixed, present = self.attention(x, rope, mask, past)
        x = rms_norm(x + residual_weight * self.dropout(mixed), self.eps)
        inner = self.outer(F.relu(self.inner(x)))
        return rms_norm(x + residual_weight * self.dropout(inner), self.eps), present


class RoFormerV2(nn.Module):
    """The backbone: token ids to hidden states, with any attention mask and an optional key-value cache."""

    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, config: RoFormerV2Config) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.segments = nn.Embedding(config.segments, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.residual_weight = 1.0  # `a` of the post; a schedule may raise it from 0 when training from scratch
        cos, sin = rope_tables(config.max_length, config.width // config.heads)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Normal truncated at two standard deviations, std 1.13684723 / sqrt(fan_in) / sqrt(L); width for embeddings."""
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
        mask: Bool[Tensor, " batch 1 new total"] | None = None,
        past: Sequence[KeyValue] | None = None,
        extra: Float[Tensor, " batch new width"] | None = None,
    ) -> tuple[Float[Tensor, " batch new width"], list[KeyValue]]:
        """Hidden states of the new tokens and the cache of all tokens so far.

        `mask` is true where a new token (row) may look at a cached or new token (column).
        `positions` default to 0..T-1, after the cache if there is one. `extra` is added to the embeddings.
        """
        cached = 0 if past is None else past[0][0].shape[2]
        if positions is None:
            positions = torch.arange(cached, cached + ids.shape[1], device=ids.device).expand_as(ids)
        x = self.embed(ids, torch.zeros_like(ids) if segments is None else segments, extra)
        rope = gather_tables((self.rope_cos, self.rope_sin), positions)
        rope = (rope[0].to(x.dtype), rope[1].to(x.dtype))
        present: list[KeyValue] = []
        for index, layer in enumerate(self.layers):
            x, key_value = layer(x, rope, mask, None if past is None else past[index], self.residual_weight)
            present.append(key_value)
        return x, present

    def parameter_count(self) -> int:
        """Number of parameters, the tied head counted once."""
        return sum(math.prod(p.shape) for p in self.parameters())
