"""The loops of wkv, compiled by numba: forward, and backward from a checkpoint every 64 steps.

Post: 9554

Notation (flat arrays; D channels)
    k, v, out, dout, dk, dv   [batch * length * D]   float32, float64, or bfloat16 as its bits; the rows of k and v may
                              lie apart: row r, step t begins at r * strides[0] + t * strides[1]
    state      [batch * 3 * D] = (a, b, m)   y = a e^m, z = b e^m
    marks      [batch * tiles * 3 * D]       the state before every TILE-th step
    adjoint    [batch * 3 * D] = (P, Q, p)   dL/dy = P e^p, dL/dz = Q e^p
    part, total [batch * 2 * D]              dlam, dbonus: sums of a tile, and of all in float64

m is raised to the largest key, and lowered when b has shrunk below 2^-40: nothing overflows, nothing vanishes, and
decay is a product, not a difference of exponents (in which 40 - 0.001 is rounded anew at each of a thousand steps).
"""

from __future__ import annotations

from tianwen.recurrent.lanes import exponential, lanes_inline, lanes_kernel, load, store

TILE = 64
NOTHING = -1e30
FAINT, LOUDER, LOWER = 2.0**-40, 2.0**40, 27.725887222397812  # the last is 40 ln 2


@lanes_inline
def _advance(k, v, at, lam, state, base, first, last, size):
    """The state after a step."""
    kind = lam.dtype.type
    one, faint, louder, lower = kind(1), kind(FAINT), kind(LOUDER), kind(LOWER)
    for c in range(first, last):
        a, b, m = load(0, state, base + c), load(1, state, base + size + c), load(2, state, base + 2 * size + c)
        key, value = load(3, k, at + c), load(4, v, at + c)
        apart = m - key
        e = exponential(-abs(apart))
        past = load(5, lam, c) * (one if apart >= 0 else e)
        now = e if apart >= 0 else one
        a = past * a + now * value
        b = past * b + now
        m = key if key > m else m
        weak = b < faint
        store(0, state, base + c, a * louder if weak else a)
        store(1, state, base + size + c, b * louder if weak else b)
        store(2, state, base + 2 * size + c, m - lower if weak else m)


@lanes_inline
def _show(k, v, at, out, to, bonus, state, base, first, last, size):
    """The average at a step, from the state before it."""
    one = bonus.dtype.type(1)
    for c in range(first, last):
        a, b, m = load(0, state, base + c), load(1, state, base + size + c), load(2, state, base + 2 * size + c)
        apart = m - (load(3, k, at + c) + load(6, bonus, c))
        e = exponential(-abs(apart))
        past = one if apart >= 0 else e
        now = e if apart >= 0 else one
        store(7, out, to + c, (past * a + now * load(4, v, at + c)) / (past * b + now))


@lanes_inline
def _empty(state, base, first, last, size):
    for c in range(first, last):
        state[base + c] = 0
        state[base + size + c] = 0
        state[base + 2 * size + c] = NOTHING


@lanes_inline
def _copy(source, begin, target, to, first, last, size):
    for plane in range(3):
        for c in range(plane * size + first, plane * size + last):
            store(16, target, to + c, load(17, source, begin + c))


