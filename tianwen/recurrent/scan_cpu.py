"""The scan on a CPU: tensors to flat arrays, memory that is used again, threads, and the kernels.

Post: 9554

Notation as in `scan_kernels.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tianwen.errors import InputError
from tianwen.recurrent.lanes import LINE
from tianwen.recurrent.scan_kernels import backward_kernel, forward_kernel
from tianwen.recurrent.scan_torch import Gradients
from tianwen.recurrent.threads import share, thread_count
from tianwen.recurrent.workspace import WORKSPACE

BLOCK = 64
"""Channels of a block are a multiple of this: two threads never write into one line of the cache."""
NEAR = 1 << 20
"""Bytes that the second cache holds."""
CACHED = 8 << 20
"""Bytes of an output that may well be found in the cache again; more go past it."""


def forward(
    u: Tensor,
    lam: Tensor,
    gamma: Tensor | None,
    *,
    h0: Tensor | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """x in the dtype of u, and the last state in that of lam; arguments as in `linear_scan`."""
    if u.dtype == torch.float16:
        x, last = forward(u.float(), lam, gamma, h0=h0, reset=reset, lengths=lengths, reverse=reverse)
        return x.half(), last
    x = WORKSPACE.empty(tuple(u.shape), u.dtype)
    last = lam.new_zeros(u.shape[0], u.shape[2]) if h0 is None else h0.clone(memory_format=torch.contiguous_format)
    rows = flat(u), flat(x)
    numbers = flat(lam), _scale(gamma, lam), flat(last), *carry_arrays(u, reset, lengths)
    shape, order = (u.shape[1], lam.dim(), lam.shape[-1]), -1 if reverse else 1
    threads, block = _division(u, lam)
    far = _far(x, lam)

    def work(first: int, apart: int) -> None:
        forward_kernel(*rows, _line(u), *numbers, shape, order, far, (first, apart, block))

    share(work, threads)
    return x, last


def backward(
    grads: tuple[Tensor, Tensor],
    saved: tuple[Tensor, Tensor, Tensor],
    gamma: Tensor | None,
    *,
    h0: Tensor | None = None,
    reset: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> Gradients:
    """Gradients from those of (x, last) and the saved (u, x, lam)."""
    u, x, lam = saved
    if u.dtype == torch.float16:
        full = (grads[0].float(), grads[1]), (u.float(), x.float(), lam)
        found = backward(*full, gamma, h0=h0, reset=reset, lengths=lengths, reverse=reverse)
        return found._replace(u=found.u.half())
    batch, _, width = u.shape
    size = lam.shape[-1]
    du = WORKSPACE.empty(tuple(u.shape), u.dtype)
    carry = grads[1].clone(memory_format=torch.contiguous_format)
    start = lam.new_zeros(batch + 1, width)
    if h0 is not None:
        start[:batch] = h0
    part, total = lam.new_zeros(batch, width + size), torch.zeros(batch, width + size, dtype=torch.float64)
    rows = flat(grads[0].to(u.dtype)), flat(du), flat(u), flat(x)
    numbers = flat(lam), _scale(gamma, lam), flat(start), flat(carry), flat(part), flat(total)
    carried = carry_arrays(u, reset, lengths)
    shape, order = (u.shape[1], lam.dim(), size), -1 if reverse else 1
    threads, block = _division(u, lam)
    far = _far(du, lam)

    def work(first: int, apart: int) -> None:
        backward_kernel(*rows, _line(u), *numbers, *carried, shape, order, far, (first, apart, block))

    share(work, threads)
    dlam, dgamma = total.sum(0).to(lam.dtype).split([width, size])
    return Gradients(du, dlam.view_as(lam).clone(), dgamma.clone(), carry)


def flat(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor as a flat array: its own memory where it is contiguous, bfloat16 as bits."""
    tensor = tensor.detach().resolve_neg().contiguous().view(-1)
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def carry_arrays(u: Tensor, reset: Tensor | None, lengths: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """reset as flat bytes, empty without any, and the lengths of all rows.

    Raises InputError for lengths below 0 or beyond the sequence.
    """
    batch, length = u.shape[:2]
    resets = np.empty(0, np.uint8) if reset is None else flat(reset).view(np.uint8)
    if lengths is None:
        return resets, np.full(batch, length, np.int64)
    counts = flat(lengths.long())
    if batch and (counts.min() < 0 or counts.max() > length):
        raise InputError(
            f"Each of the lengths must be from 0 to {length}, the steps of u; given were {counts.min()} to "
            f"{counts.max()}."
        )
    return resets, counts


def _scale(gamma: Tensor | None, lam: Tensor) -> np.ndarray:
    return flat(lam.new_ones(lam.shape[-1]) if gamma is None else gamma)


def _line(u: Tensor) -> np.ndarray:
    return flat(torch.empty(u.shape[2], dtype=u.dtype))


def _far(rows: Tensor, lam: Tensor) -> tuple[bool, bool]:
    """Whether rows should be fetched ahead of their use, and whether they can and should be written past the cache."""
    size = rows.numel() * rows.element_size()
    lines = lam.shape[-1] * rows.element_size() % LINE == 0 and rows.data_ptr() % LINE == 0
    return size > NEAR, size > CACHED and lines


def _division(u: Tensor, lam: Tensor) -> tuple[int, int]:
    """Threads, and channels of a block: all of them, but where there are fewer rows than threads."""
    threads, size = thread_count(u.numel()), max(1, lam.shape[-1])
    blocks = -(-threads // max(1, u.shape[0]))
    block = size if blocks == 1 else -(-size // (blocks * BLOCK)) * BLOCK
    return min(threads, max(1, u.shape[0] * -(-size // block))), block
