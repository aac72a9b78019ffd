"""The loops of the scan, compiled by numba: one pass over memory, one step after the other.

Post: 9554

Notation (flat arrays; a row of D channels has planes * D numbers: [Re | Im] or real)
    u, x, dx, du     [batch * length * planes * D]   float32, float64, or bfloat16 as its bits
    line             [planes * D]   a row of x or du before it goes to memory, in their dtype
    lam              [2, D] complex, [1, D] real      state, gamma [D] and everything below: float32 or float64
    state, carry     [batch * planes * D]   forward: x_{t-1};  backward: what flows into x_t from later steps
    part             [batch * (planes + 1) * D]   sums over some hundred steps: dlam (Re, Im), dgamma
    total            like part, float64: sums of those, so that a million steps lose nothing
    g = dx_t + carry;  du = gamma g;  dlam += g conj(x_{t-1});  dgamma += Re(g conj(u));  carry = conj(lam) g

Work is cut into units: a row of the batch and a block of its channels. A thread takes every n-th of them. Units share
nothing, so the number of threads changes no bit.
"""

from __future__ import annotations

from tianwen.recurrent.lanes import (
    fence,
    fma,
    fnma,
    lanes_inline,
    lanes_kernel,
    load,
    prefetch,
    store,
    store_past_cache,
)

FLUSH = 128
"""Steps whose gradients are summed in the precision of the state."""


AHEAD = 3
"""Rows between the one that is fetched and the one that is read."""


