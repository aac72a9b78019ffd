"""The scan as an operator of torch: gradients, shapes for the compiler, and the choice of a kernel.

Post: 9554

Notation as in `scan.py`; g is the adjoint of x.
    g_t    = dx_t + conj(lam) g_{t+1}              the same recurrence, run the other way
    du     = gamma g     dh0 = conj(lam) g_0
    dlam   = sum_t g_t conj(x_{t-1})               (a complex number's gradient is dRe + i dIm)
    dgamma = sum_t Re(g_t conj(u_t))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tianwen.errors import InputError
from tianwen.recurrent import scan_cpu, scan_cuda, scan_torch

SCHEMA = "(Tensor u, Tensor lam, Tensor? gamma, Tensor? h0, Tensor? reset, Tensor? lengths, bool reverse)"


def _kernels(u: Tensor) -> Any:
    """The module whose forward and backward run on the device of u."""
    if u.device.type == "cpu":
        return scan_cpu
    return scan_cuda if scan_cuda.available(u) else scan_torch


@torch.library.custom_op("tianwen::linear_scan", mutates_args=(), schema=SCHEMA + " -> (Tensor, Tensor)")
def scan_operator(
    u: Tensor,
    lam: Tensor,
    gamma: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """x and the last state; `linear_scan` checks what comes in."""
    return _kernels(u).forward(u, lam, gamma, h0=h0, reset=reset, lengths=lengths, reverse=reverse)


@scan_operator.register_fake
def _shapes(
    u: Tensor,
    lam: Tensor,
    gamma: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u, memory_format=torch.contiguous_format), lam.new_empty(u.shape[0], u.shape[2])


@torch.library.custom_op(
    "tianwen::linear_scan_backward",
    mutates_args=(),
    schema=f"(Tensor dx, Tensor dlast, Tensor x, {SCHEMA[1:]} -> (Tensor, Tensor, Tensor, Tensor)",
)
def scan_backward(
    dx: Tensor,
    dlast: Tensor,
    x: Tensor,
    u: Tensor,
    lam: Tensor,
    gamma: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, lam, gamma and h0."""
    return _kernels(u).backward((dx, dlast), (u, x, lam), gamma, h0=h0, reset=reset, lengths=lengths, reverse=reverse)


@scan_backward.register_fake
def _backward_shapes(
    dx: Tensor,
    dlast: Tensor,
    x: Tensor,
    u: Tensor,
    lam: Tensor,
    gamma: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    du = torch.empty_like(u, memory_format=torch.contiguous_format)
    return du, torch.empty_like(lam), lam.new_empty(lam.shape[-1]), torch.empty_like(dlast)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(output[0], *tensors)


def _gradients(ctx: Any, dx: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
    x, u, lam, gamma, h0, reset, lengths = ctx.saved_tensors
    du, dlam, dgamma, dh0 = scan_backward(dx, dlast, x, u, lam, gamma, h0, reset, lengths, ctx.reverse)
    return (
        du,
        dlam,
        None if gamma is None else dgamma,
        None if h0 is None else dh0,
        None,
        None,
        None,
    )


scan_operator.register_autograd(_gradients, setup_context=_save)


def _second(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    raise InputError(
        "A second derivative went through linear_scan, which has a first one only. Detach its gradient, or compute "
        "this penalty from the layer's inputs and outputs."
    )


scan_backward.register_autograd(_second)
