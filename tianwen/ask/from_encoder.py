"""An asker that begins with a pretrained encoder: its weights and its vocabulary; only the copying is new.

Post: 8998 (the encoder), 8802 (the asker). The encoder has read every token in the light of all others and in segment
0; an asker's target sees its past alone and is segment 1. What it adds to the embeddings of each token (the two before
it) begins at 0, and segment 1 as a copy of segment 0, so that at the first step it reads what it is used to.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from tianwen.ask.asker import Asker
from tianwen.ask.model_files import AskerSettings
from tianwen.ask.seq2seq import AskConfig, AskModel
from tianwen.backbone.encoder_folder import load_encoder
from tianwen.backbone.roformer_v2 import RoFormerV2
from tianwen.errors import ModelError

SEGMENTS = 2


def asker_from_encoder(folder: str | Path, *, copying: bool = True, seed: int = 0) -> Asker:
    """A new asker on the encoder in `folder`. Raises ModelError where that is no encoder, or knows one segment only."""
    encoder = load_encoder(folder)
    shape = replace(encoder.backbone.config, attention_dropout=0.0)  # keeps attention in one kernel
    if shape.segments < SEGMENTS:
        raise ModelError(
            f"The encoder in {folder} has {shape.segments} segment, an asker needs {SEGMENTS}: question and path. "
            "Pretrain one with: tianwen train encoder TEXT.txt --out ENCODER --minutes 60"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AskModel(AskConfig(shape, copying=copying))
    backbone = model.backbone
    assert isinstance(backbone, RoFormerV2)
    backbone.load_state_dict(encoder.backbone.state_dict())
    with torch.no_grad():
        model.previous.weight.zero_()
        if "published" not in encoder.facts:
            backbone.segments.weight[1] = backbone.segments.weight[0]
    return Asker(model, encoder.tokenizer, AskerSettings())
