"""What stands on the backbone: the tied masked-language-model head, and pooling by the first token.

Post: 8998 (no transform and no bias before the vocabulary; classification reads the first token).

Notation
    B, T  batch and tokens      w  wanted tokens (those whose word is to be predicted)
    d     width                 V  vocabulary          E  token embeddings [V, d]
    logits = dropout(h) E^T
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.backbone.linear import linear
from tianwen.backbone.roformer_v2 import RoFormerV2


class MaskedLanguageModel(nn.Module):
    """A backbone and its tied head; the head has no parameters of its own."""

    def __init__(self, backbone: RoFormerV2) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(backbone.config.dropout)

    def forward(
        self,
        ids: Int[Tensor, " batch length"],
        *,
        segments: Int[Tensor, " batch length"] | None = None,
        mask: Bool[Tensor, " #batch 1 #length length"] | None = None,
    ) -> Float[Tensor, " batch length vocabulary"]:
        """Logits of every token."""
        hidden, _ = self.backbone(ids, segments=segments, mask=mask)
        return self.logits(hidden)

    def loss(
        self,
        ids: Int[Tensor, " batch length"],
        wanted: Bool[Tensor, " batch length"],
        targets: Int[Tensor, " batch length"],
        *,
        segments: Int[Tensor, " batch length"] | None = None,
        mask: Bool[Tensor, " #batch 1 #length length"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy over the wanted tokens; only their logits are computed (0 if none is wanted)."""
        hidden, _ = self.backbone(ids, segments=segments, mask=mask)
        logits = self.logits(hidden[wanted])  # [w, V]
        return F.cross_entropy(logits.float(), targets[wanted], reduction="sum") / wanted.sum().clamp(min=1)

    def logits(self, hidden: Float[Tensor, " *tokens width"]) -> Float[Tensor, " *tokens vocabulary"]:
        """dropout(h) E^T."""
        return linear(self.dropout(hidden), self.backbone.tokens.weight)


def first_token(hidden: Float[Tensor, " batch length width"]) -> Float[Tensor, " batch width"]:
    """The sequence's vector for classification: its first token's ([CLS]), without a pooling layer.

    In a padding-free batch the first tokens are `hidden[pack.starts]`, one a sequence, in the order of `pack.order`.
    """
    return hidden[:, 0]
