"""Steps beyond a row's length, blanked before they meet a dense layer.

The scan never reads padding, but a dense layer before it does: 0 * NaN in its weights' gradient is NaN.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def without_padding(
    x: Float[Tensor, " batch length width"], lengths: Int[Tensor, " batch"] | None
) -> Float[Tensor, " batch length width"]:
    """x with zeros beyond each row's length, whatever stood there."""
    if lengths is None:
        return x
    beyond = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]  # [batch, length]
    return x.masked_fill(beyond[..., None], 0)
