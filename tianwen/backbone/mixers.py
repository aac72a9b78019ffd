"""The RoFormerV2 shell with any mixer in it, attention or a recurrent one, as an encoder or as a causal model.

Post: 9554 (the shell of its comparison), 8998 (the shell)

Notation
    B, T  batch and tokens      d  width      L  layers
    x  <- norm(x + mixer(x));  x <- norm(x + feed_forward(x));   norm(x) = x / sqrt(mean x^2 + eps), no gain, no bias
    Every mixer has 4 d^2 weights (the complex RWKV about so many), the feed-forward 8 d^2: models differ in how tokens
    mix, and in nothing else.

A mixer has three calls: `forward(x, state, reset, lengths) -> (y, state)`, `step(x, state) -> (y, state)` for one token
and `init_state(batch)`. The embedding is normalised like every layer; there are no segments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.backbone.attention_mixer import AttentionMixer
from tianwen.backbone.linear import Linear
from tianwen.backbone.roformer_v2 import rms_norm
from tianwen.errors import InputError
from tianwen.recurrent.bidirectional import Bidirectional
from tianwen.recurrent.complex_rwkv import ComplexRWKV
from tianwen.recurrent.lru import LRU
from tianwen.recurrent.rwkv import RWKV
from tianwen.recurrent.slru import SLRU

MixerName = Literal["attention", "lru", "slru", "rwkv", "complex_rwkv"]
"""What may stand between the feed-forward layers."""

MIXERS: tuple[str, ...] = get_args(MixerName)
RECURRENT = {"lru": LRU, "slru": SLRU, "rwkv": RWKV, "complex_rwkv": ComplexRWKV}
EVERYTHING = 1 << 62  # a window that no sequence leaves


@dataclass(frozen=True)
class ShellConfig:
    """Shape of a shell. `heads` and `window` (how far back a token sees) are for attention alone."""

    vocabulary: int
    mixer: MixerName = "lru"
    layers: int = 4
    width: int = 256
    heads: int = 4
    feed_forward: int | None = None  # 4 * width
    window: int = 512
    bidirectional: bool = False
    eps: float = 1e-12
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.mixer not in MIXERS:
            raise InputError(f"There is no mixer {self.mixer!r}; there are: {', '.join(MIXERS)}.")
        if min(self.vocabulary, self.layers, self.width, self.heads, self.window) < 1:
            raise InputError(f"Every size must be at least 1; given was {self}.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout={self.dropout}: a share of what is dropped, from 0 to below 1.")


class ShellLayer(nn.Module):
    """Mixer and feed-forward, each followed by residual addition and normalisation (post-norm)."""

    mixer: Any  # it has step and init_state besides forward

    def __init__(self, config: ShellConfig, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.inner = Linear(config.width, config.feed_forward or 4 * config.width)
        self.outer = Linear(config.feed_forward or 4 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.eps = config.eps

    def forward(self, x: Tensor, state: Any, reset: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Any]:
        """x and y [B, T, d]."""
        mixed, state = self.mixer(x, state=state, reset=reset, lengths=lengths)
        x = rms_norm(x + self.dropout(mixed), self.eps)
        return rms_norm(x + self.dropout(self.outer(self.inner(x, relu=True))), self.eps), state

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """x and y [B, d]."""
        mixed, state = self.mixer.step(x, state)
        x = rms_norm(x + self.dropout(mixed), self.eps)
        # Plain products: for a row or two they take half the time of the kernel that `Linear` prefers.
        inner = F.linear(F.relu(F.linear(x, self.inner.weight)), self.outer.weight)
        return rms_norm(x + self.dropout(inner), self.eps), state


class Shell(nn.Module):
    """Token ids to hidden states, with a state that goes on where the last call ended."""

    def __init__(self, config: ShellConfig, *, mixers: Sequence[nn.Module] | None = None) -> None:
        """`mixers`: one a layer, instead of those that `config.mixer` names."""
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.dropout = nn.Dropout(config.dropout)
        chosen = [make_mixer(config) for _ in range(config.layers)] if mixers is None else mixers
        self.layers: Any = nn.ModuleList(ShellLayer(config, mixer) for mixer in chosen)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Every matrix: normal cut at two deviations, 1.13684723 / sqrt(fan_in L); the decay of a mixer stays."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                fan_in = module.in_features if isinstance(module, nn.Linear) else module.embedding_dim
                std = 1.13684723 * (fan_in * self.config.layers) ** -0.5
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)

    def init_state(self, batch: int) -> list[Any]:
        """The state before the first token, one part a layer."""
        return [layer.mixer.init_state(batch) for layer in self.layers]

    def forward(
        self,
        ids: Int[Tensor, " batch length"],
        *,
        state: Sequence[Any] | None = None,
        reset: Bool[Tensor, " batch length"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
        extra: Float[Tensor, " batch length width"] | None = None,
    ) -> tuple[Float[Tensor, " batch length width"], list[Any]]:
        """Hidden states, and the state after the last token (of each row's `lengths`).

        `reset` is true where a new document begins: nothing before it is seen. What lies beyond `lengths` is padding:
        it is computed, and reaches neither another token nor the state. `extra` is added to the embeddings.
        """
        x = self._embedded(ids, extra)
        after: list[Any] = []
        for index, layer in enumerate(self.layers):
            x, part = layer(x, None if state is None else state[index], reset, lengths)
            after.append(part)
        return x, after

    def step(
        self, ids: Int[Tensor, " batch"], state: Sequence[Any], *, extra: Float[Tensor, " batch width"] | None = None
    ) -> tuple[Float[Tensor, " batch width"], list[Any]]:
        """One token a row."""
        x = self._embedded(ids, extra)
        after: list[Any] = []
        for layer, part in zip(self.layers, state, strict=True):
            x, part = layer.step(x, part)
            after.append(part)
        return x, after

    def _embedded(self, ids: Tensor, extra: Tensor | None) -> Tensor:
        x = self.tokens(ids) if extra is None else self.tokens(ids) + extra
        return rms_norm(self.dropout(x), self.config.eps)

    @torch.no_grad()
    def encode(self, sequences: Sequence[ArrayLike], *, budget: int = 2048) -> list[Float[Tensor, " length width"]]:
        """Hidden states of each sequence, in input order, in batches of similar length of about `budget` tokens.

        Dropout is on if the model is in training mode: call `model.eval()` first. Empty sequences give [0, width].
        """
        rows = [torch.as_tensor(np.asarray(row, np.int64), device=self.tokens.weight.device) for row in sequences]
        results = [self.tokens.weight.new_empty(0, self.config.width) for _ in rows]
        order = sorted((index for index, row in enumerate(rows) if len(row)), key=lambda index: len(rows[index]))
        while order:
            longest = len(rows[order[-1]])
            taken, order = order[-max(1, budget // longest) :], order[: -max(1, budget // longest)]
            ids = nn.utils.rnn.pad_sequence([rows[index] for index in taken], batch_first=True)  # [B, T]
            lengths = torch.tensor([len(rows[index]) for index in taken], device=ids.device)
            hidden, _ = self(ids, lengths=lengths)
            for index, states in zip(taken, hidden, strict=True):
                results[index] = states[: len(rows[index])].clone()
        return results

    def parameter_count(self) -> int:
        """Number of parameters."""
        return sum(math.prod(p.shape) for p in self.parameters())


def make_mixer(config: ShellConfig) -> nn.Module:
    """A new mixer as `config` names it."""
    both = config.bidirectional
    if config.mixer == "attention":
        window = EVERYTHING if both else config.window
        return AttentionMixer(config.width, heads=config.heads, window=window, causal=not both, dropout=config.dropout)
    layer = RECURRENT[config.mixer]
    return Bidirectional(layer, config.width) if both else layer(config.width)
