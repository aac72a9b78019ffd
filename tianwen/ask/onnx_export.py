"""An asker as an ONNX file: one step of reading and writing, with a cache, for a decoder of one's own.

Post: 8802 (a decoder that walks a prefix tree), 8998 (the backbone)

Notation
    B  questions      N  new tokens      P  tokens fed before      L, h, s  layers, heads and their size
    S  tokens of the question            V  vocabulary             c  width of the copy attention

    in   ids            int64 [B, N]           new tokens: the question first, then what is written
         before         int64 [B, N, 2]        the two tokens before each, the nearer one first; -1: none
         segments       int64 [B, N]           0 in the question, 1 in the answer
         positions      int64 [B, N]           place in question and answer, counted on from 0
         visible        bool [B, N, P + N]     whether a new token (row) may look at an earlier or a new one (column)
         keys, values   float [L, B, h, P, s]  of the tokens fed before; P = 0 at first
         source         int64 [B, S]           the question, padded with -1; S = 0 where the question itself is new
         copy_keys      float [B, S, c]        of the question's tokens; S = 0 likewise
    out  log_p          float [B, N, V]        log-probabilities of the token behind each new one
         all_keys, ..   float [L, B, h, P + N, s]   `all_keys`, `all_values`: for the next call
         source_after, copy_keys_after         what the next calls get as `source` and `copy_keys`, from the first call

A question is [CLS] text [SEP]: its tokens see each other; tokens of an answer (subject [SEP] predicate [SEP] sense
[SEP]) see the question and what they continue. A tree of tokens is fed by saying in `visible` who continues whom, so
one cache serves all beams. The prefix tree over the facts, the prior and the matcher are not in the graph.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tianwen.ask import model_files
from tianwen.ask.seq2seq import AskModel
from tianwen.backbone.masks import unilm_mask
from tianwen.backbone.onnx_file import Exported, Reader, Run, as_saved, largest_difference, write_export
from tianwen.backbone.onnx_graph import Graph, Value
from tianwen.backbone.onnx_layers import (
    HIDDEN,
    Look,
    after_layer,
    mixed_by_attention,
    product,
    rms_norm,
    token_vectors,
    turns,
)
from tianwen.backbone.roformer_v2 import RoFormerV2
from tianwen.errors import ModelError

FAINT = 1e-30
"""A probability that the copy distribution has at least, as in the model."""


def export_asker(folder: str | Path, file: str | Path) -> Exported:
    """Write the network of the asker in `folder` to `file`, and its tokenizer beside it.

    The metadata of the file: architecture, config and settings (JSON), tokenizer (fingerprint), tianwen (version).
    Raises ModelError for what is missing or damaged and for recurrent askers, MissingExtra without onnx.
    """
    model, tokenizer, settings = model_files.load_asker(Path(folder))
    reader = Reader(
        model_files.ARCHITECTURE,
        {"config": asdict(model.config), "settings": asdict(settings), "tokenizer": tokenizer.fingerprint},
        {"tokenizer.json": as_saved(tokenizer)},
    )
    return write_export(Path(file), asker_graph(model.eval()), reader, lambda run: _apart(model, run))


def asker_graph(model: AskModel) -> Graph:
    """The graph of one step. Raises ModelError for a recurrent backbone."""
    backbone = model.backbone
    if not isinstance(backbone, RoFormerV2):
        raise ModelError(
            f"An asker with the mixer {backbone.config.mixer!r} cannot be exported to ONNX: what it remembers is a "
            "state, and the step that is exported has keys and values. Train one with attention."
        )
    graph = Graph("asker")
    ids = graph.input("ids", ["batch", "new"])
    before = graph.input("before", ["batch", "new", 2])
    segments = graph.input("segments", ["batch", "new"])
    states = _states(graph, model, backbone, ids, _embedded(graph, model, backbone, ids, before, segments))
    _answers(graph, model, states, ids, segments)
    return graph


def _embedded(graph: Graph, model: AskModel, backbone: RoFormerV2, ids: Value, before: Value, segments: Value) -> Value:
    """Tokens, segments and what the two tokens before each add: [B, N, d]."""
    none = graph.add("Less", before, graph.scalar(0))  # [B, N, 2]
    near = token_vectors(graph, backbone, graph.add("Where", none, graph.scalar(0), before))  # [B, N, 2, d]
    near = graph.add("Where", graph.add("Unsqueeze", none, graph.whole(3)), graph.scalar(0.0), near)
    pair = graph.add("Reshape", near, graph.whole(0, 0, 2 * backbone.config.width))
    part = graph.add("Gather", graph.weight("segment_table", backbone.segments.weight), segments, axis=0)
    x = graph.add("Add", token_vectors(graph, backbone, ids), part)
    return graph.add("Add", x, product(graph, pair, "previous", model.previous.weight))


def _states(graph: Graph, model: AskModel, backbone: RoFormerV2, ids: Value, x: Value) -> Value:
    """Hidden states of the new tokens [B, N, d]; keys and values of all tokens are given out."""
    shape = backbone.config
    size = shape.width // shape.heads
    axes = [shape.layers, "batch", shape.heads, "past", size]
    positions = graph.input("positions", ["batch", "new"])
    visible = graph.input("visible", ["batch", "new", "total"], kind="BOOL")
    held = [graph.input(name, axes, kind="FLOAT") for name in ("keys", "values")]
    turn = turns(graph, graph.add("Unsqueeze", positions, graph.whole(1)), size)  # each [B, 1, N, s]
    cost = graph.add("Where", visible, graph.scalar(0.0), graph.scalar(HIDDEN))
    sees = graph.add("Unsqueeze", cost, graph.whole(1))  # [B, 1, N, P + N]
    grown: tuple[list[Value], list[Value]] = ([], [])
    x = rms_norm(graph, x, shape.eps)
    layers: Any = backbone.layers
    for index, layer in enumerate(layers):
        past = [graph.add("Gather", one, graph.scalar(index), axis=0) for one in held]  # [B, h, P, s]

        def extend(key: Value, value: Value, past: list[Value] = past) -> tuple[Value, Value]:
            whole = [graph.add("Concat", *two, axis=2) for two in zip(past, (key, value), strict=True)]
            for one, kept in zip(whole, grown, strict=True):
                kept.append(graph.add("Unsqueeze", one, graph.whole(0)))
            return whole[0], whole[1]

        mix = mixed_by_attention(graph, Look(turn, sees, extend))
        x = after_layer(graph, layer, f"layers.{index}", x, mix)
    for name, kept in zip(("all_keys", "all_values"), grown, strict=True):
        graph.output(name, graph.add("Concat", *kept, axis=0), [shape.layers, "batch", shape.heads, "total", size])
    return x


def _answers(graph: Graph, model: AskModel, states: Value, ids: Value, segments: Value) -> None:
    """Log-probabilities behind each new token, and the question's tokens and copy keys for the next calls."""
    width, vocabulary = model.config.copy_width, model.config.backbone.vocabulary
    source = graph.input("source", ["batch", "source"])
    copy_keys = graph.input("copy_keys", ["batch", "source", width], kind="FLOAT")
    asked = graph.add("Equal", segments, graph.scalar(0))
    new = graph.add("Where", asked, ids, graph.scalar(-1))  # no answer is copied from
    own = product(graph, states, "copy_key", model.copy_key.weight)
    source = graph.add("Concat", source, new, axis=1)  # [B, S + N]
    copy_keys = graph.add("Concat", copy_keys, own, axis=1)  # [B, S + N, c]
    tied = graph.add("Transpose", "tokens", perm=[1, 0])
    log_p = graph.add("LogSoftmax", graph.add("MatMul", states, tied), axis=-1)  # [B, N, V]
    if model.config.copying:
        query = product(graph, states, "copy_query", model.copy_query.weight * width**-0.5)
        scores = graph.add("MatMul", query, graph.add("Transpose", copy_keys, perm=[0, 2, 1]))  # [B, N, S + N]
        none = graph.add("Unsqueeze", graph.add("Less", source, graph.scalar(0)), graph.whole(1))
        shares = graph.add("Softmax", graph.add("Where", none, graph.scalar(HIDDEN), scores), axis=-1)
        zeros = graph.add("Mul", log_p, graph.scalar(0.0))
        place = graph.add("Unsqueeze", graph.add("Max", source, graph.scalar(0)), graph.whole(1))
        place = graph.add("Expand", place, graph.add("Shape", scores))
        copied = graph.add("ScatterElements", zeros, place, shares, axis=2, reduction="add")  # [B, N, V]
        gate = product(graph, states, "copy_gate", model.copy_gate.weight, model.copy_gate.bias)  # [B, N, 1]
        written = graph.add("Sub", log_p, graph.add("Softplus", gate))  # log (1 - g) p_v
        copied = graph.add("Log", graph.add("Max", copied, graph.scalar(FAINT)))
        copied = graph.add("Sub", copied, graph.add("Softplus", graph.add("Neg", gate)))  # log g p_c
        apart = graph.add("Neg", graph.add("Abs", graph.add("Sub", written, copied)))
        more = graph.add("Log", graph.add("Add", graph.scalar(1.0), graph.add("Exp", apart)))
        log_p = graph.add("Add", graph.add("Max", written, copied), more)
    graph.output("log_p", log_p, ["batch", "new", vocabulary])
    graph.output("source_after", source, ["batch", "known"], kind="INT64")
    graph.output("copy_keys_after", copy_keys, ["batch", "known", width])


