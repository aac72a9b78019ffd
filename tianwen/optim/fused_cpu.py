"""Steps of many tensors on the CPU in one pass over memory each, by compiled loops on several threads.

Post: 9512, 9736

A step must read theta, m, g and write theta, m: 20 bytes a weight in float32 (AdamW: 28). The rate needs RMS(theta)
and the momentum may only be written if the whole gradient is finite, so theta and g are looked through first; for a
tensor of up to WHOLE weights that first look brings it into the cache, where the step itself finds it. (Going through
it backwards, from what was seen last, is slower: the memory is not read ahead.) Larger ones are measured by all threads
in pieces, then stepped in pieces.

Notation
    task    one tensor, or a piece of one: a line in two tables, `where` (integers: what to do, addresses, sizes)
            and `how` (numbers: betas, rate, ...), and a line of `found` (sum of squares, 1 if not finite)
    keep, take            m <- keep m + take g
    look_keep, look_take  u = look_keep m + look_take g, of the m before it is changed

Sums are taken in pieces of PIECE, so the result is the same for any number of threads. Products and sums are rounded
one by one (no fused multiply-add), so that +g and -g cancel exactly, as they do in `sign_optimizer`.
"""
# pyright: reportPrivateImportUsage=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 4096
PIECE = 1 << 16
WHOLE = 1 << 20

# Columns of `where`
OP, THETA, M, G, SIZE, MOVE, ROWS, WIDTH, AGE, RULE, ROW_RATE = range(11)
# Columns of `how`
KEEP, TAKE, LOOK_KEEP, LOOK_TAKE, RATE, DECAY, FLOOR, LOG_BETA = range(8)
MEASURE, MEASURE_AND_STEP, STEP = range(3)
PLAIN, LAZY, STALE = range(3)


def _compiled(**options: Any) -> Callable[[Any], Any]:
    """numba's compiler; the result is kept on disk where that can be written."""

    def compiler(function: Any) -> Any:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no place for the cache
            return njit(nogil=True, **options)(function)

    return compiler


