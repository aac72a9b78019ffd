"""The kernels of the fact tree: a subject tree whose leaves open ranges of sorted (predicate, sense) rows.

Post: 8802.

Notation (`fielded.py` has the layout)
    state[i] = (where, what): inside the subject where = node, what = 0; later where = first row,
    what = phase << PHASE | depth << COUNT_BITS | count: rows where .. where + count - 1 share everything read so far
    phase  1 predicate, 2 sense, 3 complete       depth  tokens of this field already read
    layout = (end_id, bytes of a pair, sense_bits, number of predicates)
"""

from __future__ import annotations

import numpy as np

from tianwen.ask.level_order import child, row_of_leaf, row_range
from tianwen.ask.ragged import kernel

PHASE = 60
COUNT_BITS = 36
DEPTH_BITS = PHASE - COUNT_BITS


@kernel
def pack(phase, depth, count):
    return phase << PHASE | depth << COUNT_BITS | count


@kernel
def unpack(what):
    return what >> PHASE, (what >> COUNT_BITS) & ((1 << DEPTH_BITS) - 1), what & ((1 << COUNT_BITS) - 1)


@kernel
def name_of(pair, layout, row, phase):
    """The predicate (phase 1) or sense (phase 2) of a row, as its number in the table of names."""
    value = np.int64(0)
    for k in range(layout[1]):
        value |= np.int64(pair[row * layout[1] + k]) << (8 * k)
    return value >> layout[2] if phase == 1 else (value & ((1 << layout[2]) - 1)) + layout[3]


@kernel
def symbol(pair, name_ptr, name_token, layout, row, phase, depth):
    """The token of a row's predicate or sense at position `depth`."""
    return np.int64(name_token[np.int64(name_ptr[name_of(pair, layout, row, phase)]) + depth])


@kernel
def first_above(pair, name_ptr, name_token, layout, phase, depth, low, high, wanted):
    """The first row of low .. high - 1 whose token at `depth` is above `wanted`, or high: steps that double, then halving."""
    step = np.int64(1)
    while low + step <= high and symbol(pair, name_ptr, name_token, layout, low + step - 1, phase, depth) <= wanted:
        low += step
        step *= 2
    high = min(high, low + step)
    while low < high:
        middle = (low + high) >> 1
        if symbol(pair, name_ptr, name_token, layout, middle, phase, depth) <= wanted:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def next_what(layout, phase, depth, count, read):
    """`what` of the state that has read the token `read`: END closes the field."""
    return pack(phase + 1, np.int64(0), count) if read == layout[0] else pack(phase, depth + 1, count)


@kernel
def after_subject(token, leaf_rank, leaf_row, subject_ptr, layout, node):
    """(where, what) behind a node of the subject tree: behind a leaf the rows of its subject open."""
    if np.int64(token[node]) != layout[0]:
        return node, np.int64(0)
    subject = row_of_leaf(token, leaf_rank, leaf_row, layout[0], node)
    low = np.int64(subject_ptr[subject])
    return low, pack(np.int64(1), np.int64(0), np.int64(subject_ptr[subject + 1]) - low)


@kernel
def allowed(
    token, first_child, leaf_rank, leaf_row, subject_ptr, pair, name_ptr, name_token, layout,
    state, row_ptr, out_token, out_state, fill,
):  # fmt: skip
    """Children of every state; called first with `fill` False to write `row_ptr`, then to write the children."""
    at = np.int64(0)
    row_ptr[0] = 0
    for i in range(len(state)):
        where, what = state[i, 0], state[i, 1]
        phase, depth, count = unpack(what)
        if phase == 0 and not fill:
            at += np.int64(first_child[where + 1]) - np.int64(first_child[where])
        elif phase == 0:
            for node in range(np.int64(first_child[where]), np.int64(first_child[where + 1])):
                out_token[at] = token[node]
                out_state[at, 0], out_state[at, 1] = after_subject(
                    token, leaf_rank, leaf_row, subject_ptr, layout, node
                )
                at += 1
        elif phase == 1 or phase == 2:
            row, stop = where, where + count
            while row < stop:
                read = symbol(pair, name_ptr, name_token, layout, row, phase, depth)
                following = first_above(pair, name_ptr, name_token, layout, phase, depth, row, stop, read)
                if fill:
                    out_token[at] = read
                    out_state[at, 0] = row
                    out_state[at, 1] = next_what(layout, phase, depth, following - row, read)
                at += 1
                row = following
        row_ptr[i + 1] = at


