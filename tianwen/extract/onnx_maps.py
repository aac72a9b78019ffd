"""A GPLinker as nodes of an ONNX graph: from ids and lengths to what its maps are made of.

Post: 8888, 8877 (the efficient head)

Notation: as in `onnx_export.py`. The turned pairs of queries and keys stand in another order than torch's (see
`backbone/onnx_layers.py`): their products, and so the scores, are the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tianwen.backbone.onnx_file import Run, largest_difference, random_rows
from tianwen.backbone.onnx_graph import Graph, Value
from tianwen.backbone.onnx_layers import (
    Rows,
    halves,
    hidden_states,
    product,
    read_rows,
    rotated,
    shifted,
    token_vectors,
    turns,
)
from tianwen.extract.encoder import Encoder
from tianwen.extract.gplinker import GPLinker, Projections
from tianwen.extract.onnx_export import MAPS, PARTS
from tianwen.extract.onnx_words import word_share
from tianwen.extract.pointer import EfficientGlobalPointer, GlobalPointer, Pointer
from tianwen.text import Tokenizer


def extractor_graph(model: GPLinker) -> Graph:
    """The whole graph. Raises ModelError for a backbone that has no form in ONNX."""
    graph = Graph("extractor")
    rows = read_rows(graph)
    states = hidden_states(graph, model.encoder.backbone, rows, _extra(graph, model.encoder, rows))
    for name, pointer in zip(MAPS, (model.entity, model.head, model.tail), strict=True):
        if pointer is not None:
            _pointer(graph, pointer, name, states, rows)
    return graph


def _extra(graph: Graph, encoder: Encoder, rows: Rows) -> Value | None:
    """What neighbours and words add to the embeddings [B, T, d]; padding has no vector."""
    shares = []
    if encoder.neighbours is not None:
        vectors = graph.add("Mul", token_vectors(graph, encoder.backbone, rows.ids), rows.inside)
        around = graph.add("Concat", *shifted(graph, vectors, encoder.reach), axis=-1)
        shares.append(product(graph, around, "neighbours", encoder.neighbours.weight))
    if encoder.words is not None:
        shares.append(word_share(graph, encoder.words, rows))
    return None if not shares else shares[0] if len(shares) == 1 else graph.add("Add", *shares)


def _pointer(graph: Graph, pointer: Pointer, name: str, states: Value, rows: Rows) -> None:
    turn = None if pointer.table is None else turns(graph, rows.positions, pointer.size)
    if isinstance(pointer, EfficientGlobalPointer):
        values = _shared(graph, pointer, name, states, turn)
    else:
        assert isinstance(pointer, GlobalPointer)
        values = _of_each_class(graph, pointer, name, states, turn)
    shapes = {"queries": ["length", pointer.size], "keys": ["length", pointer.size]}
    kinds = pointer.heads if isinstance(pointer, GlobalPointer) else 1
    for part, value in zip(PARTS, values, strict=True):
        axes = ["batch", kinds, *shapes[part]] if part in shapes else ["batch", pointer.heads, "length"]
        graph.output(f"{name}_{part}", value, axes)


def _order(pointer: Pointer) -> Tensor:
    """The rows of a head in the order that `rotated` needs."""
    return halves(pointer.size) if pointer.table is not None else torch.arange(pointer.size)


def _shared(
    graph: Graph, pointer: EfficientGlobalPointer, name: str, states: Value, turn: tuple[Value, Value] | None
) -> tuple[Value, ...]:
    """One query and key for all classes; the biases of rows before those of columns."""
    order, size = _order(pointer), pointer.size
    places = torch.cat([order * 2, order * 2 + 1])  # queries are the even outputs, keys the odd ones
    x = product(graph, states, f"{name}.dense", pointer.dense.weight[places], pointer.dense.bias[places])  # [B, T, 2 s]
    which = torch.cat([torch.arange(1, 2 * pointer.heads, 2), torch.arange(0, 2 * pointer.heads, 2)])
    biases = pointer.biases.weight[which][:, places] / 2
    scores = product(graph, x, f"{name}.biases", biases, pointer.biases.bias[which] / 2)  # [B, T, 2 C]
    starts, ends = graph.several("Split", 2, graph.add("Transpose", scores, perm=[0, 2, 1]), axis=1)  # [B, C, T]
    both = graph.several("Split", 2, x, axis=-1)
    query, key = (one if turn is None else rotated(graph, one, turn) for one in both)  # [B, T, s]
    query = graph.add("Mul", query, graph.scalar(float(size**-0.5)))
    return *(graph.add("Unsqueeze", one, graph.whole(1)) for one in (query, key)), starts, ends


def _of_each_class(
    graph: Graph, pointer: GlobalPointer, name: str, states: Value, turn: tuple[Value, Value] | None
) -> tuple[Value, ...]:
    """Queries and keys of each class, no biases."""
    order, size, heads = _order(pointer), pointer.size, pointer.heads
    weight = (
        pointer.dense.weight.unflatten(0, (heads, 2, size))[:, :, order].transpose(0, 1).flatten(0, 2)
    )  # [2 C s, d]
    bias = pointer.dense.bias.unflatten(0, (heads, 2, size))[:, :, order].transpose(0, 1).flatten()
    x = product(graph, states, f"{name}.dense", weight, bias)
    split = graph.add("Reshape", x, graph.whole(0, 0, 2 * heads, size))
    both = graph.add("Transpose", split, perm=[0, 2, 1, 3])  # [B, 2 C, T, s]
    both = both if turn is None else rotated(graph, both, turn)
    query, key = graph.several("Split", 2, both, axis=1)
    nothing = graph.add("ReduceSum", graph.add("Mul", key, graph.scalar(0.0)), graph.whole(3), keepdims=0)  # [B, C, T]
    return graph.add("Mul", query, graph.scalar(float(size**-0.5))), key, nothing, nothing


@torch.inference_mode()
def difference(model: GPLinker, tokenizer: Tokenizer, run: Run) -> float:
    """The largest difference of a score, of random rows, as a share of the largest score."""
    ids, lengths = random_rows(model.config.backbone.vocabulary)
    ids[:, 0] = tokenizer.cls_id
    ids[torch.arange(len(ids)), lengths - 1] = tokenizer.sep_id
    ids[torch.arange(ids.shape[1]) >= lengths[:, None]] = tokenizer.pad_id
    wanted = model.projections(model.hidden(ids, lengths), lengths)
    found = run({"ids": ids.numpy(), "lengths": lengths.numpy()})
    return max(_apart(found, name, wanted) for name in MAPS if getattr(wanted, name) is not None)


def _apart(found: dict[str, np.ndarray], name: str, wanted: Projections) -> float:
    projection = getattr(wanted, name)
    queries, keys, starts, ends = (found[f"{name}_{part}"] for part in PARTS)
    scores = queries @ keys.swapaxes(-1, -2) + starts[..., None] + ends[..., None, :]
    counts = projection.cell_mask()[:, None].expand(*projection.dense_scores().shape).numpy()
    return largest_difference(scores[counts], projection.dense_scores().numpy()[counts])
