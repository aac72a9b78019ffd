"""Lion: the sign of a blend of momentum and gradient, with a slower momentum behind it.

Post: 9473. Paper: Chen et al., Symbolic Discovery of Optimization Algorithms, 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tianwen.optim.sign_optimizer import SignOptimizer
from tianwen.optim.tiger import EmbeddingUpdate, Nonfinite, Rounding


class Lion(SignOptimizer):
    """u = b1 m + (1 - b1) g;  theta <- theta - lr (sign(u) + weight_decay theta);  m <- b2 m + (1 - b2) g.

    The same options as `Tiger`, but one rate for all (relative=True gives Tiger's), and no accumulation: the sign is
    taken of a blend that is not kept, so a window's gradients cannot be hidden in the momentum.
    Raises InputError for options or parameters it cannot use.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        accumulate: int = 1,
        embedding_update: EmbeddingUpdate = "plain",
        nonfinite: Nonfinite = "shrink",
        shrink: float = 0.99,
        rounding: Rounding = "stochastic",
        relative: bool = False,
        rms_floor: float = 1e-3,
        maximize: bool = False,
        adam_betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        seed: int = 0,
        fused: bool | None = None,
        foreach: bool | None = None,
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "accumulate": accumulate,
            "embedding_update": embedding_update,
            "nonfinite": nonfinite,
            "shrink": shrink,
            "rounding": rounding,
            "relative": relative,
            "rms_floor": rms_floor,
            "maximize": maximize,
            "adam_betas": adam_betas,
            "adam_eps": adam_eps,
            "seed": seed,
            "fused": fused,
            "foreach": foreach,
            "kind": "auto",
        }
        super().__init__(params, options)

    def _blends(self, group: Mapping[str, Any]) -> tuple[float, float]:
        return group["betas"]