@kernel
def read(
    token, first_child, leaf_rank, leaf_row, subject_ptr, pair, name_ptr, name_token, layout,
    state, ids, lengths,
):  # fmt: skip
    """Read ids[i, :lengths[i]] into state[i], in place; a row that meets a token that is not there dies."""
    for i in range(len(state)):
        where, what = state[i, 0], state[i, 1]
        for k in range(lengths[i]):
            wanted = np.int64(ids[i, k])
            phase, depth, count = unpack(what)
            if phase == 0:
                where = child(token, first_child, where, wanted)
                if where >= 0:
                    where, what = after_subject(token, leaf_rank, leaf_row, subject_ptr, layout, where)
            elif phase == 1 or phase == 2:
                stop = where + count
                low = first_above(pair, name_ptr, name_token, layout, phase, depth, where, stop, wanted - 1)
                high = first_above(pair, name_ptr, name_token, layout, phase, depth, low, stop, wanted)
                where = low if low < high else np.int64(-1)
                what = next_what(layout, phase, depth, high - low, wanted)
            else:
                where = np.int64(-1)
            if where < 0:
                what = np.int64(-1)
                break
        state[i, 0], state[i, 1] = where, what


@kernel
def rows_below(
    token, first_child, leaf_rank, leaf_row, subject_ptr, pair, name_ptr, name_token, layout, state
):  # fmt: skip
    low, high = np.zeros(len(state), np.int64), np.zeros(len(state), np.int64)
    for i in range(len(state)):
        phase, _, count = unpack(state[i, 1])
        if phase == 0:
            first, last = row_range(token, first_child, leaf_rank, leaf_row, layout[0], state[i, 0])
            low[i], high[i] = np.int64(subject_ptr[first]), np.int64(subject_ptr[last])
        elif phase > 0:
            low[i], high[i] = state[i, 0], state[i, 0] + count
    return low, high


@kernel
def copy_name(pair, name_ptr, name_token, layout, row, phase, depth, out_token, at, fill):
    """Append a row's predicate or sense from `depth` on; the place behind it."""
    name = name_of(pair, layout, row, phase)
    for source in range(np.int64(name_ptr[name]) + depth, np.int64(name_ptr[name + 1])):
        if fill:
            out_token[at] = name_token[source]
        at += 1
    return at


@kernel
def completions(
    token, first_child, leaf_rank, leaf_row, subject_ptr, pair, name_ptr, name_token, layout,
    state, live, head_ptr, head_leaf, head_token_ptr, head_token, owner_ptr, out_state, token_ptr, out_token, fill,
):  # fmt: skip
    """Every live row below each state until its share of `owner_ptr` is met; `head_*` are the subjects below states inside one.

    Called first with `fill` False to write `token_ptr` and `out_state`, then to write `out_token`.
    """
    for i in range(len(state)):
        found, at = owner_ptr[i], token_ptr[owner_ptr[i]]
        head, heads_end = head_ptr[i], head_ptr[i + 1]
        where, what = state[i, 0], state[i, 1]
        while found < owner_ptr[i + 1]:
            if head < heads_end:
                where, what = after_subject(token, leaf_rank, leaf_row, subject_ptr, layout, head_leaf[head])
            phase, depth, count = unpack(what)
            for row in range(where, where + count):
                if found == owner_ptr[i + 1]:
                    break
                if len(live) and live[row + 1] == live[row]:
                    continue
                if head < heads_end:
                    for source in range(head_token_ptr[head], head_token_ptr[head + 1]):
                        if fill:
                            out_token[at] = head_token[source]
                        at += 1
                if phase == 1:
                    at = copy_name(pair, name_ptr, name_token, layout, row, phase, depth, out_token, at, fill)
                if phase == 1 or phase == 2:
                    rest = depth if phase == 2 else np.int64(0)
                    at = copy_name(pair, name_ptr, name_token, layout, row, np.int64(2), rest, out_token, at, fill)
                out_state[found, 0], out_state[found, 1] = row, pack(np.int64(3), np.int64(0), np.int64(1))
                found += 1
                token_ptr[found] = at
            head += 1
