"""A causal language model: the shell with any mixer, and a head that is its own embedding.

Post: 9554 (causal language models with LRU, SLRU, RWKV and attention in the same shell)

Notation
    B, T  batch and tokens      d  width      V  vocabulary      E  embedding [V, d]
    logits = h E^T              loss = -log p(target), mean over the targets that are wanted
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tianwen.backbone.linear import linear
from tianwen.backbone.mixers import Shell, ShellConfig
from tianwen.errors import InputError
from tianwen.write.characters import START

UNWANTED = -1
"""A target that is not to be predicted: padding."""


class LanguageModel(nn.Module):
    """From ids to logits of what comes next, a whole text at once or one id after the other."""

    def __init__(self, config: ShellConfig, *, mixers: Sequence[nn.Module] | None = None) -> None:
        super().__init__()
        if config.bidirectional:
            raise InputError("A language model reads from left to right; a bidirectional shell would see the answer.")
        self.config = config
        self.shell = Shell(config, mixers=mixers)

    def init_state(self, batch: int) -> list[Any]:
        """The state before the first token."""
        return self.shell.init_state(batch)

    def forward(
        self,
        ids: Int[Tensor, " batch length"],
        *,
        state: Sequence[Any] | None = None,
        reset: Bool[Tensor, " batch length"] | None = None,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, " batch length vocabulary"], list[Any]]:
        """Logits of the id after each, and the state; arguments as in `Shell`."""
        hidden, after = self.shell(ids, state=state, reset=reset, lengths=lengths)
        return linear(hidden, self.shell.tokens.weight), after

    def step(
        self, ids: Int[Tensor, " batch"], state: Sequence[Any]
    ) -> tuple[Float[Tensor, " batch vocabulary"], list[Any]]:
        """Logits after one more id a row."""
        hidden, after = self.shell.step(ids, state)
        return linear(hidden, self.shell.tokens.weight), after

    def read(
        self, ids: Int[Tensor, " length"], state: Sequence[Any], *, chunk: int = 2048
    ) -> tuple[Float[Tensor, " vocabulary"], list[Any]]:
        """Logits after all of `ids` (one row, at least one id), read in chunks so that memory stays constant."""
        hidden, after = ids.new_empty(0), list(state)
        for part in ids.split(chunk):
            states, after = self.shell(part[None], state=after, reset=(part == START)[None])
            hidden = states[:, -1]
        return linear(hidden, self.shell.tokens.weight)[0], after


def lm_loss(model: LanguageModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy of `targets` [B, T] after `ids` [B, T]; documents begin at START and see nothing before it."""
    ids, targets = batch["ids"], batch["targets"]
    reset = ids == START
    logits, _ = model(ids, reset=reset if bool(reset.any()) else None)
    wanted = float((targets != UNWANTED).sum())
    loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=UNWANTED)
    return loss, {"weight": wanted, "tokens": float(ids.numel())}
