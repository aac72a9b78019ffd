"""wkv as an operator of torch: gradients, shapes for the compiler, and the CPU's kernels.

Post: 9554

Notation as in `wkv.py`; marks [batch, tiles, 3, channels] are states from which the backward pass computes the others
anew, one in 64 (tiles = length // 64 + 2, some of them unused).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tianwen.errors import InputError
from tianwen.recurrent.scan_cpu import BLOCK, carry_arrays, flat
from tianwen.recurrent.threads import share, thread_count
from tianwen.recurrent.wkv_kernels import TILE, backward_kernel, forward_kernel
from tianwen.recurrent.workspace import WORKSPACE

SCHEMA = "Tensor k, Tensor v, Tensor lam, Tensor bonus, Tensor state, Tensor? reset, Tensor? lengths, bool reverse"


@torch.library.custom_op("tianwen::wkv", mutates_args=(), schema=f"({SCHEMA}) -> (Tensor, Tensor, Tensor)")
def wkv_operator(
    k: Tensor,
    v: Tensor,
    lam: Tensor,
    bonus: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The averages, the last state and the marks; `wkv` checks what comes in."""
    batch, length, size = k.shape
    out = WORKSPACE.empty((batch, length, size), v.dtype)
    last = state.clone(memory_format=torch.contiguous_format)
    marks = state.new_zeros(_marks_shape(k))  # zeros: the same call gives the same bits, unused tiles too
    (keys, values), shape = _rows(k, v)
    numbers = flat(lam), flat(bonus), flat(last), flat(marks), *carry_arrays(k, reset, lengths)
    threads, block = _division(k)

    def work(first: int, apart: int) -> None:
        forward_kernel(keys, values, flat(out), *numbers, shape, -1 if reverse else 1, (first, apart, block))

    share(work, threads)
    return out, last, marks


@wkv_operator.register_fake
def _shapes(
    k: Tensor,
    v: Tensor,
    lam: Tensor,
    bonus: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return v.new_empty(v.shape), state.new_empty(state.shape), state.new_empty(_marks_shape(k))


@torch.library.custom_op(
    "tianwen::wkv_backward",
    mutates_args=(),
    schema=f"(Tensor dout, Tensor dlast, Tensor last, Tensor marks, {SCHEMA})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def wkv_backward(
    dout: Tensor,
    dlast: Tensor,
    last: Tensor,
    marks: Tensor,
    k: Tensor,
    v: Tensor,
    lam: Tensor,
    bonus: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of k, v, lam, bonus and the first state."""
    batch, _, size = k.shape
    dk, dv = WORKSPACE.empty(tuple(k.shape), k.dtype), WORKSPACE.empty(tuple(v.shape), v.dtype)
    adjoint = torch.stack([dlast[:, 0], dlast[:, 1], -last[:, 2]], 1)  # dy = da e^-m
    part, total = lam.new_zeros(batch, 2, size), torch.zeros(batch, 2, size, dtype=torch.float64)
    (keys, values), shape = _rows(k, v)
    rows = keys, values, flat(dout.to(v.dtype)), flat(dk), flat(dv), flat(lam), flat(bonus), flat(marks)
    sums = flat(adjoint), flat(part), flat(total), *carry_arrays(k, reset, lengths)
    threads, block = _division(k)

    def work(first: int, apart: int) -> None:
        trail = flat(lam.new_empty((TILE + 1) * 3 * size))
        backward_kernel(*rows, trail, *sums, shape, -1 if reverse else 1, (first, apart, block))

    share(work, threads)
    dlam, dbonus = total.sum(0).to(lam.dtype).unbind(0)
    return dk, dv, dlam.clone(), dbonus.clone(), _of_first(adjoint, state)


@wkv_backward.register_fake
def _backward_shapes(
    dout: Tensor,
    dlast: Tensor,
    last: Tensor,
    marks: Tensor,
    k: Tensor,
    v: Tensor,
    lam: Tensor,
    bonus: Tensor,
    state: Tensor,
    reset: Tensor | None,
    lengths: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        lam.new_empty(lam.shape),
        bonus.new_empty(bonus.shape),
        state.new_empty(state.shape),
    )


def _of_first(adjoint: Tensor, state: Tensor) -> Tensor:
    """Gradients of (a, b, m) from (P, Q, p): y = a e^m and z = b e^m."""
    scale = (adjoint[:, 2] + state[:, 2]).exp()
    da, db = adjoint[:, 0] * scale, adjoint[:, 1] * scale
    return torch.stack([da, db, da * state[:, 0] + db * state[:, 1]], 1)


def _marks_shape(k: Tensor) -> tuple[int, int, int, int]:
    return k.shape[0], k.shape[1] // TILE + 2, 3, k.shape[2]  # never 0 or 1, which an export would hold fixed


def _rows(k: Tensor, v: Tensor) -> tuple[tuple[Any, Any], tuple[int, int, int, int]]:
    """Keys and values as flat arrays with the same strides: slices of one tensor as they lie, others contiguous."""
    apart = k.stride() == v.stride() and k.stride(2) == 1 and min(k.stride()) > 0 and k.numel() > 0
    if not apart:
        k, v = k.contiguous(), v.contiguous()
    spans = [tensor.detach().as_strided((_span(tensor),), (1,)) for tensor in (k, v)]
    return (flat(spans[0]), flat(spans[1])), (k.shape[1], k.shape[2], k.stride(0), k.stride(1))


def _span(tensor: Tensor) -> int:
    """Numbers from the first to the last of a tensor, those between that are not its own too."""
    if not tensor.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _division(k: Tensor) -> tuple[int, int]:
    """Threads, and channels of a block: all of them, but where there are fewer rows than threads."""
    threads, size = thread_count(8 * k.numel()), max(1, k.shape[2])  # eight times the work of a scan
    blocks = -(-threads // max(1, k.shape[0]))
    block = size if blocks == 1 else -(-size // (blocks * BLOCK)) * BLOCK
    return min(threads, max(1, k.shape[0] * -(-size // block))), block


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(output[1], output[2], *tensors)
    ctx.mark_non_differentiable(output[2])


def _gradients(ctx: Any, dout: Tensor, dlast: Tensor, dmarks: Tensor) -> tuple[Tensor | None, ...]:
    last, marks, *tensors = ctx.saved_tensors
    return (*wkv_backward(dout, dlast, last, marks, *tensors, ctx.reverse), None, None, None)


wkv_operator.register_autograd(_gradients, setup_context=_save)


def _second(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    raise InputError("A second derivative went through wkv, which has a first one only. Detach its gradient.")


wkv_backward.register_autograd(_second)
