"""The fact tree and its kernels: a subject tree whose leaves open ranges of sorted (predicate, sense) rows.

Post: 8802.

Notation
    s subjects, v names (distinct predicates, then distinct senses), u distinct keys (rows), w bytes a pair
    state[i] = (where, what)   inside the subject: where = node, what = 0; behind it: where = first row,
                               what = phase << PHASE | depth << COUNT_BITS | count
    phase  1 predicate, 2 sense, 3 complete        depth  tokens of this field already read
    dead [d]  rows that are deleted, ascending
    count  rows where .. where + count - 1 share everything that has been read
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8, UInt16, UInt32

from tianwen.ask.level_order import child, first_from, first_of, row_of_leaf, row_range, token_of
from tianwen.ask.ragged import filling_kernel, inlined, joined

PHASE = 60
COUNT_BITS = 36
DEPTH_BITS = PHASE - COUNT_BITS


class FactTree(NamedTuple):
    """Facts as flat arrays: the subjects' tree, rows of w bytes, and each predicate's and sense's tokens once."""

    token: UInt16[np.ndarray, " N"]  # from here to `end_id`: the subjects' tree, a LevelOrderTree
    token_high: UInt16[np.ndarray, " N_or_0"]
    first_child: UInt32[np.ndarray, " N+1"]
    first_child_high: UInt8[np.ndarray, " N+1_or_0"]
    leaf_rank: UInt32[np.ndarray, " blocks"]
    leaf_row: UInt32[np.ndarray, " s"]
    end_id: int
    subject_ptr: UInt32[np.ndarray, " s+1"]  # rows of subject i are subject_ptr[i] .. subject_ptr[i + 1] - 1
    pair: UInt8[np.ndarray, " u*w"]  # little-endian: predicate << sense_bits | sense, ascending within a subject
    name_ptr: UInt32[np.ndarray, " v+1"]
    name_token: UInt16[np.ndarray, " t"]  # each name closed by END; predicates in token order, then senses likewise
    name_token_high: UInt16[np.ndarray, " t_or_0"]  # upper 16 bits, for vocabularies beyond 65,536
    pair_bytes: int  # w
    sense_bits: int
    predicates: int  # how many of the names are predicates


@inlined
def pack(phase, depth, count):
    return phase << PHASE | depth << COUNT_BITS | count


@inlined
def unpack(what):
    return what >> PHASE, (what >> COUNT_BITS) & ((1 << DEPTH_BITS) - 1), what & ((1 << COUNT_BITS) - 1)


@inlined
def name_of(tree, row, phase):
    """The predicate (phase 1) or sense (phase 2) of a row, as its number in the table of names."""
    value = np.int64(0)
    for k in range(tree.pair_bytes):
        value |= np.int64(tree.pair[row * tree.pair_bytes + k]) << (8 * k)
    return value >> tree.sense_bits if phase == 1 else (value & ((1 << tree.sense_bits) - 1)) + tree.predicates


@inlined
def name_token(tree, at):
    return joined(tree.name_token, tree.name_token_high, at, 16)


@inlined
def symbol(tree, row, phase, depth):
    """The token of a row's predicate or sense at position `depth`."""
    return name_token(tree, np.int64(tree.name_ptr[name_of(tree, row, phase)]) + depth)


@filling_kernel
def first_above(tree, phase, depth, low, high, wanted):
    """The first row of low .. high - 1 whose token at `depth` is above `wanted`, or high: doubling, then halving."""
    step = np.int64(1)
    while low + step <= high and symbol(tree, low + step - 1, phase, depth) <= wanted:
        low += step
        step *= 2
    high = min(high, low + step)
    while low < high:
        middle = (low + high) >> 1
        if symbol(tree, middle, phase, depth) <= wanted:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def behind_name(tree, phase, depth, count, token):
    """`what` of the state that has read `token` of a predicate or sense: END closes the field."""
    return pack(phase + 1, np.int64(0), count) if token == tree.end_id else pack(phase, depth + 1, count)


@filling_kernel
def behind_node(tree, node):
    """(where, what) at a node of the subject tree: a leaf opens the rows of its subject, if subjects have rows."""
    if token_of(tree, node) != tree.end_id or len(tree.subject_ptr) == 0:
        return node, np.int64(0)
    subject = row_of_leaf(tree, node)
    low = np.int64(tree.subject_ptr[subject])
    return low, pack(np.int64(1), np.int64(0), np.int64(tree.subject_ptr[subject + 1]) - low)


@inlined
def fill_subject_children(tree, node, at, out_token, out_state):
    """Write a node's children; the place behind them. Without a branch in the loops, which so run eight at a time."""
    first = first_of(tree, node)
    count = first_of(tree, node + 1) - first
    start, source = np.uint64(at), np.uint64(first)  # unsigned: an index that may be negative is looked at each time
    if len(tree.token_high) == 0:
        for k in range(np.uint64(count)):
            out_token[start + k] = tree.token[source + k]
    else:
        for k in range(count):
            out_token[at + k] = token_of(tree, first + k)
    for k in range(np.uint64(count)):
        out_state[start + k, 0] = np.int64(source + k)
        out_state[start + k, 1] = 0
    if count > 0 and out_token[at] <= tree.end_id:  # an END among them opens the rows of its subject
        for k in range(count):
            if out_token[at + k] == tree.end_id:
                out_state[at + k, 0], out_state[at + k, 1] = behind_node(tree, first + k)
    return at + count


