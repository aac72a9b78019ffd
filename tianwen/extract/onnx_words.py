"""The vectors of the words that stand in a text, as nodes of an ONNX graph: found from the token ids alone.

Post: 8888 (what the network reads besides)

Notation
    B, T  batch, tokens     W, d  words that the vocabulary can spell, numbers of a vector     P  most pieces of a word
    hash_k(t)  of the ids t .. t + k - 1, as in `tianwen.words.features`; int64, so that sums wrap around
    place      [B, T] where in the sorted table the word of k pieces that begins here stands; W: none does
    The row W of the table of vectors is zeros.

A table of words has no operator in ONNX. Its sorted hashes are searched by halving instead, all places at once: log2 W
comparisons. Nothing but ids goes in, and no other program needs to know what a word is.
"""

from __future__ import annotations

import numpy as np

from tianwen.backbone.onnx_graph import Graph, Value
from tianwen.backbone.onnx_layers import FAR, Rows, product
from tianwen.words.features import FACTOR, LONGEST, WordFeatures

NEVER = (1 << 63) - 1
"""Fills the table of hashes up to a power of two: larger than any that is asked for."""


def word_share(graph: Graph, words: WordFeatures, rows: Rows) -> Value:
    """What the words at each token add to its embedding: [B, T, width]."""
    places = _places(graph, words, rows)
    behind = {k: [_later(graph, place, i, len(words.hashes)) for i in range(k)] for k, place in places.items()}
    roles = [
        [places[k] for k in places if k > 1],  # begins
        [behind[k][i] for k in places for i in range(1, k - 1)],  # goes on
        [behind[k][k - 1] for k in places if k > 1],  # ends
        [places[1]],  # alone
    ]
    return product(graph, _means(graph, words, roles), "words", words.mix.weight)


def _places(graph: Graph, words: WordFeatures, rows: Rows) -> dict[int, Value]:
    """Of each number of pieces: where the word of so many pieces that begins at a token stands in the table."""
    size = graph.add("Gather", graph.add("Shape", rows.ids), graph.scalar(1), axis=0)  # T
    begins = graph.add("Not", graph.add("Gather", graph.weight("words.continues", words.continues.numpy()), rows.ids))
    value, wanted = graph.scalar(0), []
    for pieces in range(1, LONGEST + 1):
        last = _sooner(graph, rows.ids, pieces - 1, graph.scalar(0))  # the id of the last piece [B, T]
        value = graph.add("Add", graph.add("Mul", value, graph.scalar(FACTOR)), graph.add("Add", last, graph.scalar(1)))
        within = graph.add("Less", graph.add("Add", rows.positions, graph.scalar(pieces - 1)), size)  # [T]
        whole = graph.add("And", begins, _sooner(graph, begins, pieces, graph.scalar(True)))
        sound = graph.add("And", whole, within)
        wanted.append(graph.add("Unsqueeze", graph.add("Where", sound, value, graph.scalar(0)), graph.whole(0)))
    found = _searched(graph, words, graph.add("Concat", *wanted, axis=0))  # [P, B, T]
    one_each = graph.several("Split", LONGEST, found, axis=0)
    return {k: graph.add("Squeeze", one, graph.whole(0)) for k, one in enumerate(one_each, 1)}


def _searched(graph: Graph, words: WordFeatures, wanted: Value) -> Value:
    """The place of each hash in the table; W for those that are not there, and for 0."""
    count = len(words.hashes)
    rounds = max(1, (count - 1).bit_length())
    filled = np.full(1 << rounds, NEVER)
    filled[:count] = words.hashes.numpy()
    table = graph.weight("words.hashes", filled)
    place = graph.add("Mul", wanted, graph.scalar(0))  # zeros
    for exponent in reversed(range(rounds)):
        further = graph.add("Add", place, graph.scalar(1 << exponent))
        reached = graph.add("LessOrEqual", graph.add("Gather", table, further, axis=0), wanted)
        place = graph.add("Where", reached, further, place)
    there = graph.add("Equal", graph.add("Gather", table, place, axis=0), wanted)
    known = graph.add("And", there, graph.add("Not", graph.add("Equal", wanted, graph.scalar(0))))
    return graph.add("Where", known, place, graph.scalar(count))


def _means(graph: Graph, words: WordFeatures, roles: list[list[Value]]) -> Value:
    """The mean vector of the words of each role: [B, T, 4 d]."""
    count, rows = len(words.hashes), words.rows.cpu()
    codes, scale = words.table.codes[rows].numpy(), words.table.scale[rows].numpy()
    codes = graph.weight("words.codes", np.concatenate([codes, np.zeros((1, codes.shape[1]), np.int8)]))  # [W + 1, d]
    scale = graph.weight("words.scale", np.concatenate([scale, np.ones(1, np.float32)])[:, None])  # [W + 1, 1]
    kinds = graph.onnx.TensorProto
    means = []
    for places in roles:
        index = graph.add("Concat", *(graph.add("Unsqueeze", one, graph.whole(2)) for one in places), axis=2)
        exact = graph.add("Cast", graph.add("Gather", codes, index, axis=0), to=kinds.FLOAT)  # [B, T, places, d]
        exact = graph.add("Mul", exact, graph.add("Gather", scale, index, axis=0))
        half = graph.add("Cast", exact, to=kinds.FLOAT16)  # as the network reads them
        half = graph.add("Cast", half, to=kinds.FLOAT)
        known = graph.add("Cast", graph.add("Less", index, graph.scalar(count)), to=kinds.FLOAT)  # [B, T, places]
        number = graph.add("Max", graph.add("ReduceSum", known, graph.whole(2), keepdims=1), graph.scalar(1.0))
        means.append(graph.add("Div", graph.add("ReduceSum", half, graph.whole(2), keepdims=0), number))
    return graph.add("Concat", *means, axis=-1)


def _sooner(graph: Graph, x: Value, steps: int, fill: Value) -> Value:
    """x [B, T] as it stands `steps` tokens later; `fill` beyond the end."""
    if not steps:
        return x
    padded = _padded(graph, x, [0, 0, 0, steps], fill)
    return graph.add("Slice", padded, graph.whole(steps), graph.whole(FAR), graph.whole(1))


def _later(graph: Graph, x: Value, steps: int, fill: int) -> Value:
    """x [B, T] as it stood `steps` tokens before; `fill` at the beginning."""
    if not steps:
        return x
    padded = _padded(graph, x, [0, steps, 0, 0], graph.scalar(fill))
    return graph.add("Slice", padded, graph.whole(0), graph.whole(-steps), graph.whole(1))


def _padded(graph: Graph, x: Value, ends: list[int], fill: Value) -> Value:
    return graph.add("Pad", x, graph.whole(*ends), fill)