@torch.inference_mode()
def _apart(model: AskModel, run: Run) -> float:
    """The largest difference of a probability's logarithm, for a random question and answer read in two calls."""
    asked, whole = 9, 13
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.backbone.vocabulary, (2, whole), generator=random)
    inputs = whole_inputs(ids, asked)
    wanted = by_torch(model, inputs, asked).numpy()
    found = run(first_call(model, inputs, asked))
    found = run(next_call(inputs, found, asked))
    return largest_difference(found["log_p"], wanted[:, asked:])


def whole_inputs(ids: Tensor, asked: int) -> dict[str, Tensor]:
    """What goes in for rows of `asked` tokens of a question and an answer behind it, cache and copying left out."""
    batch, whole = ids.shape
    padded = torch.cat([torch.full((batch, 2), -1), ids], dim=1)
    segments = (torch.arange(whole) >= asked).long().expand(batch, whole)
    return {
        "ids": ids,
        "before": torch.stack([padded[:, 1:-1], padded[:, :-2]], dim=-1),
        "segments": segments,
        "positions": torch.arange(whole).expand(batch, whole),
        "visible": unilm_mask(segments)[:, 0],
    }


def first_call(model: AskModel, inputs: dict[str, Tensor], asked: int) -> dict[str, np.ndarray]:
    """The inputs that read the question: nothing is remembered yet."""
    shape, batch = model.config.backbone, len(inputs["ids"])
    assert not hasattr(shape, "mixer")
    size = shape.width // shape.heads
    empty = np.zeros((shape.layers, batch, shape.heads, 0, size), np.float32)
    given = {name: x[:, :asked].numpy() for name, x in inputs.items()} | {"keys": empty, "values": empty}
    given["visible"] = given["visible"][:, :, :asked]
    nothing = {"source": np.zeros((batch, 0), np.int64), "copy_keys": np.zeros((batch, 0, model.config.copy_width))}
    return given | {name: array.astype(np.int64 if name == "source" else np.float32) for name, array in nothing.items()}