@filling_kernel
def children(tree, state, row_ptr, out_token, out_state):
    """Children of every state; with empty `out_token` only `row_ptr` is written, to size a second call's outputs."""
    fill = len(out_token) > 0
    at = np.int64(0)
    row_ptr[0] = 0
    for i in range(len(state)):
        where = state[i, 0]
        phase, depth, count = unpack(state[i, 1])
        if phase == 0 and not fill:
            at += first_of(tree, where + 1) - first_of(tree, where)
        elif phase == 0:
            at = fill_subject_children(tree, where, at, out_token, out_state)
        elif count == 1 and phase < 3 and not fill:
            at += 1
        elif phase == 1 or phase == 2:
            row, stop = where, where + count
            while row < stop:
                token = symbol(tree, row, phase, depth)
                following = stop if row + 1 == stop else first_above(tree, phase, depth, row, stop, token)
                if fill:
                    out_token[at] = token
                    out_state[at, 0] = row
                    out_state[at, 1] = behind_name(tree, phase, depth, following - row, token)
                at += 1
                row = following
        row_ptr[i + 1] = at


@filling_kernel
def few_children(tree, state, row_ptr, out_token, out_state):
    """The children and their number, in one pass; -1 - m, and nothing written, if only m is sure to be room enough."""
    most = np.int64(0)
    for i in range(len(state)):
        phase, _, count = unpack(state[i, 1])
        if phase == 0:
            most += first_of(tree, state[i, 0] + 1) - first_of(tree, state[i, 0])
        elif phase == 1 or phase == 2:
            most += count
    if most > len(out_token):
        return -1 - most
    children(tree, state, row_ptr, out_token, out_state)
    return row_ptr[len(state)]


@inlined
def step(tree, where, what, token):
    """Read one token; (-1, -1) if it is not there."""
    phase, depth, count = unpack(what)
    if phase == 0:
        node = child(tree, where, token)
        if node >= 0:
            return behind_node(tree, node)
    elif count == 1 and phase < 3:
        if symbol(tree, where, phase, depth) == token:
            return where, behind_name(tree, phase, depth, count, token)
    elif phase == 1 or phase == 2:
        low = first_above(tree, phase, depth, where, where + count, token - 1)
        high = first_above(tree, phase, depth, low, where + count, token)
        if low < high:
            return low, behind_name(tree, phase, depth, high - low, token)
    return np.int64(-1), np.int64(-1)


@filling_kernel
def read(tree, state, ids, lengths):
    """Read ids[i, :lengths[i]] into state[i], in place; a row that meets a token that is not there dies."""
    for i in range(len(state)):
        for k in range(lengths[i]):
            state[i, 0], state[i, 1] = step(tree, state[i, 0], state[i, 1], ids[i, k])


@filling_kernel
def rows_below(tree, state, low, high):
    for i in range(len(state)):
        low[i] = high[i] = 0
        phase, _, count = unpack(state[i, 1])
        if phase == 0:
            first, last = row_range(tree, state[i, 0])
            low[i], high[i] = np.int64(tree.subject_ptr[first]), np.int64(tree.subject_ptr[last])
        elif phase > 0:
            low[i], high[i] = state[i, 0], state[i, 0] + count


@filling_kernel
def copy_name(tree, row, phase, depth, out_token, at):
    """Write a row's predicate or sense from `depth` on if there is room for tokens at all; the place behind it."""
    name = name_of(tree, row, phase)
    for source in range(np.int64(tree.name_ptr[name]) + depth, np.int64(tree.name_ptr[name + 1])):
        if len(out_token):
            out_token[at] = name_token(tree, source)
        at += 1
    return at


@inlined
def copy_row(tree, row, what, out_token, at):
    """Write what follows `what` in a row: the rest of its predicate and its sense, or the rest of its sense."""
    phase, depth, _ = unpack(what)
    if phase == 1:
        at = copy_name(tree, row, phase, depth, out_token, at)
        depth = np.int64(0)
    return copy_name(tree, row, np.int64(2), depth, out_token, at) if phase < 3 else at


@filling_kernel
def enumerate_below(tree, state, heads, dead, out):
    """Every live row below each state until its share of `out.owner_ptr` is met.

    `heads` are the subjects below each state that is inside a subject.
    Called first with empty `out.tokens` to write the rest of `out`, then to write the tokens.
    """
    for i in range(len(state)):
        found, last = out.owner_ptr[i], out.owner_ptr[i + 1]
        where, what = state[i, 0], state[i, 1]
        head, heads_end = heads.owner_ptr[i], heads.owner_ptr[i + 1]
        while found < last:
            inside_subject = head < heads_end
            if inside_subject:
                where, what = behind_node(tree, heads.terminal[head])
            next_dead = first_from(dead, where)
            for row in range(where, where + unpack(what)[2]):
                if next_dead < len(dead) and dead[next_dead] == row:
                    next_dead += 1
                    continue
                if found == last:
                    break
                at = out.token_ptr[found]
                if inside_subject:
                    for source in range(heads.token_ptr[head], heads.token_ptr[head + 1]):
                        if len(out.tokens):
                            out.tokens[at] = heads.tokens[source]
                        at += 1
                out.token_ptr[found + 1] = copy_row(tree, row, what, out.tokens, at)
                out.terminal[found, 0], out.terminal[found, 1] = row, pack(np.int64(3), np.int64(0), np.int64(1))
                found += 1
            head += 1