@lanes_inline
def _fetch(rows, at, planes, size, first, last):
    for plane in range(planes):
        for c in range(first, last, 64 // rows.itemsize):
            prefetch(rows, at + plane * size + c)


@lanes_inline
def _write(rows, at, line, planes, size, first, last, far):
    for plane in range(planes):
        begin = plane * size + first
        if far:
            store_past_cache(rows, at + begin, line, begin, last - first)
        else:
            for c in range(begin, plane * size + last):
                store(16, rows, at + c, load(7, line, c))


@lanes_inline
def _forward_complex(u, line, at, lam, gamma, state, base, first, last, size):
    for c in range(first, last):
        hr, hi = load(0, state, base + c), load(1, state, base + size + c)
        lr, li, scale = load(2, lam, c), load(3, lam, size + c), load(4, gamma, c)
        re = fma(lr, hr, fnma(li, hi, scale * load(5, u, at + c)))
        im = fma(lr, hi, fma(li, hr, scale * load(6, u, at + size + c)))
        store(0, state, base + c, re)
        store(1, state, base + size + c, im)
        store(7, line, c, re)
        store(8, line, size + c, im)


@lanes_inline
def _forward_real(u, line, at, lam, gamma, state, base, first, last, size):
    for c in range(first, last):
        h = fma(load(2, lam, c), load(0, state, base + c), load(4, gamma, c) * load(5, u, at + c))
        store(0, state, base + c, h)
        store(7, line, c, h)


@lanes_kernel
def forward_kernel(u, x, line, lam, gamma, state, reset, lengths, shape, order, far, share):
    """Fill x; `state` holds h0 and then the last state. `reset` is flat [batch * length], or empty.

    shape = (length, planes, size of a plane);  order: 1 or -1;  share = (first unit, units apart, channels of a block).
    far = (fetch rows ahead, write past the cache); the second only if planes are whole lines and x begins with one.
    """
    length, planes, size = shape
    width, block = planes * size, share[2]
    blocks = -(-size // block)
    for unit in range(share[0], len(lengths) * blocks, share[1]):
        row, first = unit // blocks, unit % blocks * block
        last, base, count = min(size, first + block), row * width, lengths[row]
        for done in range(count):
            t = row * length + (done if order > 0 else count - 1 - done)
            if len(reset) and reset[t]:
                for plane in range(planes):
                    for c in range(first, last):
                        state[base + plane * size + c] = 0
            if far[0]:
                _fetch(u, (t + order * AHEAD) * width, planes, size, first, last)
            if planes == 2:
                _forward_complex(u, line, t * width, lam, gamma, state, base, first, last, size)
            else:
                _forward_real(u, line, t * width, lam, gamma, state, base, first, last, size)
            _write(x, t * width, line, planes, size, first, last, far[1])
        _clear(x, row * length + count, (row + 1) * length, planes, size, first, last)
    fence()


@lanes_inline
def _clear(x, begin, end, planes, size, first, last):
    for t in range(begin, end):
        for plane in range(planes):
            for c in range(first, last):
                x[(t * planes + plane) * size + c] = 0


@lanes_inline
def _backward_complex(dx, line, u, at, x, before, lam, gamma, carry, base, part, sums, first, last, size):
    """One step of the adjoint; x[before:] is the state that the step began with."""
    for c in range(first, last):
        gr = load(0, carry, base + c) + load(5, dx, at + c)
        gi = load(1, carry, base + size + c) + load(6, dx, at + size + c)
        lr, li, scale = load(2, lam, c), load(3, lam, size + c), load(4, gamma, c)
        store(7, line, c, scale * gr)
        store(8, line, size + c, scale * gi)
        xr, xi = load(12, x, before + c), load(13, x, before + size + c)
        store(9, part, sums + c, fma(gr, xr, fma(gi, xi, load(9, part, sums + c))))
        store(10, part, sums + size + c, fma(gi, xr, fnma(gr, xi, load(10, part, sums + size + c))))
        inner = fma(gr, load(14, u, at + c), fma(gi, load(15, u, at + size + c), load(11, part, sums + 2 * size + c)))
        store(11, part, sums + 2 * size + c, inner)
        store(0, carry, base + c, fma(lr, gr, li * gi))
        store(1, carry, base + size + c, fnma(li, gr, lr * gi))


@lanes_inline
def _backward_real(dx, line, u, at, x, before, lam, gamma, carry, base, part, sums, first, last, size):
    """The same for real numbers."""
    for c in range(first, last):
        g = load(0, carry, base + c) + load(5, dx, at + c)
        store(7, line, c, load(4, gamma, c) * g)
        store(9, part, sums + c, fma(g, load(12, x, before + c), load(9, part, sums + c)))
        store(11, part, sums + size + c, fma(g, load(14, u, at + c), load(11, part, sums + size + c)))
        store(0, carry, base + c, load(2, lam, c) * g)


@lanes_kernel
def backward_kernel(
    dx, du, u, x, line, lam, gamma, start, carry, part, total, reset, lengths, shape, order, far, share
):
    """Fill du and `total`; `carry` holds the adjoint of the last state, and then that of h0.

    `start` is [batch + 1, planes * size], h0 and a row of zeros; `part` and `total` come as zeros. The rest is as in
    `forward_kernel`; `order` is that of the forward scan.
    """
    length, planes, size = shape
    width, block = planes * size, share[2]
    blocks = -(-size // block)
    for unit in range(share[0], len(lengths) * blocks, share[1]):
        row, first = unit // blocks, unit % blocks * block
        last, base, sums, count = min(size, first + block), row * width, row * (width + size), lengths[row]
        for left in range(count - 1, -1, -1):
            t = row * length + (left if order > 0 else count - 1 - left)
            fresh = len(reset) > 0 and reset[t] > 0
            at = t * width
            if far[0]:
                _fetch(dx, at - order * AHEAD * width, planes, size, first, last)
                _fetch(u, at - order * AHEAD * width, planes, size, first, last)
                _fetch(x, at - order * (AHEAD + 1) * width, planes, size, first, last)
            if left > 0 and not fresh:
                before = at - order * width
                if planes == 2:
                    _backward_complex(
                        dx, line, u, at, x, before, lam, gamma, carry, base, part, sums, first, last, size
                    )
                else:
                    _backward_real(dx, line, u, at, x, before, lam, gamma, carry, base, part, sums, first, last, size)
            else:
                before = len(lengths) * width if fresh else base
                if planes == 2:
                    _backward_complex(
                        dx, line, u, at, start, before, lam, gamma, carry, base, part, sums, first, last, size
                    )
                else:
                    _backward_real(
                        dx, line, u, at, start, before, lam, gamma, carry, base, part, sums, first, last, size
                    )
            _write(du, at, line, planes, size, first, last, far[1])
            if fresh:
                for plane in range(planes):
                    for c in range(first, last):
                        carry[base + plane * size + c] = 0
            if left % FLUSH == 0:
                for plane in range(planes + 1):
                    for c in range(sums + plane * size + first, sums + plane * size + last):
                        total[c] += part[c]
                        part[c] = 0
        _clear(du, row * length + count, (row + 1) * length, planes, size, first, last)
    fence()
