"""wkv, the average that RWKV takes over the past: weights e^k, decaying by lam a step, and a weight of its own for now.

Post: 9554 (as y and z, two real linear recurrences); equal to the wkv of RWKV-4.

Notation (-> name in the post; RWKV-4)
    k, v   [batch, length, channels]   keys and values
    lam    [channels]   decay of a step, exp(-nu) (e^-w)
    bonus  [channels]   log gamma (u): what the present step weighs more
    y_t = lam y_{t-1} + e^{k_t} v_t,   z_t = lam z_{t-1} + e^{k_t}
    out = (y_t + (g - 1) e^k v) / (z_t + (g - 1) e^k), g = gamma lam
        = (y_{t-1} + e^{bonus + k} v) / (z_{t-1} + e^{bonus + k})      the same, and nothing is subtracted
    state  [batch, 3, channels] = (a, b, m): y = a e^m, z = b e^m; m follows the largest key, so nothing overflows

The reference has no m (overflow from k = 88 on) and writes gamma nu - 1 where gamma lam - 1 is meant.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tianwen.errors import InputError
from tianwen.recurrent import wkv_torch
from tianwen.recurrent.scan import check_carry, check_tensors
from tianwen.recurrent.wkv_operator import wkv_operator


def empty_state(batch: int, channels: int, *, like: Tensor) -> Float[Tensor, " batch 3 channels"]:
    """The state before the first step, on the device of `like`, in float32 (float64 if `like` is)."""
    state = torch.zeros(batch, 3, channels, dtype=_wide(like), device=like.device)
    state[:, 2] = wkv_torch.NOTHING
    return state


def wkv(
    k: Float[Tensor, " batch length channels"],
    v: Float[Tensor, " batch length channels"],
    lam: Float[Tensor, " channels"],
    bonus: Float[Tensor, " channels"],
    *,
    state: Float[Tensor, " batch 3 channels"] | None = None,
    reset: Bool[Tensor, " batch length"] | None = None,
    lengths: Int[Tensor, " batch"] | None = None,
    reverse: bool = False,
) -> tuple[Float[Tensor, " batch length channels"], Float[Tensor, " batch 3 channels"]]:
    """The averages at every step, in the dtype of v, and the state after the last, in float32 (float64 if v is).

    `reset`, `lengths` and `reverse` as in `linear_scan`: steps beyond a row's length are never read and give zero.
    A state's third part is a scale: gradients pass through the other two, which is right for whatever goes on with it.

    Raises InputError for shapes, dtypes and lengths that do not fit.
    """
    check_tensors(k=k, v=v, lam=lam, bonus=bonus, state=state, reset=reset, lengths=lengths)
    if k.shape != v.shape or k.dim() != 3 or lam.shape != k.shape[2:] or bonus.shape != k.shape[2:]:
        raise InputError(
            "wkv takes k and v [batch, length, channels] with lam and bonus [channels]; given were "
            f"{list(k.shape)}, {list(v.shape)}, {list(lam.shape)} and {list(bonus.shape)}."
        )
    if not all(tensor.dtype.is_floating_point for tensor in (k, v, lam, bonus)):
        raise InputError("wkv works on floating-point tensors.")
    state = empty_state(k.shape[0], k.shape[2], like=v) if state is None else state.to(_wide(v))
    if state.shape != (k.shape[0], 3, k.shape[2]):
        raise InputError(
            f"The state must be [{k.shape[0]}, 3, {k.shape[2]}], as the last call gave it; given was "
            f"{list(state.shape)}."
        )
    check_carry(k, reset, lengths)
    k, lam, bonus = k.to(v.dtype), lam.to(_wide(v)), bonus.to(_wide(v))
    if v.device.type != "cpu":
        return wkv_torch.forward(k, v, lam, bonus, state=state, reset=reset, lengths=lengths, reverse=reverse)
    if v.dtype == torch.float16:
        out, last = wkv(k.float(), v.float(), lam, bonus, state=state, reset=reset, lengths=lengths, reverse=reverse)
        return out.half(), last
    out, last, _ = wkv_operator(k, v, lam, bonus, state, reset, lengths, reverse)
    return out, last


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