@lanes_kernel
def forward_kernel(k, v, out, lam, bonus, state, marks, reset, lengths, shape, order, share):
    """Fill out and marks; `state` holds the first state and then the last. `reset` is [batch * length], or empty.

    shape = (length, D, row stride, step stride);  order: 1 or -1;  share = (first unit, units apart, size of a block).
    """
    length, size, row_stride, step_stride = shape
    blocks, tiles = -(-size // share[2]), length // TILE + 2
    for unit in range(share[0], len(lengths) * blocks, share[1]):
        row, first = unit // blocks, unit % blocks * share[2]
        last, base, count = min(size, first + share[2]), row * 3 * size, lengths[row]
        for done in range(count):
            t = done if order > 0 else count - 1 - done
            at, to = row * row_stride + t * step_stride, (row * length + t) * size
            if done % TILE == 0:
                _copy(state, base, marks, (row * tiles + done // TILE) * 3 * size, first, last, size)
            if len(reset) and reset[row * length + t]:
                _empty(state, base, first, last, size)
            _show(k, v, at, out, to, bonus, state, base, first, last, size)
            _advance(k, v, at, lam, state, base, first, last, size)
        for t in range(row * length + count, (row + 1) * length):
            for c in range(first, last):
                out[t * size + c] = 0


@lanes_inline
def _adjoint(k, v, at, dout, dk, dv, to, lam, bonus, state, base, adjoint, above, part, sums, first, last, size):
    """Gradients of one step from the state before it, and the adjoint of that state from the one after it."""
    kind = lam.dtype.type
    one, faint, louder, lower, high = kind(1), kind(FAINT), kind(LOUDER), kind(LOWER), kind(80)
    for c in range(first, last):
        a, b, m = load(0, state, base + c), load(1, state, base + size + c), load(2, state, base + 2 * size + c)
        py, pz, p = (
            load(8, adjoint, above + c),
            load(9, adjoint, above + size + c),
            load(10, adjoint, above + 2 * size + c),
        )
        key, value, decay, extra = load(3, k, at + c), load(4, v, at + c), load(5, lam, c), load(6, bonus, c)
        # into the state: y = lam y + e^k v, z = lam z + e^k
        into = key + p
        weight = exponential(high if into > high else into)
        dvalue = weight * py
        dkey = weight * (value * py + pz)
        held = m + p
        dlam = exponential(high if held > high else held) * (py * a + pz * b)
        # out of the state: (a past + v now) / (b past + now), all of it times e^-top in the adjoint
        key = key + extra
        apart = m - key
        e = exponential(-abs(apart))
        past = one if apart >= 0 else e
        now = e if apart >= 0 else one
        top = -m if apart >= 0 else -key
        share = load(11, dout, to + c) / (past * b + now)
        shown = (past * a + now * value) / (past * b + now)
        dbonus = now * share * (value - shown)
        store(12, dv, to + c, dvalue + now * share)
        store(13, dk, to + c, dkey + dbonus)
        store(14, part, sums + c, load(14, part, sums + c) + dlam)
        store(15, part, sums + size + c, load(15, part, sums + size + c) + dbonus)
        # the adjoint one step earlier, on the larger of both scales
        apart = p - top
        e = exponential(-abs(apart))
        kept = decay * (one if apart >= 0 else e)
        added = share * (e if apart >= 0 else one)
        py = kept * py + added
        pz = kept * pz - added * shown
        p = top if top > p else p
        weak = abs(py) + abs(pz) < faint
        store(8, adjoint, above + c, py * louder if weak else py)
        store(9, adjoint, above + size + c, pz * louder if weak else pz)
        store(10, adjoint, above + 2 * size + c, p - lower if weak else p)


@lanes_kernel
def backward_kernel(
    k, v, dout, dk, dv, lam, bonus, marks, trail, adjoint, part, total, reset, lengths, shape, order, share
):
    """Fill dk, dv and total; `adjoint` holds that of the last state and then that of the first.

    `trail` is room for TILE states; `part` and `total` come as zeros. The rest as in `forward_kernel`.
    """
    length, size, row_stride, step_stride = shape
    blocks, tiles = -(-size // share[2]), length // TILE + 2
    for unit in range(share[0], len(lengths) * blocks, share[1]):
        row, first = unit // blocks, unit % blocks * share[2]
        last, above, sums, count = min(size, first + share[2]), row * 3 * size, row * 2 * size, lengths[row]
        for tile in range(-(-count // TILE) - 1, -1, -1):
            steps = min(TILE, count - tile * TILE)
            _copy(marks, (row * tiles + tile) * 3 * size, trail, 0, first, last, size)
            for step in range(steps):
                done = tile * TILE + step
                t = done if order > 0 else count - 1 - done
                if len(reset) and reset[row * length + t]:
                    _empty(trail, step * 3 * size, first, last, size)
                _copy(trail, step * 3 * size, trail, (step + 1) * 3 * size, first, last, size)
                _advance(k, v, row * row_stride + t * step_stride, lam, trail, (step + 1) * 3 * size, first, last, size)
            for step in range(steps - 1, -1, -1):
                done = tile * TILE + step
                t = done if order > 0 else count - 1 - done
                at, to = row * row_stride + t * step_stride, (row * length + t) * size
                _adjoint(
                    k, v, at, dout, dk, dv, to, lam, bonus, trail, step * 3 * size, adjoint, above, part, sums,
                    first, last, size,
                )  # fmt: skip
                if len(reset) and reset[row * length + t]:
                    _empty(adjoint, above, first, last, size)
            for c in range(sums + first, sums + last):
                total[c] += part[c]
                total[c + size] += part[c + size]
                part[c] = 0
                part[c + size] = 0
        for t in range(row * length + count, (row + 1) * length):
            for c in range(first, last):
                dk[t * size + c] = 0
                dv[t * size + c] = 0
