"""The scan's loops as Triton programs: one for each row and block of channels, the state in registers.

Post: 9554

Notation as in `scan_kernels.py`; a complex row is [Re | Im], so plane p of channel c lies at p * size + c. One program
walks its row once, so chunks change no bit here either. Imported only where there is a triton.
"""

# A kernel's names are bound by its constants, and Triton's own functions say nothing of their types.
# pyright: reportPossiblyUnboundVariable=false, reportMissingImports=false, reportOperatorIssue=false

import triton
import triton.language as tl


@triton.jit
def forward_kernel(
    u, x, lam, gamma, state, reset, lengths, length, size,
    COMPLEX: tl.constexpr, RESET: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    held = c < size
    width = size * (2 if COMPLEX else 1)
    count = tl.load(lengths + row)
    re = tl.load(state + row * width + c, held, 0)
    lam_re, scale = tl.load(lam + c, held, 0), tl.load(gamma + c, held, 0)
    if COMPLEX:
        im, lam_im = tl.load(state + row * width + size + c, held, 0), tl.load(lam + size + c, held, 0)
    for done in range(count):
        t = count - 1 - done if REVERSE else done
        at = (row * length + t) * width + c
        if RESET:
            kept = 1 - tl.load(reset + row * length + t)
            re = tl.where(kept > 0, re, 0)
            if COMPLEX:
                im = tl.where(kept > 0, im, 0)
        u_re = scale * tl.load(u + at, held, 0).to(lam_re.dtype)
        if COMPLEX:
            u_im = scale * tl.load(u + at + size, held, 0).to(lam_re.dtype)
            re, im = lam_re * re - lam_im * im + u_re, lam_re * im + lam_im * re + u_im
            tl.store(x + at + size, im, held)
        else:
            re = lam_re * re + u_re
        tl.store(x + at, re, held)
    tl.store(state + row * width + c, re, held)
    if COMPLEX:
        tl.store(state + row * width + size + c, im, held)


@triton.jit
def backward_kernel(
    dx, du, u, x, lam, gamma, start, carry, dlam, dgamma, reset, lengths, length, size,
    COMPLEX: tl.constexpr, RESET: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    held = c < size
    width = size * (2 if COMPLEX else 1)
    count = tl.load(lengths + row)
    lam_re, scale = tl.load(lam + c, held, 0), tl.load(gamma + c, held, 0)
    re = tl.load(carry + row * width + c, held, 0)
    sum_re, sum_gamma = tl.zeros_like(lam_re), tl.zeros_like(lam_re)
    if COMPLEX:
        lam_im, im = tl.load(lam + size + c, held, 0), tl.load(carry + row * width + size + c, held, 0)
        sum_im = tl.zeros_like(lam_re)
    for done in range(count):
        left = count - 1 - done
        t = done if REVERSE else left
        at = (row * length + t) * width + c
        before = at + width if REVERSE else at - width
        re += tl.load(dx + at, held, 0).to(lam_re.dtype)
        tl.store(du + at, scale * re, held)
        sum_gamma += re * tl.load(u + at, held, 0).to(lam_re.dtype)
        if left > 0:  # noqa: SIM108
            x_re = tl.load(x + before, held, 0).to(lam_re.dtype)
        else:
            x_re = tl.load(start + row * width + c, held, 0)
        kept = 1
        if RESET:
            kept = 1 - tl.load(reset + row * length + t)
        if COMPLEX:
            im += tl.load(dx + at + size, held, 0).to(lam_re.dtype)
            tl.store(du + at + size, scale * im, held)
            sum_gamma += im * tl.load(u + at + size, held, 0).to(lam_re.dtype)
            if left > 0:
                x_im = tl.load(x + before + size, held, 0).to(lam_re.dtype)
            else:
                x_im = tl.load(start + row * width + size + c, held, 0)
            sum_re += tl.where(kept > 0, re * x_re + im * x_im, 0)
            sum_im += tl.where(kept > 0, im * x_re - re * x_im, 0)
            re, im = lam_re * re + lam_im * im, lam_re * im - lam_im * re
            im = tl.where(kept > 0, im, 0)
        else:
            sum_re += tl.where(kept > 0, re * x_re, 0)
            re = lam_re * re
        re = tl.where(kept > 0, re, 0)
    tl.store(carry + row * width + c, re, held)
    tl.store(dlam + row * width + c, sum_re, held)
    tl.store(dgamma + row * size + c, sum_gamma, held)
    if COMPLEX:
        tl.store(carry + row * width + size + c, im, held)
        tl.store(dlam + row * width + size + c, sum_im, held)
