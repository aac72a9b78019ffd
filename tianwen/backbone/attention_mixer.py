"""Attention as a mixer: the same calls as a recurrent layer, with a window of keys and values as its state.

Post: 8998 (the attention), 9554 (what stands in its place)

Notation
    B  batch      T  new tokens      P  tokens in the state      W  window      h, s  heads and their size
    documents [B, P]  number of the document of each kept token, -1 for padding; a reset begins the next document
    positions [B, P]  place of each kept token since the state began; padding does not count

A token sees the tokens of its own document that are at most W - 1 places before it (both ways if it is no causal one),
itself among them. A window keeps memory constant however long the stream is; a recurrent layer needs none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.backbone.roformer_v2 import Attention, RoFormerV2Config
from tianwen.backbone.rope import RopeTable


class AttentionState(NamedTuple):
    """What the next tokens may look at; `document` and `position` [B] are those of the last and the next token."""

    keys: Tensor  # [B, h, P, s]
    values: Tensor  # [B, h, P, s]
    documents: Tensor  # [B, P]
    positions: Tensor  # [B, P]
    document: Tensor  # [B]
    position: Tensor  # [B]


class EveryoneBefore:
    """The causal rule without a mask in memory, for rows that are one document each; see `packing.Attends`."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Mixed values [B, h, T, s]."""
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)


class AttentionMixer(nn.Module):
    """Multi-head attention with RoPE and a state; 4 width^2 weights."""

    def __init__(self, width: int, *, heads: int, window: int, causal: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        config = RoFormerV2Config(vocabulary=1, layers=1, width=width, heads=heads, attention_dropout=dropout)
        self.attention = Attention(config)
        self.heads, self.window, self.causal = heads, window, causal
        self.rope = RopeTable(min(window, 512), width // heads)  # it grows when a longer input comes

    def init_state(self, batch: int) -> AttentionState:
        """The state before the first token."""
        weight = self.attention.output.weight
        nothing = weight.new_empty(batch, self.heads, 0, weight.shape[0] // self.heads)
        none = torch.empty(batch, 0, dtype=torch.long, device=weight.device)
        zeros = torch.zeros(batch, dtype=torch.long, device=weight.device)
        return AttentionState(nothing, nothing, none, none, zeros, zeros)

    def step(self, x: Float[Tensor, " batch width"], state: AttentionState) -> tuple[Tensor, AttentionState]:
        """One token."""
        y, state = self.forward(x[:, None], state=state)
        return y[:, 0], state

    def forward(
        self,
        x: Float[Tensor, " batch length width"],
        *,
        state: AttentionState | None = None,
        reset: Bool[Tensor, " batch length"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, " batch length width"], AttentionState]:
        """Tokens after those of `state`; `reset` begins a document, what lies beyond `lengths` is padding."""
        old = self.init_state(len(x)) if state is None else state
        steps = torch.arange(x.shape[1], device=x.device)
        new = old.position[:, None] + steps  # [B, T]
        document = old.document[:, None] + (torch.zeros_like(new) if reset is None else reset.cumsum(1))  # [B, T]
        kept = document if lengths is None else document.where(steps < lengths[:, None], -1)
        documents = torch.cat([old.documents, kept], dim=1)  # [B, P + T]
        positions = torch.cat([old.positions, new], dim=1)
        whole = state is None and reset is None and lengths is None and x.shape[1] <= self.window
        mask = (
            (EveryoneBefore() if self.causal else None) if whole else self._visible(document, new, documents, positions)
        )
        past = (old.keys, old.values) if old.keys.shape[2] else None
        y, (keys, values) = self.attention(
            x, self.rope.rows(new, bound=x.shape[1] if state is None else None), mask, past
        )
        ends = torch.full_like(old.position, x.shape[1]) if lengths is None else lengths
        last = torch.cat([old.document[:, None], document], dim=1).gather(1, ends[:, None])[:, 0]  # [B]
        after = AttentionState(keys, values, documents, positions, last, old.position + ends)
        return y, self._forget(after)

    def _visible(self, document: Tensor, new: Tensor, documents: Tensor, positions: Tensor) -> Tensor:
        """[B, 1, T, P + T]: may the new token look there? Padding sees itself, so that no softmax runs over nothing."""
        away = new[:, :, None] - positions[:, None, :]
        visible = (documents[:, None, :] == document[:, :, None]) & (away < self.window)
        if self.causal:
            visible &= away >= 0
        itself = torch.zeros_like(visible)
        itself[:, :, -new.shape[1] :].diagonal(dim1=1, dim2=2).fill_(True)
        return (visible | itself)[:, None]

    def _forget(self, state: AttentionState) -> AttentionState:
        """Without what no later token of any row can see."""
        seen = (state.documents == state.document[:, None]) & (
            state.positions > state.position[:, None] - self.window
        )  # [B, P]
        left = seen.any(dim=0)
        if bool(left.all()):
            return state
        return state._replace(
            keys=state.keys[:, :, left],
            values=state.values[:, :, left],
            documents=state.documents[:, left],
            positions=state.positions[:, left],
        )
