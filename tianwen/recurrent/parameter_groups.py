"""Parameter groups for an optimiser: eigenvalues and scales learn more slowly than weights, and never decay.

Post: 9554

Weight decay would pull nu_log, theta_log and gamma_log towards 0, that is |lam| towards 1/e and angles to 1 radian:
a pull that means nothing. And a small step in nu_log is a large step in memory when |lam| is near 1.
"""

from __future__ import annotations

from typing import Any

from torch import nn

SLOW = ("nu_log", "theta_log", "gamma_log")
"""Names of the parameters that govern a recurrence."""


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float = 0.0, slow: float = 0.1
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: matrices, other vectors (no weight decay), the recurrence (`slow` times the rate).

    Frozen parameters are left out, and so are empty groups.
    """
    weights, vectors, recurrence = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.rpartition(".")[2] in SLOW:
            recurrence.append(parameter)
        else:
            (weights if parameter.dim() >= 2 else vectors).append(parameter)
    groups = [
        {"params": weights, "lr": lr, "weight_decay": weight_decay},
        {"params": vectors, "lr": lr, "weight_decay": 0.0},
        {"params": recurrence, "lr": slow * lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