def next_call(inputs: dict[str, Tensor], before: dict[str, np.ndarray], asked: int) -> dict[str, np.ndarray]:
    """The inputs that read what stands behind the question, with what the first call gave."""
    given = {name: x[:, asked:].numpy() for name, x in inputs.items()}
    names = {"keys": "all_keys", "values": "all_values", "source": "source_after", "copy_keys": "copy_keys_after"}
    return given | {name: before[other] for name, other in names.items()}


def by_torch(model: AskModel, inputs: dict[str, Tensor], asked: int) -> Tensor:
    """The logarithms of all probabilities [B, T, V], in one call of the model itself."""
    mask = inputs["visible"][:, None]
    ids, before, segments, positions = (inputs[name] for name in ("ids", "before", "segments", "positions"))
    states, _ = model.hidden(ids, before=before, segments=segments, positions=positions, mask=mask)
    batch, whole, vocabulary = *states.shape[:2], model.config.backbone.vocabulary
    row = torch.arange(batch * whole)
    log_p = model.log_probabilities(
        states.flatten(0, 1),
        model.copy_key(states[:, :asked]),
        ids[:, :asked],
        row // whole,
        torch.arange(vocabulary).repeat(batch * whole),
        row.repeat_interleave(vocabulary),
    )
    return log_p.view(batch, whole, vocabulary)
