"""RoFormerV2 and the shells of linear recurrent units as nodes of an ONNX graph.

Post: 8998 (RoFormerV2), 8265 (RoPE), 9554 (LRU and SLRU)

Notation
    B, T, d   batch, tokens, width      h, s  heads and their size      N  size of a recurrent state
    inside    [B, T, 1] float: 1 at tokens, 0 at padding
    sees      [B, 1, 1, T] or [B, 1, T, T] float: 0 where a query may look, a large negative number elsewhere

The pairs that RoPE turns, (0, 1), (2, 3), .., are laid out as (0, s/2), (1, s/2 + 1), .. by sorting the rows of the
weights of queries and keys: products of queries and keys are the same, and a turn needs no complex numbers. The factor
1/sqrt(s) is in the weights of the queries.

A recurrence x_t = lam x_{t-1} + u_t takes log2 T rounds: in round k each step adds lam^(2^k) times what stands 2^k
steps before it. Padding adds nothing, so that the way back may begin at the end of the padded row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tianwen.backbone.attention_mixer import AttentionMixer
from tianwen.backbone.mixers import Shell, ShellConfig, ShellLayer
from tianwen.backbone.onnx_graph import Graph, Value
from tianwen.backbone.roformer_v2 import Attention, Layer, RoFormerV2, RoFormerV2Config
from tianwen.errors import ModelError
from tianwen.recurrent.bidirectional import Bidirectional
from tianwen.recurrent.lru import LRU, wide
from tianwen.recurrent.slru import SLRU

HIDDEN = -1e30
"""Added to scores that must not count; unlike -inf, a row of nothing but padding stays a number."""

FAR = (1 << 63) - 1
"""The end of a slice that goes to the end of an axis."""


class Rows(NamedTuple):
    """What all layers need to know of a batch of right-padded rows."""

    ids: Value  # int64 [B, T]
    valid: Value  # bool [B, T]
    inside: Value  # float [B, T, 1]
    positions: Value  # int64 [T]


def read_rows(graph: Graph) -> Rows:
    """The inputs `ids` [batch, length] and `lengths` [batch], and what follows from them."""
    ids = graph.input("ids", ["batch", "length"])
    lengths = graph.input("lengths", ["batch"])
    size = graph.add("Gather", graph.add("Shape", ids), graph.scalar(1), axis=0)
    positions = graph.add("Range", graph.scalar(0), size, graph.scalar(1))  # [T]
    valid = graph.add("Less", positions, graph.add("Unsqueeze", lengths, graph.whole(1)))  # [B, T]
    inside = graph.add("Unsqueeze", graph.add("Cast", valid, to=graph.onnx.TensorProto.FLOAT), graph.whole(2))
    return Rows(ids, valid, inside, positions)


def hidden_states(graph: Graph, backbone: RoFormerV2 | Shell, rows: Rows, extra: Value | None = None) -> Value:
    """Hidden states [B, T, d] of the rows; `extra` is added to the embeddings.

    Raises ModelError for a mixer that has no form here.
    """
    x = token_vectors(graph, backbone, rows.ids)
    if isinstance(backbone, RoFormerV2):
        x = graph.add("Add", x, graph.weight("segment", backbone.segments.weight[0]))
    if extra is not None:
        x = graph.add("Add", x, extra)
    x = rms_norm(graph, x, backbone.config.eps)
    mix = _mixers(graph, backbone, rows)
    layers: Any = backbone.layers
    for index, layer in enumerate(layers):
        x = after_layer(graph, layer, f"layers.{index}", x, mix)
    return x


def token_vectors(graph: Graph, backbone: RoFormerV2 | Shell, ids: Value) -> Value:
    """Rows of the table of tokens."""
    table = "tokens" if "tokens" in graph else graph.weight("tokens", backbone.tokens.weight)
    return graph.add("Gather", table, ids, axis=0)


def rms_norm(graph: Graph, x: Value, eps: float) -> Value:
    """x / sqrt(mean x^2 + eps) over the last axis."""
    mean = graph.add("ReduceMean", graph.add("Pow", x, graph.scalar(2.0)), axes=[-1], keepdims=1)
    return graph.add("Div", x, graph.add("Sqrt", graph.add("Add", mean, graph.scalar(float(eps)))))


def product(graph: Graph, x: Value, name: str, weight: Tensor, bias: Tensor | None = None) -> Value:
    """x W^T (+ b)."""
    result = graph.add("MatMul", x, graph.weight(f"{name}.weight", weight.T))
    return result if bias is None else graph.add("Add", result, graph.weight(f"{name}.bias", bias))


def shifted(graph: Graph, x: Value, reach: int) -> list[Value]:
    """x [B, T, d] as seen `reach` tokens before each, .., `reach` behind it; zeros beyond the row's ends."""
    padded = graph.add("Pad", x, graph.whole(0, reach, 0, 0, reach, 0))
    found = []
    for k in [*range(-reach, 0), *range(1, reach + 1)]:
        end = FAR if k == reach else k - reach
        found.append(graph.add("Slice", padded, graph.whole(reach + k), graph.whole(end), graph.whole(1)))
    return found


