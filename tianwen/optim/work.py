"""One parameter's share of a step: its tensors, its state, and the rules that hold for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tianwen.errors import InputError
from tianwen.optim.param_groups import kind_of
from tianwen.optim.rounding import rounded
from tianwen.optim.shards import Shards, local, one_a_row, shards_of
from tianwen.optim.sign_update import row_rms

NARROW = (torch.bfloat16, torch.float16)
NEVER = 1 << 30
"""Age of a row that has had no gradient yet."""


@dataclass(slots=True)
class Work:
    """One parameter in one micro-step. Tensors are this process's part of it."""

    name: str
    parameter: Tensor
    theta: Tensor  # the parameter without its graph
    grad: Tensor | None
    momentum: Tensor
    group: dict[str, Any]
    state: dict[str, Any]
    kind: str
    update: str  # "plain", or the rule of an embedding: "lazy", "stale", "adam"
    shards: Shards | None
    key: tuple[int, int, int]  # of the random numbers of this parameter in this step

    @property
    def number(self) -> int:
        """Place among all parameters."""
        return self.key[2]

    @property
    def by_rows(self) -> bool:
        """Whether rows are treated one by one."""
        return self.kind == "embedding" or self.update != "plain"

    @property
    def weight_decay(self) -> float:
        """The group's, but none for the vectors of a group whose kinds were not told."""
        return 0.0 if self.group["kind"] == "auto" and self.kind == "bias" else self.group["weight_decay"]

    @property
    def rate(self) -> float:
        """eta, up to the root mean square where one counts."""
        rate = float(self.group["lr"])
        return rate * 0.5 if self.group["relative"] and self.kind in ("bias", "gain") else rate

    @property
    def share(self) -> float:
        """What the gradient counts for in this micro-step: 1 / k, negative to climb."""
        return (-1.0 if self.group["maximize"] else 1.0) / self.group["accumulate"]

    def rate_of(self, squares: float) -> float:
        """eta of a tensor that is no embedding, from the sum of squares over all of it; weights that are not finite
        have no size, and the others among them go on at the least rate.
        """
        if self.kind != "matrix" or not self.group["relative"]:
            return self.rate
        rms = math.sqrt(squares / max(self.parameter.numel(), 1))
        rate = self.rate * (max(rms, self.group["rms_floor"]) if math.isfinite(rms) else self.group["rms_floor"])
        return min(rate, self.highest_rate)

    def rates_of_rows(self, wide: Tensor) -> Tensor:
        """eta of each row of an embedding, [rows, 1, ...]."""
        return (self.rate * row_rms(wide).clamp(min=self.group["rms_floor"])).clamp(max=self.highest_rate)

    @property
    def highest_rate(self) -> float:
        """1 / weight decay: with more, the decay would throw weights to the other side of 0, and further each time."""
        return 1 / self.weight_decay if self.weight_decay else math.inf

    def grad_values(self) -> Tensor:
        """The gradient's numbers, of a sparse one those that are stored."""
        assert self.grad is not None
        return self.grad._values() if self.grad.layout == torch.sparse_coo else self.grad

    def dense_grad(self) -> Tensor:
        """The gradient in the type of the momentum."""
        assert self.grad is not None
        dense = self.grad if self.grad.layout == torch.strided else self.grad.to_dense()
        return dense.to(self.momentum.dtype)

    def read(self) -> Tensor:
        """The weights, wide enough for small steps; itself where it is wide enough."""
        if self.theta.dtype not in NARROW:
            return self.theta
        if "master" not in self.state:
            return self.theta.float()
        master = local(self.state["master"])
        # Whoever wrote into the weights since (a checkpoint loaded, say) wins over the copy.
        return torch.where(master.to(self.theta.dtype) == self.theta, master, self.theta.float())

    def write(self, wide: Tensor) -> None:
        """Put new weights in the place of the old."""
        if "master" in self.state:
            local(self.state["master"]).copy_(wide)
        if self.theta.dtype in NARROW and self.group["rounding"] == "stochastic":
            wide = rounded(wide, self.theta.dtype, self.key)
        if wide is not self.theta:
            self.theta.copy_(wide)


def works_of(optimizer: torch.optim.Optimizer, step: int) -> list[Work]:
    """The parameters that have a gradient or an open window, with their state made where there is none."""
    works, number = [], -1
    for group in optimizer.param_groups:
        names = group.get("param_names")
        for index, parameter in enumerate(group["params"]):
            number += 1
            known = optimizer.state.get(parameter)
            if parameter.grad is None and not (known and known.get("open")):
                continue
            name = names[index] if names else f"parameter {number}"
            works.append(_work(name, parameter, group, optimizer.state[parameter], (group["seed"], step, number)))
    return works


def _work(
    name: str, parameter: Tensor, group: dict[str, Any], state: dict[str, Any], key: tuple[int, int, int]
) -> Work:
    kind = kind_of(parameter, group["kind"])
    update = _update(parameter, group, kind)
    shards = shards_of(parameter)
    if shards is not None and not shards.whole_rows and (kind == "embedding" or update != "plain"):
        raise InputError(
            f"{name} is an embedding whose rows are cut between processes ({shards.placements}), but rates and rules "
            "go by rows. Shard it along axis 0, or give it the kind 'matrix'."
        )
    theta = parameter.detach()
    _complete(state, theta, group, update)
    if state["exp_avg"].shape != theta.shape:
        raise InputError(
            f"{name} has the shape {tuple(theta.shape)}, its momentum {tuple(state['exp_avg'].shape)}: "
            "the state belongs to other weights. Load the state that fits, or make a new optimiser for new shapes."
        )
    grad = _coalesced(parameter.grad)
    if shards is not None:
        theta, grad = local(theta), None if grad is None else local(grad)
    return Work(name, parameter, theta, grad, local(state["exp_avg"]), group, state, kind, update, shards, key)


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


def _complete(state: dict[str, Any], theta: Tensor, group: dict[str, Any], update: str) -> None:
    """Make what is not there yet: at the first step, after a change of options, after loading another's state."""
    narrow = theta.dtype in NARROW
    dtype = torch.float32 if narrow else theta.dtype
    for count in ("step", "open", "nonfinite"):
        state.setdefault(count, 0)
    if "exp_avg" not in state:
        state["exp_avg"] = torch.zeros_like(theta, dtype=dtype)
    if narrow and group["rounding"] == "master" and "master" not in state:
        state["master"] = theta.to(torch.float32, copy=True)
    if update in ("lazy", "stale") and "age" not in state:
        state["age"] = one_a_row(theta, NEVER)
        moving = local(state["exp_avg"]).flatten(1).any(dim=1)  # [rows]; of a run that began with another rule
        local(state["age"]).masked_fill_(moving, 0)
    if update == "adam" and "exp_avg_sq" not in state:
        state["exp_avg_sq"], state["updates"] = torch.zeros_like(theta, dtype=dtype), 0
    if update == "adam" and group["accumulate"] > 1 and "grad_sum" not in state:
        state["grad_sum"] = torch.zeros_like(theta, dtype=dtype)
