"""Steps of a union of segments: the children of all segments merged, those without a live row left out, in one kernel.

Post: 8802

Notation
    n rows of a batch      k segments      m children of all rows
    state [n, 2 * k]       (where, what) in each segment, see `field_rows`; -1 where a segment has nothing
    cursor [k, COLUMNS]    one segment's child that comes next, and what is behind it

The floor of a step is its output: 4 + 16 k bytes a child (112 kB for the 3,101 children of 128 rows behind one token,
k = 2, some 4 microseconds in the second cache), beside three places of memory a row and segment for its node.
"""

from __future__ import annotations

import numpy as np

from tianwen.ask.dead_rows import first_marked, is_dead
from tianwen.ask.field_rows import behind_name, behind_node, first_above, step, symbol, unpack
from tianwen.ask.level_order import first_of, token_of
from tianwen.ask.ragged import filling_kernel, inlined
from tianwen.ask.segment_table import dead_at, tree_at

TOKEN, WHERE, WHAT = 0, 1, 2  # the child; TOKEN is LAST behind the last one
AT, STOP, STATE, MARK = 3, 4, 5, 6  # behind it: node or row, their end, `what` of the parent, place among the marked
COLUMNS = 7
LAST = np.int64(2**62)


@inlined
def live_step(tree, dead, where, what, token):
    """Read one token; (-1, -1) if it is not there or leads to deleted rows only."""
    where, what = step(tree, where, what, token)
    if where >= 0 and len(dead.row.number) and is_dead(dead, where, what):
        where, what = np.int64(-1), np.int64(-1)
    return where, what


@filling_kernel
def read(table, state, ids, lengths):
    """Read ids[i, :lengths[i]] into state[i], in place, in each segment by itself."""
    for s in range(len(table)):
        tree, dead = tree_at(table[s]), dead_at(table[s])
        for i in range(len(state)):
            where, what = state[i, 2 * s], state[i, 2 * s + 1]
            for k in range(lengths[i]):
                where, what = live_step(tree, dead, where, what, ids[i, k])
            state[i, 2 * s], state[i, 2 * s + 1] = where, what


@inlined
def at_most(tree, where, what, exact):
    """How many children a state has in its segment, deleted ones included; behind a subject, at most, or `exact`."""
    if where < 0:
        return np.int64(0)
    phase, depth, count = unpack(what)
    if phase == 0:
        return first_of(tree, where + 1) - first_of(tree, where)
    if phase == 3 or not exact:
        return count if phase < 3 else np.int64(0)
    row, stop, children = where, where + count, np.int64(0)
    while row < stop:
        row = first_above(tree, phase, depth, row, stop, symbol(tree, row, phase, depth))
        children += 1
    return children


@filling_kernel
def room(table, state, exact):
    """Room enough for the children of all rows."""
    most = np.int64(0)
    for s in range(len(table)):
        tree = tree_at(table[s])
        for i in range(len(state)):
            most += at_most(tree, state[i, 2 * s], state[i, 2 * s + 1], exact)
    return most


@inlined
def behind(tree, node, token):
    """(where, what) at a node that was entered by `token`."""
    if token == tree.end_id:
        return behind_node(tree, node)
    return node, np.int64(0)


@filling_kernel
def move(segment, cursor):
    """Go to the next child that is alive; its token is LAST if there is none."""
    tree, dead = tree_at(segment), dead_at(segment)
    at, stop, mark = cursor[AT], cursor[STOP], cursor[MARK]
    phase, depth, _ = unpack(cursor[STATE])
    cursor[TOKEN] = LAST
    if phase == 0:
        while mark < len(dead.node.number) and dead.node.number[mark] == at:
            at, mark = at + 1, mark + 1
        if at < stop:
            cursor[TOKEN] = token_of(tree, at)
            cursor[WHERE], cursor[WHAT] = behind(tree, at, cursor[TOKEN])
            at += 1
    while at < stop and phase > 0 and cursor[TOKEN] == LAST:
        token = symbol(tree, at, phase, depth)
        following = stop if at + 1 == stop else first_above(tree, phase, depth, at, stop, token)
        gone = mark
        if mark < len(dead.row.number) and dead.row.number[mark] < following:
            mark = first_marked(dead.row, following)
        if mark - gone < following - at:
            cursor[TOKEN], cursor[WHERE] = token, at
            cursor[WHAT] = behind_name(tree, phase, depth, following - at, token)
        at = following
    cursor[AT], cursor[MARK] = at, mark