def turns(graph: Graph, positions: Value, size: int, *, base: float = 10000.0) -> tuple[Value, Value]:
    """cos and signed sin [.., s] of each position's angles, computed in double precision and rounded once."""
    kinds = graph.onnx.TensorProto
    speeds = float(base) ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    name = f"rope_{size}"
    table = name if name in graph else graph.weight(name, speeds[None])  # [1, s/2]
    column = graph.add("Unsqueeze", graph.add("Cast", positions, to=kinds.DOUBLE), graph.whole(-1))
    angle = graph.add("Mul", column, table)  # [.., s/2]
    quarter = graph.weight("quarter", np.array(np.pi / 2)) if "quarter" not in graph else "quarter"
    # Older versions of ONNX Runtime have the sine of doubles, not the cosine.
    exact = (graph.add("Sin", one) for one in (graph.add("Add", angle, quarter), angle))
    cos, sin = (graph.add("Cast", one, to=kinds.FLOAT) for one in exact)
    both = graph.add("Concat", cos, cos, axis=-1)
    return both, graph.add("Concat", graph.add("Neg", sin), sin, axis=-1)


def rotated(graph: Graph, x: Value, turn: tuple[Value, Value]) -> Value:
    """Pairs (i, i + s/2) of the last axis turned."""
    one, other = graph.several("Split", 2, x, axis=-1)
    crossed = graph.add("Mul", graph.add("Concat", other, one, axis=-1), turn[1])
    return graph.add("Add", graph.add("Mul", x, turn[0]), crossed)


def halves(size: int) -> Tensor:
    """The order of a head's rows that puts the first of each pair before all the second ones."""
    return torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)])


Mix = Callable[[nn.Module, str, Value], Value]
"""What stands between the feed-forward layers: (mixer, its name, x) -> y."""


