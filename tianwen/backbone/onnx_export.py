"""A pretrained encoder as an ONNX file, for ONNX Runtime and every other reader of that format.

Post: 8998

Notation
    ids      int64 [batch, length]         token ids, right-padded with anything; beside the file lies tokenizer.json
    lengths  int64 [batch]                 tokens of each row, 1 or more
    hidden   float [batch, length, width]  hidden states; those of padding mean nothing
    Batch and length are free; longer rows than the model was trained on are computed.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from tianwen.backbone.encoder_folder import ARCHITECTURE, load_encoder
from tianwen.backbone.masks import encoder_mask, valid_tokens
from tianwen.backbone.onnx_file import Exported, Reader, Run, as_saved, largest_difference, random_rows, write_export
from tianwen.backbone.onnx_graph import Graph
from tianwen.backbone.onnx_layers import hidden_states, read_rows
from tianwen.backbone.roformer_v2 import RoFormerV2


def export_encoder(folder: str | Path, file: str | Path) -> Exported:
    """Write the encoder in `folder` (ours, or published weights with their vocab.txt) to `file`, and its tokenizer.

    The metadata of the file: architecture, config (JSON), tokenizer (fingerprint), tianwen (version). Raises ModelError
    for what is missing or damaged, MissingExtra without onnx.
    """
    encoder = load_encoder(folder)
    reader = Reader(
        ARCHITECTURE,
        {"config": asdict(encoder.backbone.config), "tokenizer": encoder.tokenizer.fingerprint},
        {"tokenizer.json": as_saved(encoder.tokenizer)},
    )
    return write_export(Path(file), encoder_graph(encoder.backbone), reader, lambda run: _apart(encoder.backbone, run))


def encoder_graph(backbone: RoFormerV2) -> Graph:
    """The graph from ids and lengths to hidden states."""
    graph = Graph("encoder")
    states = hidden_states(graph, backbone, read_rows(graph))
    graph.output("hidden", states, ["batch", "length", backbone.config.width])
    return graph


@torch.inference_mode()
def _apart(backbone: RoFormerV2, run: Run) -> float:
    ids, lengths = random_rows(backbone.config.vocabulary)
    valid = valid_tokens(lengths, ids.shape[1])
    wanted = backbone(ids, mask=encoder_mask(valid))[0][valid]
    found = run({"ids": ids.numpy(), "lengths": lengths.numpy()})["hidden"]
    return largest_difference(found[valid.numpy()], wanted.numpy())