@intrinsic
def _pointer(context: Any, address: Any) -> Any:
    """An integer as an address."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), code


@_compiled(fastmath={"reassoc", "contract", "nsz"})
def _squares_and_zeros(theta, g):
    """(sum of theta^2, sum of 0 g, which is 0 unless some g is not finite) of one piece; either may be empty."""
    zero = g.dtype.type(0)
    squares = 0.0
    zeros = 0.0
    for begin in range(0, max(theta.size, g.size), BLOCK):
        part_theta = theta[begin : begin + BLOCK]
        part_g = g[begin : begin + BLOCK]
        s = zero
        z = zero
        if part_theta.size == part_g.size:
            for i in range(part_g.size):
                s += part_theta[i] * part_theta[i]
                z += part_g[i] * zero
        else:
            for i in range(part_theta.size):
                s += part_theta[i] * part_theta[i]
            for i in range(part_g.size):
                z += part_g[i] * zero
        if not math.isfinite(s):  # squares from 1e19 on are beyond float32
            s64 = 0.0
            for i in range(part_theta.size):
                wide = np.float64(part_theta[i])
                s64 += wide * wide
            squares += s64
        else:
            squares += s
        zeros += z
    return squares, zeros


@_compiled()
def _relative(rate, squares, size, floor, decay):
    """eta from the sum of squares: see `Work.rate_of`."""
    rms = math.sqrt(squares / size)
    rate *= max(rms, floor) if math.isfinite(rms) else floor
    return min(rate, 1 / decay) if decay > 0 else rate


@_compiled()
def _measure(theta, g, found):
    """found <- (sum of squares of theta, 1 if g is not finite everywhere)."""
    total = 0.0
    bad = 0.0
    for begin in range(0, max(theta.size, g.size), PIECE):
        squares, zeros = _squares_and_zeros(theta[begin : begin + PIECE], g[begin : begin + PIECE])
        total += squares
        if zeros != 0.0:  # also true of a NaN
            bad = 1.0
    found[0] = total
    found[1] = bad


@_compiled()
def _absorb(m, g, keep, take):
    for i in range(m.size):
        kept = keep * m[i]
        m[i] = kept + take * g[i]


@_compiled()
def _step(theta, m, g, keep, take, rate, decay):
    """Tiger: the sign is that of the momentum itself."""
    zero = theta.dtype.type(0)
    one = theta.dtype.type(1)
    for i in range(theta.size):
        new = keep * m[i] + take * g[i]
        m[i] = new
        sign = one if new > zero else (-one if new < zero else zero)
        theta[i] = theta[i] - rate * (sign + decay * theta[i])


@_compiled()
def _blended_step(theta, m, g, keep, take, look_keep, look_take, rate, decay):
    """Lion: the sign is that of another blend."""
    zero = theta.dtype.type(0)
    one = theta.dtype.type(1)
    for i in range(theta.size):
        u = look_keep * m[i] + look_take * g[i]
        m[i] = keep * m[i] + take * g[i]
        sign = one if u > zero else (-one if u < zero else zero)
        theta[i] = theta[i] - rate * (sign + decay * theta[i])


@_compiled()
def _move(theta, m, rate, decay):
    """A step by the momentum as it is, for rows without a gradient."""
    zero = theta.dtype.type(0)
    one = theta.dtype.type(1)
    for i in range(theta.size):
        sign = one if m[i] > zero else (-one if m[i] < zero else zero)
        theta[i] = theta[i] - rate * (sign + decay * theta[i])


@_compiled()
def _any(g):
    """Whether some number is not 0; looks at 64 at once and stops at the first that has one."""
    for begin in range(0, g.size, 64):
        part = g[begin : begin + 64]
        hit = False
        for i in range(part.size):
            hit |= part[i] != 0
        if hit:
            return True
    return False


@_compiled()
def _step_rows(theta, m, g, age, coefficients, where, how):
    """The rows of a piece of an embedding [rows, width]; ages only where the rule needs them."""
    keep, take, look_keep, look_take, rate, decay = coefficients
    kind = theta.dtype.type
    width, rule, move = where[WIDTH], where[RULE], where[MOVE]
    nothing = g[:0]
    for row in range(where[ROWS]):
        a, b = row * width, (row + 1) * width
        factor = 1.0
        touched = True
        row_keep, row_look = keep, look_keep
        if rule != PLAIN:
            touched = _any(g[a:b])
            if touched:
                late = _power(how[LOG_BETA], max(age[row], 0))
                row_look = kind(look_keep * late)
                row_keep = kind(how[KEEP] * late) if age[row] >= 0 else kind(1)
                age[row] = -1
            if move:
                age[row] = min(age[row] + 1, 1 << 30)
                if age[row] > 0:
                    factor = _power(how[LOG_BETA], age[row]) if rule == STALE else 0.0
        if not move:
            if touched:
                _absorb(m[a:b], g[a:b], row_keep, take)
            continue
        if factor == 0.0:
            continue
        row_rate = rate
        if where[ROW_RATE]:
            squares, _ = _squares_and_zeros(theta[a:b], nothing)
            row_rate = kind(_relative(how[RATE], squares, width, how[FLOOR], how[DECAY]))
        row_rate = kind(row_rate * factor)
        if not touched:
            _move(theta[a:b], m[a:b], row_rate, decay)
        elif look_keep != keep or look_take != take:
            _blended_step(theta[a:b], m[a:b], g[a:b], row_keep, take, row_look, look_take, row_rate, decay)
        else:
            _step(theta[a:b], m[a:b], g[a:b], row_keep, take, row_rate, decay)


@_compiled()
def _power(log_beta, age):
    """beta^age, 0 where it is forgotten; as `row_updates` has it."""
    if age == 0:
        return 1.0
    factor = math.exp(age * log_beta)
    return factor if factor >= 1e-8 else 0.0


@_compiled()
def _run(where, how, found, first, last, like):
    """Do the tasks first .. last - 1; `like` is an empty array that tells the type."""
    kind = like.dtype.type
    for t in range(first, last):
        size = where[t, SIZE]
        theta = carray(_pointer(where[t, THETA]), (size,), like.dtype)
        g = carray(_pointer(where[t, G]), (size,), like.dtype)
        if where[t, OP] != STEP:
            needs_rms = where[t, MOVE] and how[t, FLOOR] >= 0 and not where[t, ROW_RATE]
            _measure(theta if needs_rms else theta[:0], g, found[t])
            if where[t, OP] == MEASURE or found[t, 1] != 0.0:
                continue
        m = carray(_pointer(where[t, M]), (size,), like.dtype)
        rate = how[t, RATE]
        if where[t, OP] == MEASURE_AND_STEP and how[t, FLOOR] >= 0:
            rate = _relative(rate, found[t, 0], size, how[t, FLOOR], how[t, DECAY])
        coefficients = (
            kind(how[t, KEEP]),
            kind(how[t, TAKE]),
            kind(how[t, LOOK_KEEP]),
            kind(how[t, LOOK_TAKE]),
            kind(rate),
            kind(how[t, DECAY]),
        )
        if where[t, WIDTH]:
            age = carray(_pointer(where[t, AGE]), (where[t, ROWS],), np.int32)
            _step_rows(theta, m, g, age, coefficients, where[t], how[t])
            continue
        keep, take, look_keep, look_take, rate, decay = coefficients
        if not where[t, MOVE]:
            _absorb(m, g, keep, take)
        elif look_keep != keep or look_take != take:
            _blended_step(theta, m, g, keep, take, look_keep, look_take, rate, decay)
        else:
            _step(theta, m, g, keep, take, rate, decay)