def _mixers(graph: Graph, backbone: RoFormerV2 | Shell, rows: Rows) -> Mix:
    shape = backbone.config
    kind = "attention" if isinstance(shape, RoFormerV2Config) else shape.mixer
    if kind == "attention":
        sees = _sees(graph, rows)
        if isinstance(shape, ShellConfig) and not shape.bidirectional:
            sees = graph.add("Add", sees, _near_past(graph, rows.positions, shape.window))
        return mixed_by_attention(graph, Look(turns(graph, rows.positions, shape.width // shape.heads), sees))
    if kind in ("lru", "slru"):
        return lambda mixer, name, x: _recurrent(graph, mixer, name, x, rows)
    raise ModelError(
        f"A backbone with the mixer {kind!r} cannot be exported to ONNX: its weights depend on what it reads, and ONNX "
        "has no operator for that. Exported are RoFormerV2 and the shells with the mixers attention, lru and slru; "
        "train such a one."
    )


def _sees(graph: Graph, rows: Rows) -> Value:
    """0 at tokens and HIDDEN at padding [B, 1, 1, T]."""
    cost = graph.add("Where", rows.valid, graph.scalar(0.0), graph.scalar(HIDDEN))
    return graph.add("Unsqueeze", cost, graph.whole(1, 2))


def _near_past(graph: Graph, positions: Value, window: int) -> Value:
    """0 where 0 <= i - j < window, HIDDEN elsewhere: [T, T]."""
    row, column = (graph.add("Unsqueeze", positions, graph.whole(axis)) for axis in (1, 0))
    away = graph.add("Sub", row, column)
    behind, near = graph.add("Less", away, graph.scalar(0)), graph.add("Less", away, graph.scalar(window))
    sees = graph.add("And", graph.add("Not", behind), near)
    return graph.add("Where", sees, graph.scalar(0.0), graph.scalar(HIDDEN))


def after_layer(graph: Graph, layer: Layer | ShellLayer, name: str, x: Value, mix: Mix) -> Value:
    """Mixer and feed-forward, each followed by residual addition and normalisation."""
    mixer = layer.attention if isinstance(layer, Layer) else layer.mixer
    x = rms_norm(graph, graph.add("Add", x, mix(mixer, name, x)), layer.eps)
    inner = graph.add("Relu", product(graph, x, f"{name}.inner", layer.inner.weight))
    return rms_norm(graph, graph.add("Add", x, product(graph, inner, f"{name}.outer", layer.outer.weight)), layer.eps)


class Look(NamedTuple):
    """How tokens look at each other: the turns of their positions, the costs of looking, and what there was before."""

    turn: tuple[Value, Value]
    sees: Value
    extend: Callable[[Value, Value], tuple[Value, Value]] | None = None
    """Keys and values [B, h, T, s] of new tokens to those of all tokens so far."""


def mixed_by_attention(graph: Graph, look: Look) -> Mix:
    """Attention, of RoFormerV2 or of a shell, as what stands between the feed-forward layers."""

    def mix(mixer: nn.Module, name: str, x: Value) -> Value:
        part = mixer.attention if isinstance(mixer, AttentionMixer) else mixer
        assert isinstance(part, Attention)
        return attention(graph, part, name, x, look)

    return mix


def attention(graph: Graph, part: Attention, name: str, x: Value, look: Look) -> Value:
    """Multi-head attention with RoPE on queries and keys."""
    h, width = part.heads, part.qkv.in_features
    size = width // h
    q, k, v = part.qkv.weight.detach().float().unflatten(0, (3, h, size))  # each [h, s, d]
    order = halves(size)
    weight = torch.cat([q[:, order] * size**-0.5, k[:, order], v]).flatten(0, 1)  # [3 h s, d]
    qkv = product(graph, x, f"{name}.qkv", weight)
    split = graph.add("Reshape", qkv, graph.whole(0, 0, 3 * h, size))
    heads = graph.add("Transpose", split, perm=[0, 2, 1, 3])  # [B, 3 h, T, s]
    both, value = graph.several("Split", 2, heads, graph.whole(2 * h, h), axis=1)
    query, key = graph.several("Split", 2, rotated(graph, both, look.turn), axis=1)  # [B, h, T, s]
    if look.extend is not None:
        key, value = look.extend(key, value)
    scores = graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 1, 3, 2]))
    shares = graph.add("Softmax", graph.add("Add", scores, look.sees), axis=-1)
    mixed = graph.add("Transpose", graph.add("MatMul", shares, value), perm=[0, 2, 1, 3])  # [B, T, h, s]
    flat = graph.add("Reshape", mixed, graph.whole(0, 0, width))
    return product(graph, flat, f"{name}.output", part.output.weight)


def _recurrent(graph: Graph, mixer: nn.Module, name: str, x: Value, rows: Rows) -> Value:
    if isinstance(mixer, Bidirectional):
        ahead = _one_way(graph, mixer.ahead, f"{name}.ahead", x, rows.inside, back=False)
        return graph.add("Add", ahead, _one_way(graph, mixer.behind, f"{name}.behind", x, rows.inside, back=True))
    assert isinstance(mixer, LRU | SLRU)
    return _one_way(graph, mixer, name, x, rows.inside, back=False)


