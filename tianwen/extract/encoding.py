"""Windows of text through the network: in padding-free batches on a CPU, padded ones on a GPU, then decoded there.

Post: 8888, 8998 (padding-free batches)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from tianwen.backbone.packing import Pack, pack
from tianwen.errors import ModelError
from tianwen.extract.decode import Decoded, decode
from tianwen.extract.gplinker import GPLinker
from tianwen.extract.maps import text_maps
from tianwen.extract.rules import Rules
from tianwen.extract.torch_decode import decode_batch
from tianwen.extract.windows import Window
from tianwen.text import Tokenizer

CPU_BUDGET, GPU_BUDGET = 2048, 16384
"""Tokens of a batch."""


def decode_windows(
    model: GPLinker, tokenizer: Tokenizer, windows: Sequence[Window], rules: Rules, *, entities_only: bool = False
) -> list[Decoded]:
    """What each window says, in the order given. Raises ModelError where the network gives no numbers."""
    device = next(model.parameters()).device
    found: list[Decoded | None] = [None] * len(windows)
    rows = [np.concatenate([[tokenizer.cls_id], window.ids, [tokenizer.sep_id]]) for window in windows]
    budget = CPU_BUDGET if device.type == "cpu" else GPU_BUDGET
    with torch.inference_mode():
        for batch in pack(rows, budget=budget):
            batch = batch.to(device)
            hidden = model.hidden_packed(batch)
            if not bool(torch.isfinite(hidden).all()):
                raise ModelError(
                    "The model gives no numbers (NaN or infinite) for this text: its weights are damaged or training "
                    "went wrong. Load another model."
                )
            decoded = _on_cpu(model, hidden, batch, rules, entities_only) if device.type == "cpu" else _elsewhere(
                model, hidden, batch, rules, entities_only
            )  # fmt: skip
            for index, one in zip(batch.order, decoded, strict=True):
                found[index] = one
    return [one for one in found if one is not None]


def _on_cpu(model: GPLinker, hidden: torch.Tensor, batch: Pack, rules: Rules, entities_only: bool) -> list[Decoded]:
    maps = map(text_maps, model.projections_packed(hidden, batch))
    return [decode(one._replace(heads=None, tails=None) if entities_only else one, rules) for one in maps]


def _elsewhere(model: GPLinker, hidden: torch.Tensor, batch: Pack, rules: Rules, entities_only: bool) -> list[Decoded]:
    lengths = torch.tensor(batch.lengths, device=hidden.device)
    padded = pad_sequence(list(hidden.split(batch.lengths)), batch_first=True)  # [B, T, d]
    projections = model.projections(padded, lengths)
    return decode_batch(projections._replace(head=None, tail=None) if entities_only else projections, rules)
