"""One parameter's share of a step: its tensors, its state, and the rules that hold for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tianwen.optim.param_groups import kind_of
from tianwen.optim.rounding import rounded

_NARROW = (torch.bfloat16, torch.float16)
NEVER = 1 << 30
"""Age of a row that has had no gradient yet."""


@dataclass(slots=True)
class Work:
    """One parameter in one micro-step."""

    name: str
    parameter: Tensor
    grad: Tensor | None
    group: dict[str, Any]
    state: dict[str, Any]
    kind: str
    update: str  # "plain", or the rule of an embedding: "lazy", "stale", "adam"
    key: tuple[int, int, int]  # of the random numbers of this parameter in this step

    @property
    def momentum(self) -> Tensor:
        return self.state["exp_avg"]

    @property
    def weight_decay(self) -> float:
        """The group's, but none for the vectors of a group whose kinds were not told."""
        return 0.0 if self.group["kind"] == "auto" and self.kind == "bias" else self.group["weight_decay"]

    def grad_values(self) -> Tensor:
        """The gradient's numbers, of a sparse one those that are stored."""
        assert self.grad is not None
        return self.grad._values() if self.grad.layout == torch.sparse_coo else self.grad

    def dense_grad(self) -> Tensor:
        assert self.grad is not None
        return self.grad if self.grad.layout == torch.strided else self.grad.to_dense()

    def read(self) -> Tensor:
        """The weights, wide enough for small steps."""
        theta = self.parameter.detach()
        if theta.dtype not in _NARROW:
            return theta
        master = self.state.get("master")
        if master is None:
            return theta.float()
        # Whoever wrote into the weights since (a checkpoint loaded, say) wins over the copy.
        return torch.where(master.to(theta.dtype) == theta, master, theta.float())

    def write(self, wide: Tensor) -> None:
        """Put new weights in the place of the old."""
        theta = self.parameter.detach()
        if "master" in self.state:
            self.state["master"].copy_(wide)
        if theta.dtype in _NARROW and self.group["rounding"] == "stochastic":
            wide = rounded(wide, theta.dtype, self.key)
        theta.copy_(wide)


def works_of(optimizer: torch.optim.Optimizer, step: int) -> list[Work]:
    """The parameters that have a gradient or an open window, with their state made where there is none."""
    works, number = [], -1
    for group in optimizer.param_groups:
        names = group.get("param_names")
        for index, parameter in enumerate(group["params"]):
            number += 1
            known = parameter in optimizer.state and bool(optimizer.state[parameter])
            if parameter.grad is None and not (known and optimizer.state[parameter]["open"]):
                continue
            kind = kind_of(parameter, group["kind"])
            update = _update(parameter, group, kind)
            state = optimizer.state[parameter]
            if not known:
                _begin(state, parameter, group, update)
            name = names[index] if names else f"parameter {number}"
            grad = _coalesced(parameter.grad)
            works.append(Work(name, parameter, grad, group, state, kind, update, (group["seed"], step, number)))
    return works


def _coalesced(grad: Tensor | None) -> Tensor | None:
    if grad is None or grad.layout == torch.strided:
        return grad
    if grad.layout == torch.sparse_coo and grad.sparse_dim() == 1:
        return grad.coalesce()
    return grad.to_dense()


def _update(parameter: Tensor, group: dict[str, Any], kind: str) -> str:
    """The embedding rule where it applies: to embeddings, and to all matrices if no kinds were told."""
    by_rows = kind == "embedding" or (group["kind"] == "auto" and parameter.ndim >= 2)
    return group["embedding_update"] if by_rows else "plain"


def _begin(state: dict[str, Any], parameter: Tensor, group: dict[str, Any], update: str) -> None:
    theta = parameter.detach()
    narrow = theta.dtype in _NARROW
    dtype = torch.float32 if narrow else theta.dtype
    state.update(step=0, open=0, nonfinite=0, exp_avg=torch.zeros_like(theta, dtype=dtype))
    if narrow and group["rounding"] == "master":
        state["master"] = theta.float()
    if update in ("lazy", "stale"):
        state["age"] = torch.full((theta.shape[0],), NEVER, dtype=torch.int32, device=theta.device)
    if update == "adam":
        state["exp_avg_sq"], state["updates"] = torch.zeros_like(theta, dtype=dtype), 0
        if group["accumulate"] > 1:
            state["grad_sum"] = torch.zeros_like(theta, dtype=dtype)
