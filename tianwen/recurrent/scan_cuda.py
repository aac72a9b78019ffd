"""The scan on a GPU: a Triton program for each row and block of channels, with the loop over time inside.

Post: 9554

Needs the triton that comes with torch's CUDA builds; without it `scan_torch` does the work. Notation as in
`scan_kernels.py`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from tianwen.recurrent.scan_torch import Gradients

BLOCK = 64
"""Channels of a program: two warps of a float32 each."""


def available(u: Tensor) -> bool:
    """Whether the kernels below can run on the device of u."""
    return u.is_cuda and find_spec("triton") is not None


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
    """x in the dtype of u, and the last state in that of lam; lengths out of range are cut to it, without a word."""
    x = torch.zeros_like(u, memory_format=torch.contiguous_format)  # zero beyond a row's length
    last = lam.new_zeros(u.shape[0], u.shape[2]) if h0 is None else h0.clone(memory_format=torch.contiguous_format)
    if u.numel():
        grid, shared = _launch(u, lam, gamma, reset, lengths)
        from tianwen.recurrent.scan_triton import forward_kernel

        kernel: Any = forward_kernel
        kernel[grid](u.contiguous(), x, lam.contiguous(), *shared[0], last, *shared[1], REVERSE=reverse, **shared[2])
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
    batch, _, width = u.shape
    du = torch.zeros_like(u, memory_format=torch.contiguous_format)
    carry = grads[1].clone(memory_format=torch.contiguous_format)
    dlam, dgamma = lam.new_zeros(batch, width), lam.new_zeros(batch, lam.shape[-1])
    if u.numel():
        start = lam.new_zeros(batch, width) if h0 is None else h0.contiguous()
        grid, shared = _launch(u, lam, gamma, reset, lengths)
        from tianwen.recurrent.scan_triton import backward_kernel

        kernel: Any = backward_kernel
        kernel[grid](
            grads[0].contiguous(), du, u.contiguous(), x, lam.contiguous(), *shared[0], start, carry, dlam, dgamma,
            *shared[1], REVERSE=reverse, **shared[2],
        )  # fmt: skip
    return Gradients(du, dlam.double().sum(0).to(lam.dtype).view_as(lam), dgamma.double().sum(0).to(lam.dtype), carry)


def _launch(
    u: Tensor, lam: Tensor, gamma: Tensor | None, reset: Tensor | None, lengths: Tensor | None
) -> tuple[tuple[int, int], tuple[tuple[Tensor], tuple[Any, ...], dict[str, Any]]]:
    batch, length, _ = u.shape
    size = lam.shape[-1]
    scale = lam.new_ones(size) if gamma is None else gamma.contiguous()
    rows = torch.full((batch,), length, device=u.device)
    rows = rows if lengths is None else lengths.long().clamp(0, length)
    resets = rows if reset is None else reset.contiguous().view(torch.uint8)
    options = {"COMPLEX": lam.dim() == 2, "RESET": reset is not None, "BLOCK": BLOCK}
    return (batch, -(-size // BLOCK)), ((scale,), (resets, rows, length, size), options)
