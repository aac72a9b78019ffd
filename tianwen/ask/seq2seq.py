"""The asker's model: a UniLM prefix language model on RoFormerV2 with a copy mechanism.

Post: 8802 (prefix tree question answering), 8998 (backbone). Paper: Dong et al., UniLM, 2019; See et al.,
Get To The Point (pointer-generator), 2017.

Notation
    Q, T    source (question) and target tokens; the source sees itself, a target token sees the source and its own past
    h_t     hidden state that predicts target token t, [width]
    p_v     softmax(h_t E^T), the distribution over the vocabulary (tied embeddings)
    p_c     softmax over source positions of <W_q h_t, W_k h_s>, added up per token: the copy distribution
    g       sigmoid(w h_t), the share that is copied;   p(y) = (1 - g) p_v(y) + g p_c(y)
    c_i     token embedding + A e_{i-1} + B e_{i-2}: each position also carries the two tokens before it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.backbone.roformer_v2 import KeyValue, RoFormerV2, RoFormerV2Config


@dataclass(frozen=True)
class AskConfig:
    """Shape of the asker: its backbone, the width of the copy attention, and whether there is one."""

    backbone: RoFormerV2Config = field(default_factory=lambda: RoFormerV2Config(layers=4, width=256, heads=4))
    copy_width: int = 128
    copying: bool = True  # without: the vocabulary's distribution alone, for comparison


class AskModel(nn.Module):
    """Log-probabilities of target tokens given a question; the decoder's only neural part."""

    def __init__(self, config: AskConfig) -> None:
        super().__init__()
        self.config = config
        width = config.backbone.width
        self.backbone = RoFormerV2(config.backbone)
        self.previous = nn.Linear(2 * width, width, bias=False)  # A and B side by side
        self.copy_query = nn.Linear(width, config.copy_width, bias=False)
        self.copy_key = nn.Linear(width, config.copy_width, bias=False)
        self.copy_gate = nn.Linear(width, 1)
        nn.init.normal_(self.previous.weight, std=0.5 * width**-0.5)

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
        """Hidden states of new tokens; `before` holds the ids of the two tokens before each (-1: none)."""
        neighbours = self.backbone.tokens(before.clamp(min=0)) * (before >= 0)[..., None]
        extra = self.previous(neighbours.flatten(-2))
        return self.backbone(ids, segments=segments, positions=positions, mask=mask, past=past, extra=extra)

    def log_probabilities(
        self,
        states: Float[Tensor, " rows width"],
        source_states: Float[Tensor, " batch source width"],
        source_ids: Int[Tensor, " batch source"],
        owner: Int[Tensor, " rows"],
        wanted: Int[Tensor, " wanted"],
        wanted_row: Int[Tensor, " wanted"],
    ) -> Float[Tensor, " wanted"]:
        """log p(wanted token | its row's state), over the FULL vocabulary.

        `owner` gives the question of each row, `wanted_row` the row of each wanted token. Padding is -1.
        """
        logits = F.linear(states, self.backbone.tokens.weight).float()  # [rows, vocabulary]
        generated = logits[wanted_row, wanted] - torch.logsumexp(logits, dim=-1)[wanted_row]
        if not self.config.copying:
            return generated
        keys = self.copy_key(source_states)  # [batch, source, copy]
        scores = torch.einsum("rc,rsc->rs", self.copy_query(states), keys[owner]).float()
        scores = scores * self.config.copy_width**-0.5
        ids = source_ids[owner]  # [rows, source]
        attention = scores.masked_fill(ids < 0, float("-inf")).softmax(dim=-1)
        copied = (attention[wanted_row] * (ids[wanted_row] == wanted[:, None])).sum(-1)  # [wanted]
        gate = self.copy_gate(states).float().squeeze(-1)[wanted_row]
        return torch.logaddexp(F.logsigmoid(-gate) + generated, F.logsigmoid(gate) + copied.clamp(min=1e-30).log())