def _one_way(graph: Graph, part: LRU | SLRU, name: str, x: Value, inside: Value, *, back: bool) -> Value:
    """One direction: dense layer, recurrence, dense layer; gamma is in the weights of the first."""
    gamma = wide(part.gamma_log).exp().detach()
    scale = gamma if isinstance(part, SLRU) else gamma.repeat(2)  # of the rows of the dense layer
    bias = None if part.input.bias is None else part.input.bias * scale
    u = product(graph, x, f"{name}.input", part.input.weight * scale[:, None], bias)
    u = graph.add("Mul", u, inside)  # [B, T, N], or [B, T, 2 N]: padding adds nothing
    planes = [u] if isinstance(part, SLRU) else graph.several("Split", 2, u, axis=-1)
    numbers = part.eigenvalues().detach().reshape(len(planes), -1)  # [1, N], or [2, N]: real, imaginary
    lam = [graph.weight(f"{name}.lam_{i}", plane) for i, plane in enumerate(numbers)]
    states = _scan(graph, planes, lam, back=back)
    state = states[0] if len(states) == 1 else graph.add("Concat", *states, axis=-1)
    return product(graph, state, f"{name}.output", part.output.weight, part.output.bias)


def _scan(graph: Graph, planes: list[Value], lam: list[Value], *, back: bool) -> list[Value]:
    """States of x_t = lam x_{t-1} + u_t (of x_{t+1}, if `back`); numbers are planes: [real] or [real, imaginary].

    The loop carries the distance 2^k, the states and lam^(2^k), while that distance is shorter than the rows.
    """
    size = graph.add("Gather", graph.add("Shape", planes[0]), graph.whole(1), axis=0)  # [1]: T
    begin = graph.add("Squeeze", graph.add("Less", graph.whole(1), size), graph.whole(0))
    name, count = f"scan_{planes[0]}", len(planes)
    body = graph.inner(name)
    step, states, powers = (
        f"{name}_step",
        [f"{name}_state_{i}" for i in range(count)],
        [f"{name}_power_{i}" for i in range(count)],
    )
    before = [_stepped(body, state, step, back=back) for state in states]
    after = [body.add("Add", state, more) for state, more in zip(states, _times(body, before, powers), strict=True)]
    twice = body.add("Add", step, step)
    going = body.add("Squeeze", body.add("Less", twice, size), graph.whole(0))
    told = [going, twice, *after, *_times(body, powers, powers)]
    axes = [[], [1], *[["batch", "length", "size"]] * count, *[["size"]] * count]
    kinds = ["BOOL", "INT64", *["FLOAT"] * 2 * count]
    given = [f"{name}_going", step, *states, *powers]
    inside = body.body(
        [(f"{name}_round", [], "INT64"), *zip(given, axes, kinds, strict=True)], zip(told, axes, kinds, strict=True)
    )
    return graph.several("Loop", len(told) - 1, "", begin, graph.whole(1), *planes, *lam, body=inside)[1 : 1 + count]


def _stepped(graph: Graph, x: Value, step: Value, *, back: bool) -> Value:
    """What stands `step` [1] tokens before each (behind each, if `back`); zeros beyond the ends."""
    none = graph.whole(0)
    ends = [none, none, none, none, step, none] if back else [none, step, none, none, none, none]
    padded = graph.add("Pad", x, graph.add("Concat", *ends, axis=0))
    start, end = (step, graph.whole(FAR)) if back else (none, graph.add("Neg", step))
    return graph.add("Slice", padded, start, end, graph.whole(1))


def _times(graph: Graph, a: list[Value], b: list[Value]) -> list[Value]:
    """Products of numbers in planes."""
    if len(a) == 1:
        return [graph.add("Mul", a[0], b[0])]
    real = graph.add("Sub", graph.add("Mul", a[0], b[0]), graph.add("Mul", a[1], b[1]))
    return [real, graph.add("Add", graph.add("Mul", a[0], b[1]), graph.add("Mul", a[1], b[0]))]
