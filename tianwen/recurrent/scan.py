"""One operator for every linear recurrence of the house: x_t = lam x_{t-1} + gamma u_t, complex or real.

Post: 9554 (the recurrence, and why a diagonal complex matrix loses nothing against a dense real one).

Notation (-> name in the post)
    u      [batch, length, 2D] = [Re | Im], or [batch, length, D]   inputs (u_t)
    lam    [2, D] = (Re, Im), or [D]                                eigenvalues of the state matrix (lambda)
    gamma  [D]                                                      scale of the inputs (gamma)
    x      like u                                                   states (x_t)
    h      [batch, 2D] or [batch, D]                                a state between two calls

Complex numbers are pairs of real planes, never a complex dtype: so bfloat16, torch.compile and torch.export work.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import forward_ad

from tianwen.errors import InputError
from tianwen.recurrent.scan_operator import scan_operator

functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def linear_scan(
    u: Float[Tensor, " batch length planes"],
    lam: Float[Tensor, " 2 channels"] | Float[Tensor, " channels"],
    gamma: Float[Tensor, " channels"] | None = None,
    *,
    h0: Float[Tensor, " batch planes"] | None = None,
    reset: Bool[Tensor, " batch length"] | None = None,
    lengths: Int[Tensor, " batch"] | None = None,
    reverse: bool = False,
) -> tuple[Float[Tensor, " batch length planes"], Float[Tensor, " batch planes"]]:
    """States of the recurrence x_t = lam x_{t-1} + gamma u_t at every step, and the last one.

    Complex: lam is [2, D], and u, x, h0 and h_last hold [Re | Im] in their last axis of size 2D. Real: lam is [D].

    gamma    scale of the inputs, real; None means 1
    h0       the state before the first step; None means zero
    reset    true at a step: the state is zero before it (the first step of each sequence of a packed row; with
             `reverse`, the last one, for that is where the scan enters it)
    lengths  steps of each row that count. Those beyond are never read, and x is zero there
    reverse  from the last step to the first: x_t = lam x_{t+1} + gamma u_t, beginning at each row's own end

    Returns x in the dtype of u, and h_last in float32 (float64 if u is): hand it back as h0 to go on. On a CPU the
    result has the same bits in whatever chunks a sequence is given. The state is never rounded to the dtype of u.
    Nothing keeps |lam| below 1: beyond it states grow, and overflow to inf as the formula says.

    Raises InputError for shapes, dtypes and lengths that do not fit.
    """
    check_tensors(u=u, lam=lam, gamma=gamma, h0=h0, reset=reset, lengths=lengths)
    _check(u, lam, gamma, h0)
    check_carry(u, reset, lengths)
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    lam = lam.to(wide)
    gamma = None if gamma is None else gamma.to(wide)
    h0 = None if h0 is None else h0.to(wide)
    return scan_operator(u, lam, gamma, h0, reset, lengths, reverse)


def check_tensors(**given: Tensor | None) -> None:
    """Raise InputError for what is no tensor, and for derivatives that torch would drop or refuse without a reason."""
    for name, tensor in given.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise InputError(f"{name} must be a tensor, as torch.tensor({name}) makes it; given was {type(tensor)}.")
        if tensor is not None and not torch.compiler.is_compiling() and _follows_derivatives(tensor):
            raise InputError(
                f"A transform of torch.func, or a forward derivative, came through {name}. A recurrence here knows "
                "gradients by autograd alone: torch.autograd.grad, backward(), torch.autograd.functional.jacobian."
            )


def _follows_derivatives(tensor: Tensor) -> bool:
    """Whether torch.func.grad, jvp or their kin, or a dual number, wait for a derivative; vmap alone does not."""
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_gradtrackingtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return forward_ad.unpack_dual(tensor).tangent is not None if forward_ad._current_level >= 0 else False


def _check(u: Tensor, lam: Tensor, gamma: Tensor | None, h0: Tensor | None) -> None:
    for tensor in (u, lam, gamma, h0):
        if tensor is not None and tensor.dtype not in FLOATS:
            raise InputError(
                f"linear_scan works on real floating-point tensors, complex numbers as [Re | Im]; given was "
                f"{tensor.dtype}. torch.view_as_real and a permutation turn a complex tensor into planes."
            )
    if u.dim() != 3 or lam.dim() not in (1, 2) or (lam.dim() == 2 and lam.shape[0] != 2):
        raise InputError(
            f"linear_scan takes u [batch, length, 2D] with lam [2, D], or u [batch, length, D] with lam [D]; "
            f"given were u {list(u.shape)} and lam {list(lam.shape)}."
        )
    planes, channels = lam.dim(), lam.shape[-1]
    if u.shape[2] != planes * channels:
        kind = f"[2, {channels}] is complex, so u needs 2 * {channels}" if planes == 2 else f"[{channels}] is real"
        raise InputError(f"The last axis of u has size {u.shape[2]}, but lam {kind}: [Re | Im] of each channel.")
    if gamma is not None and gamma.shape != (channels,):
        raise InputError(f"gamma must be [{channels}], one real number a channel; given was {list(gamma.shape)}.")
    if h0 is not None and h0.shape != (u.shape[0], u.shape[2]):
        raise InputError(f"h0 must be [{u.shape[0]}, {u.shape[2]}], like one step of u; given was {list(h0.shape)}.")
    for tensor in (lam, gamma, h0):
        if tensor is not None and tensor.device != u.device:
            raise InputError(f"All tensors must be on one device; given were {u.device} and {tensor.device}.")


def check_carry(u: Tensor, reset: Tensor | None, lengths: Tensor | None) -> None:
    """Raise InputError unless reset and lengths fit u [batch, length, ...]."""
    if reset is not None and (reset.shape != u.shape[:2] or reset.dtype != torch.bool):
        raise InputError(
            f"reset must be a bool tensor {list(u.shape[:2])}, true where the state starts anew; "
            f"given was {reset.dtype} {list(reset.shape)}."
        )
    if lengths is not None and (lengths.shape != u.shape[:1] or lengths.dtype not in (torch.int64, torch.int32)):
        raise InputError(
            f"lengths must be an integer tensor [{u.shape[0]}], the steps of each row that count; "
            f"given was {lengths.dtype} {list(lengths.shape)}."
        )
    for tensor in (reset, lengths):
        if tensor is not None and tensor.device != u.device:
            raise InputError(f"All tensors must be on one device; given were {u.device} and {tensor.device}.")
