"""The asker's model: a UniLM prefix language model on RoFormerV2, or a recurrent one, with a copy mechanism.

Post: 8802 (prefix tree question answering), 8998 (backbone), 9554 (recurrent backbones). Paper: Dong et al.,
UniLM, 2019; See et al., Get To The Point (pointer-generator), 2017.

Notation
    Q, T    source (question) and target tokens; the source sees itself, a target token sees the source and its own past
    h_t     hidden state that predicts target token t, [width]
    p_v     softmax(h_t E^T), the distribution over the vocabulary (tied embeddings)
    p_c     softmax over source positions of <W_q h_t, W_k h_s>, added up per token: the copy distribution
    g       sigmoid(w h_t), the share that is copied;   p(y) = (1 - g) p_v(y) + g p_c(y)
    c_i     token embedding + A e_{i-1} + B e_{i-2}: each position also carries the two tokens before it

A recurrent backbone reads source and target from left to right as one text, and remembers a state instead of keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.backbone.linear import linear, unpack
from tianwen.backbone.mixers import RECURRENT, Shell, ShellConfig
from tianwen.backbone.roformer_v2 import Attends, KeyValue, RoFormerV2, RoFormerV2Config
from tianwen.errors import InputError

ROWS_AT_ONCE = 512
"""Rows of logits computed together outside training: a few megabytes that stay in the cache."""


@dataclass(frozen=True)
class AskConfig:
    """Shape of the asker: its backbone, the width of the copy attention, and whether there is one."""

    backbone: RoFormerV2Config | ShellConfig = field(
        default_factory=lambda: RoFormerV2Config(layers=4, width=256, heads=4)
    )
    copy_width: int = 128
    copying: bool = True  # without: the vocabulary's distribution alone, for comparison

    def __post_init__(self) -> None:
        shell = self.backbone
        if isinstance(shell, ShellConfig) and (shell.bidirectional or shell.mixer not in RECURRENT):
            raise InputError(
                f"An asker's shell reads from left to right and its mixer is one of {', '.join(RECURRENT)}; given was "
                f"{shell}. Its attention is RoFormerV2Config."
            )


class AskModel(nn.Module):
    """Log-probabilities of target tokens given a question; the decoder's only neural part."""

    def __init__(self, config: AskConfig) -> None:
        super().__init__()
        self.config = config
        width = config.backbone.width
        shape = config.backbone
        self.backbone = RoFormerV2(shape) if isinstance(shape, RoFormerV2Config) else Shell(shape)
        self.previous = nn.Linear(2 * width, width, bias=False)  # A and B side by side
        self.copy_query = nn.Linear(width, config.copy_width, bias=False)
        self.copy_key = nn.Linear(width, config.copy_width, bias=False)
        self.copy_gate = nn.Linear(width, 1)
        nn.init.normal_(self.previous.weight, std=0.5 * width**-0.5)

    def train(self, mode: bool = True) -> AskModel:
        """As `nn.Module.train`; weights that were packed for inference are unpacked before they change."""
        if mode:
            unpack(self)
        return super().train(mode)

    def hidden(
        self,
        ids: Int[Tensor, " batch new"],
        *,
        before: Int[Tensor, " batch new 2"],
        segments: Int[Tensor, " batch new"],
        positions: Int[Tensor, " batch new"],
        mask: Bool[Tensor, " batch 1 new total"],
        past: Sequence[KeyValue] | None = None,
    ) -> tuple[Float[Tensor, " batch new width"], list[KeyValue]]:
        """Hidden states of new tokens; `before` holds the ids of the two tokens before each (-1: none).

        A recurrent backbone reads rows from their start, padded on the right; positions and mask say no more than that.
        """
        extra = self.neighbours(before)
        if isinstance(self.backbone, Shell):
            return self.backbone(ids, extra=extra)[0], []
        return self.backbone(ids, segments=segments, positions=positions, mask=mask, past=past, extra=extra)

    def hidden_of_tokens(
        self,
        ids: Int[Tensor, " tokens"],
        *,
        before: Int[Tensor, " tokens 2"],
        segments: Int[Tensor, " tokens"],
        positions: Int[Tensor, " tokens"],
        attention: Sequence[Attends],
    ) -> Float[Tensor, " tokens width"]:
        """As `hidden`, for tokens laid end to end; each layer's `attention` knows who looks at whom."""
        extra = self.neighbours(before)
        assert isinstance(self.backbone, RoFormerV2)
        return self.backbone.forward_tokens(
            ids, segments=segments, positions=positions, attention=attention, extra=extra
        )

    def neighbours(self, before: Int[Tensor, " *shape 2"]) -> Float[Tensor, " *shape width"]:
        """A e_{i-1} + B e_{i-2}; -1 is no token."""
        both = self.backbone.tokens(before.clamp(min=0)) * (before >= 0)[..., None]
        return linear(both.flatten(-2), self.previous.weight)

    def log_probabilities(
        self,
        states: Float[Tensor, " rows width"],
        copy_keys: Float[Tensor, " batch source copy"],
        source_ids: Int[Tensor, " batch source"],
        owner: Int[Tensor, " rows"],
        wanted: Int[Tensor, " wanted"],
        wanted_row: Int[Tensor, " wanted"],
    ) -> Float[Tensor, " wanted"]:
        """log p(wanted token | its row's state), over the FULL vocabulary.

        `copy_keys` are `copy_key` of the source's states, `owner` gives the question of each row, `wanted_row` the row
        of each wanted token, in ascending order. Padding is -1.
        """
        if torch.is_grad_enabled() or len(states) <= ROWS_AT_ONCE:
            return self._log_probabilities(states, copy_keys, source_ids, owner, wanted, wanted_row)
        parts = []
        for start in range(0, len(states), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            a, b = torch.searchsorted(wanted_row, torch.tensor([start, start + ROWS_AT_ONCE])).tolist()
            some = wanted[a:b], wanted_row[a:b] - start
            parts.append(self._log_probabilities(states[rows], copy_keys, source_ids, owner[rows], *some))
        return torch.cat(parts)

    def _log_probabilities(
        self, states: Tensor, copy_keys: Tensor, source_ids: Tensor, owner: Tensor, wanted: Tensor, wanted_row: Tensor
    ) -> Tensor:
        logits = linear(states, self.backbone.tokens.weight).float()  # [rows, vocabulary]
        generated = logits[wanted_row, wanted] - torch.logsumexp(logits, dim=-1)[wanted_row]
        if not self.config.copying:
            return generated
        # Not copy_keys[owner]: the gradient of that is summed by threads that race, in an order that changes its bits.
        keys = copy_keys.index_select(0, owner)  # [rows, source, copy]
        scores = torch.einsum("rc,rsc->rs", linear(states, self.copy_query.weight), keys).float()
        scores = scores * self.config.copy_width**-0.5
        ids = source_ids[owner]  # [rows, source]
        attention = scores.masked_fill(ids < 0, float("-inf")).softmax(dim=-1)
        if len(wanted) > ids.shape[1] * len(states):  # cheaper to spread it over the vocabulary once
            spread = torch.zeros_like(logits).scatter_add_(1, ids.clamp(min=0), attention)
            copied = spread[wanted_row, wanted]
        else:
            copied = (attention[wanted_row] * (ids[wanted_row] == wanted[:, None])).sum(-1)  # [wanted]
        gate = self.copy_gate(states).float().squeeze(-1)[wanted_row]
        return torch.logaddexp(F.logsigmoid(-gate) + generated, F.logsigmoid(gate) + copied.clamp(min=1e-30).log())