@filling_kernel
def begin(segment, where, what, cursor):
    """Go to the first child of a state."""
    cursor[TOKEN], cursor[STATE] = LAST, what
    phase, _, count = unpack(what)
    if where < 0 or phase == 3:
        return
    tree, dead = tree_at(segment), dead_at(segment)
    if phase == 0:
        cursor[AT], cursor[STOP] = first_of(tree, where), first_of(tree, where + 1)
        cursor[MARK] = first_marked(dead.node, cursor[AT])
    else:
        cursor[AT], cursor[STOP] = where, where + count
        cursor[MARK] = first_marked(dead.row, where)
    move(segment, cursor)


@filling_kernel
def run(segment, cursor, bound, out, place):
    """Write the children of one segment below the token `bound`; `place` = (row of `out`, column, columns); row behind.

    Those inside a subject are copied in one go up to the next deleted one.
    """
    tree, dead = tree_at(segment), dead_at(segment)
    token, after = out
    at, column, width = place
    while cursor[TOKEN] < bound:
        token[at] = cursor[TOKEN]
        after[at * width + column], after[at * width + column + 1] = cursor[WHERE], cursor[WHAT]
        at += 1
        if cursor[STATE] == 0:
            node, stop, mark = cursor[AT], cursor[STOP], cursor[MARK]
            if mark < len(dead.node.number):
                stop = min(stop, dead.node.number[mark])
            behind_run = first_at_least(tree, node, stop, bound)
            if node < behind_run and cursor[TOKEN] < tree.end_id and token_of(tree, behind_run - 1) >= tree.end_id:
                behind_run = first_at_least(tree, node, stop, tree.end_id)  # END opens the rows of a subject
            copy_nodes(tree, node, behind_run - node, out, (at, column, width))
            at += behind_run - node
            cursor[AT] = behind_run
        move(segment, cursor)
    return at


@inlined
def first_at_least(tree, node, stop, wanted):
    """The first of the brothers node .. stop - 1 whose token is at least `wanted`, or stop."""
    step = np.int64(1)  # doubling, then halving
    while node + step <= stop and token_of(tree, node + step - 1) < wanted:
        node += step
        step *= 2
    stop = min(stop, node + step)
    while node < stop:
        middle = (node + stop) >> 1
        if token_of(tree, middle) < wanted:
            node = middle + 1
        else:
            stop = middle
    return node


@inlined
def copy_nodes(tree, node, count, out, place):
    """Write brothers none of which opens rows."""
    token, after = out
    at, column, width = place
    # Unsigned: an index that may be negative is looked at each time.
    start, source, first, stride = np.uint64(at), np.uint64(node), np.uint64(at * width + column), np.uint64(width)
    if len(tree.token_high) == 0:  # a loop without a branch
        for k in range(np.uint64(count)):
            token[start + k] = tree.token[source + k]
    else:
        for k in range(count):
            token[at + k] = token_of(tree, node + k)
    for k in range(np.uint64(count)):
        after[first + k * stride] = np.int64(source + k)
        after[first + k * stride + np.uint64(1)] = 0


@inlined
def fill_nodes(tree, dead, node, out, place):
    """Write the living children of a node inside a subject; the place behind them."""
    token, after = out
    at, column, width = place
    node, stop = first_of(tree, node), first_of(tree, node + 1)
    mark = first_marked(dead.node, node)
    while node < stop:
        gone = stop if mark == len(dead.node.number) else min(stop, dead.node.number[mark])
        count = gone - node
        copy_nodes(tree, node, count, out, (at, column, width))
        if count > 0 and token[at] <= tree.end_id:  # an END among them opens the rows of its subject
            for k in range(count):
                if token[at + k] == tree.end_id:
                    where, what = behind_node(tree, node + k)
                    after[(at + k) * width + column], after[(at + k) * width + column + 1] = where, what
        at, node, mark = at + count, gone + 1, mark + 1
    return at


