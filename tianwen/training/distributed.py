"""Data parallelism under torchrun: every process takes its part of each batch, gradients are summed between them.

The processes are found in the environment that torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT);
the same script without torchrun is one process. Gradients are summed by flat all-reduces after the backward pass rather
than by a wrapper around the model: a loss may call any method of the model, use some parameters only now and then, and
no model code knows.

Notation
    R  number of processes ("world")      r  rank of this one, 0 .. R-1; rank 0 alone writes files
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tianwen.errors import InputError

BUCKET_BYTES = 32 << 20


@dataclass(frozen=True)
class World:
    """The processes that train together; a world of one does nothing in every method."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """True in the one process that writes files and talks to the user."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; all call it with the same shapes in the same order."""
        if self.size == 1:
            return
        waiting = []
        plain = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]
        for bucket in _buckets(plain):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])  # [sum of sizes]
            waiting.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, handle in waiting:
            if handle is not None:
                handle.wait()
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    @torch.no_grad()
    def same_start(self, model: nn.Module) -> None:
        """Give every process the parameters and buffers of rank 0."""
        if self.size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                whole = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(torch.view_as_complex(whole) if tensor.is_complex() else whole)

    def from_first(self, value: Any) -> Any:
        """The value that rank 0 has, in every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, in every process."""
        if self.size == 1:
            return [value]
        box = [None] * self.size
        dist.all_gather_object(box, value)
        return box

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()


def local_device() -> torch.device:
    """The device for this process: cuda:LOCAL_RANK where there is a GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")


def chosen_device(name: str | None) -> torch.device:
    """The device of this name, or `local_device` for None. Raises InputError for one that is not there."""
    if name is None or (name == "cuda" and torch.cuda.is_available()):
        return local_device()
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = "cpu, cuda" if torch.cuda.is_available() else "cpu (no GPU is seen by this PyTorch)"
        raise InputError(
            f"The device {name!r} cannot be used: {str(error).splitlines()[0]}. There is: {there}."
        ) from None
    return device


@contextmanager
def joined_world(device: torch.device) -> Iterator[World]:
    """The world that torchrun describes in the environment.

    A process group that is opened here stays open for the next call and is closed when the process ends: a second one
    would meet at the same address and might read what the first left there. After an error in the block it is not
    closed at all, because closing waits for the other processes.
    """
    if not (dist.is_available() and dist.is_initialized()):
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield World()
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_close)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    except Exception:
        atexit.unregister(_close)
        raise


def _close() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of tensors of one type, together at most BUCKET_BYTES (or one larger tensor)."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or size + tensor.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
