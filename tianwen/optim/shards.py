"""Parameters that are spread over processes (DTensor, as FSDP2 and tensor parallelism make them).

Everything in a sign optimiser is local to a number but three things, which are summed over the processes that hold the
parts: whether a gradient is finite, RMS(theta) of a matrix, and RMS of an embedding's row, whose rows must not be cut.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from tianwen.errors import InputError


@dataclass(frozen=True)
class Shards:
    """How one parameter is spread: over which dimensions of a mesh of processes, along which of its axes."""

    mesh: Any
    placements: tuple[Any, ...]

    @property
    def cut(self) -> tuple[int, ...]:
        """The dimensions of the mesh over which it is cut (over the others it is the same)."""
        return tuple(i for i, placement in enumerate(self.placements) if placement.is_shard())

    @property
    def whole_rows(self) -> bool:
        return all(placement.dim == 0 for placement in self.placements if placement.is_shard())

    def sum(self, values: Shaped[Tensor, " n"]) -> Shaped[Tensor, " n"]:
        """The sums over the parts, the same in every process; all of them must come here."""
        for dimension in self.cut:
            dist.all_reduce(values, group=self.mesh.get_group(dimension))
        return values


def _dtensor() -> Any:
    """The type of spread tensors; importing it takes long, and nobody has one who has not imported it."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())


def shards_of(tensor: Tensor) -> Shards | None:
    """How a tensor is spread; None for an ordinary one."""
    if not isinstance(tensor, _dtensor()):
        return None
    spread: Any = tensor
    odd = [p for p in spread.placements if not (p.is_shard() or p.is_replicate())]
    if odd:
        raise InputError(f"A parameter is placed as {odd[0]}: a sign optimiser needs whole numbers, not parts of sums.")
    return Shards(spread.device_mesh, tuple(spread.placements))


def local(tensor: Tensor) -> Tensor:
    """This process's part, or the tensor itself."""
    spread: Any = tensor
    return spread.to_local() if isinstance(tensor, _dtensor()) else tensor


def one_a_row(parameter: Tensor, value: int) -> Tensor:
    """int32 [rows], spread as the rows of `parameter` are."""
    part = local(parameter)
    mine = torch.full((part.shape[0],), value, dtype=torch.int32, device=part.device)
    shards = shards_of(parameter)
    if shards is None:
        return mine
    size = torch.Size([parameter.shape[0]])
    return _dtensor().from_local(mine, shards.mesh, shards.placements, run_check=False, shape=size, stride=(1,))