@inlined
def fill_rows(tree, dead, where, what, out, place):
    """Write the living children of a state behind its subject; the place behind them."""
    token, after = out
    at, column, width = place
    phase, depth, count = unpack(what)
    row, stop = where, where + count
    mark = first_marked(dead.row, row) if len(dead.row.number) else 0
    while row < stop and phase < 3:
        symbol_here = symbol(tree, row, phase, depth)
        following = stop if row + 1 == stop else first_above(tree, phase, depth, row, stop, symbol_here)
        gone = mark
        if mark < len(dead.row.number) and dead.row.number[mark] < following:
            mark = first_marked(dead.row, following)
        if mark - gone < following - row:
            token[at], after[at * width + column] = symbol_here, row
            after[at * width + column + 1] = behind_name(tree, phase, depth, following - row, symbol_here)
            at += 1
        row = following
    return at


@filling_kernel
def alone(segment, state, i, row_ptr, out, place):
    """Write the children of row i and of all following ones that only this segment leads on from; the next row."""
    tree, dead = tree_at(segment), dead_at(segment)
    at, column, width = place
    lead = row_ptr[i + 1]
    while i < len(state) and row_ptr[i + 1] == lead:
        if state[i, column + 1] == 0:
            at = fill_nodes(tree, dead, state[i, column], out, (at, column, width))
        else:
            at = fill_rows(tree, dead, state[i, column], state[i, column + 1], out, (at, column, width))
        i += 1
        row_ptr[i] = at
    return i


@filling_kernel
def together(table, state, out, at, cursor):
    """Write the children of one row that several segments lead on from; the place behind them."""
    token, after = out
    width = len(state)
    for s in range(len(table)):
        begin(table[s], state[2 * s], state[2 * s + 1], cursor[s])
    while True:
        least, bound, lead = LAST, LAST, 0
        for s in range(len(table)):
            if cursor[s, TOKEN] < least:
                least, bound, lead = cursor[s, TOKEN], least, s
            elif cursor[s, TOKEN] < bound:
                bound = cursor[s, TOKEN]
        if least == LAST:
            return at
        if least < bound:
            at = run(table[lead], cursor[lead], bound, out, (at, 2 * lead, width))
            continue
        token[at] = least
        for s in range(len(table)):
            if cursor[s, TOKEN] == least:
                after[at * width + 2 * s], after[at * width + 2 * s + 1] = cursor[s, WHERE], cursor[s, WHAT]
                move(table[s], cursor[s])
        at += 1


@filling_kernel
def children(table, state, row_ptr, out, cursor):
    """The children of every row; how many there are, or -1 - m and nothing written if only m is sure to be room enough.

    `out` = token [m], and what `state` is behind each, flat [m * 2 k].
    """
    width = 2 * len(table)
    most = room(table, state, False)
    if most > len(out[0]):
        most = room(table, state, True)
        if most > len(out[0]):
            return -1 - most
    for at in range(most * width):
        out[1][at] = -1
    for i in range(len(state)):  # which segment leads on, -1 for none, -2 for several
        row_ptr[i + 1] = -1
        for s in range(len(table)):
            if state[i, 2 * s] >= 0:
                row_ptr[i + 1] = s if row_ptr[i + 1] == -1 else -2
    i = row_ptr[0] = 0
    while i < len(state):
        lead = row_ptr[i + 1]
        if lead >= 0:
            i = alone(table[lead], state, i, row_ptr, out, (row_ptr[i], 2 * lead, width))
            continue
        row_ptr[i + 1] = row_ptr[i] if lead == -1 else together(table, state[i], out, row_ptr[i], cursor)
        i += 1
    return row_ptr[len(state)]
