"""LAMB: Adam whose step is, tensor by tensor, as long as the weights allow; for large batches.

Post: 8998 (its pretraining: LAMB at 1.76e-3). Paper: You et al., Large Batch Optimization for Deep Learning, 2020,
algorithm 2.

Notation (t = updates done, this one included)
    m, v    moments of the gradient g       beta_1, beta_2, eps, lambda (weight decay)
    1.  m <- beta_1 m + (1 - beta_1) g,     v <- beta_2 v + (1 - beta_2) g^2
    2.  u  = (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + eps) + lambda theta
    3.  theta <- theta - lr r u,            r = |theta| / |u|, or 1 where either is 0
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tianwen.errors import InputError


class Lamb(torch.optim.Optimizer):
    """LAMB over dense gradients; a weight moves by about `lr` of its own size in each update.

    Vectors (biases, gains) have neither weight decay nor a step relative to their size. Raises InputError for options
    out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.76e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        if not (float(lr) > 0 and all(0 <= beta < 1 for beta in betas) and eps > 0 and weight_decay >= 0):
            raise InputError(
                f"lr={lr}, betas={betas}, eps={eps}, weight_decay={weight_decay}: the rate and eps are above 0, betas "
                "in [0, 1), the decay at least 0."
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        one, two = group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1 - one)
        square = state["exp_avg_sq"].mul_(two).addcmul_(gradient, gradient, value=1 - two)
        root = (square / (1 - two ** state["step"])).sqrt_().add_(group["eps"])
        direction = (mean / (1 - one ** state["step"])).div_(root)
        if parameter.ndim > 1:
            direction.add_(parameter, alpha=group["weight_decay"])
            direction.mul_(_trust(parameter, direction))  # no wait for a GPU: the ratio stays a tensor
        parameter.sub_(direction * group["lr"])


def _trust(parameter: Tensor, direction: Tensor) -> Tensor:
    """|theta| / |u|, or 1 where either is 0."""
    size, length = parameter.norm(), direction.norm()
    return torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size))
