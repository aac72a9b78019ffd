"""Token ids to hidden states for extraction: neighbouring tokens' embeddings added, then any backbone of the house.

Post: 8998 (RoFormerV2), 9554 (recurrent mixers)

Notation
    B, T, d   batch, tokens, width         n  tokens of a packed row
    c_i  token embedding + sum over k = -w .. w, k != 0, of A_k e_{i+k}: a small model reads words, not lone characters
         + what the words of a table that stand at i are known to mean, if there is one (`tianwen.words.features`)

The backbone is a RoFormerV2, or a `Shell` with a recurrent or an attention mixer, reading in both directions.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tianwen.backbone.linear import linear
from tianwen.backbone.masks import encoder_mask, valid_tokens
from tianwen.backbone.mixers import Shell, ShellConfig
from tianwen.backbone.packing import Pack
from tianwen.backbone.roformer_v2 import RoFormerV2, RoFormerV2Config
from tianwen.words.features import WordFeatures

BackboneConfig = RoFormerV2Config | ShellConfig


class Encoder(nn.Module):
    """A backbone whose input also carries the `reach` tokens on either side of each, and the `words` at each."""

    def __init__(self, config: BackboneConfig, *, reach: int = 2, words: WordFeatures | None = None) -> None:
        super().__init__()
        self.config, self.reach = config, reach
        self.backbone = RoFormerV2(config) if isinstance(config, RoFormerV2Config) else Shell(config)
        self.neighbours = nn.Linear(2 * reach * config.width, config.width, bias=False) if reach else None
        if self.neighbours is not None:
            nn.init.normal_(self.neighbours.weight, std=0.5 * config.width**-0.5)
        self.words = words

    def forward(
        self, ids: Int[Tensor, " batch length"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch length width"]:
        """Hidden states of right-padded rows; padding reaches no token."""
        valid = valid_tokens(lengths, ids.shape[1])
        rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
        extra = self._extra(ids, rows.masked_fill(~valid, -1))
        if isinstance(self.backbone, RoFormerV2):
            full = bool((lengths == ids.shape[1]).all())
            return self.backbone(ids, mask=None if full else encoder_mask(valid), extra=extra)[0]
        return self.backbone(ids, lengths=lengths, extra=extra)[0]

    def forward_packed(self, batch: Pack) -> Float[Tensor, " tokens width"]:
        """Hidden states of sequences laid end to end, each as if it were alone."""
        lengths = torch.tensor(batch.lengths, device=batch.ids.device)
        owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)  # [n]
        extra = self._extra(batch.ids[None], owner[None])
        if isinstance(self.backbone, RoFormerV2):
            return self.backbone.forward_packed(batch, extra=None if extra is None else extra[0])
        if self.backbone.config.mixer == "attention":  # its attention has no packed form: one row a sequence
            rows = [
                self.forward(ids[None], lengths[i : i + 1])[0] for i, ids in enumerate(batch.ids.split(batch.lengths))
            ]
            return torch.cat(rows)
        return self.backbone(batch.ids[None], reset=(batch.positions == 0)[None], extra=extra)[0][0]

    def _extra(self, ids: Tensor, owner: Tensor) -> Tensor | None:
        """What neighbours and words add to the embeddings: [B, T, d]."""
        shares = [self._of_neighbours(ids, owner)] if self.neighbours is not None else []
        if self.words is not None:
            shares.append(self.words(ids))  # a sequence begins and ends with special tokens: no word goes beyond it
        return sum(shares[1:], shares[0]) if shares else None

    def _of_neighbours(self, ids: Tensor, owner: Tensor) -> Tensor:
        """The neighbours' share; a token of another `owner` (sequence, or -1 for padding) is no neighbour."""
        assert self.neighbours is not None
        x = self.backbone.tokens(ids)  # [B, T, d]
        parts = []
        for k in [*range(-self.reach, 0), *range(1, self.reach + 1)]:
            same = (owner == owner.roll(-k, 1)) & (owner >= 0)
            ends = same[:, -k:] if k > 0 else same[:, :-k]
            ends.fill_(False)  # what was rolled around
            parts.append(x.roll(-k, 1) * same[..., None])
        return linear(torch.cat(parts, dim=-1), self.neighbours.weight)
