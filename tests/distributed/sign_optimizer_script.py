"""Run by test_sign_optimizer.py under torchrun: two processes, with DDP and with FSDP2, against one process.

torchrun --nproc-per-node 2 sign_optimizer_script.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tianwen.optim.lion import Lion
from tianwen.optim.param_groups import param_groups_for
from tianwen.optim.tiger import Tiger

STEPS = 8
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "tiger": (Tiger, {"accumulate": 2}),
    "stale": (Tiger, {"accumulate": 2, "embedding_update": "stale"}),
    "lazy, one by one": (Tiger, {"embedding_update": "lazy", "foreach": False}),
    "adam": (Tiger, {"embedding_update": "adam", "accumulate": 2}),
    "lion": (Lion, {"lr": 1e-3}),
    "tiger, one by one": (Tiger, {"foreach": False}),
}


def model_of() -> nn.Module:
    torch.manual_seed(0)
    # 11 rows and 5 outputs do not divide by two; a bias of one number leaves nothing for the second process.
    return nn.Sequential(nn.Embedding(11, 6), nn.LayerNorm(6), nn.Linear(6, 5), nn.Linear(5, 1)).double()


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, 7, (8,), generator=generator), torch.randn(8, generator=generator, dtype=torch.float64)


def loss_of(model: nn.Module, tokens: Tensor, wanted: Tensor) -> Tensor:
    return (model(tokens)[..., 0] - wanted).square().mean()


def train(model: nn.Module, optimiser: torch.optim.Optimizer, steps: range, *, rank: int = 0, world: int = 1) -> None:
    for step in steps:
        optimiser.zero_grad()
        tokens, wanted = batch_of(step)
        loss_of(model, tokens[rank::world], wanted[rank::world]).backward()
        if step in (3, 4):  # at the last and the first micro-step of a window
            for name, p in model.named_parameters():
                if name.endswith("2.weight"):
                    spoil(p)
        optimiser.step()


def spoil(p: Tensor) -> None:
    """A NaN in the first row, which one process alone may hold."""
    grad: Any = p.grad
    if hasattr(grad, "to_local"):
        if dist.get_rank() == 0:
            grad.to_local()[0, 0] = float("nan")
    else:
        grad[0, 0] = float("nan")


def whole(model: nn.Module) -> dict[str, Tensor]:
    """Weights by name, put together from all processes."""
    found = {}
    for name, p in model.named_parameters():
        value: Any = p.detach()
        found[name.removeprefix("module.")] = value.full_tensor() if hasattr(value, "full_tensor") else value.clone()
    return found


def alone(case: str) -> dict[str, Tensor]:
    kind, options = CASES[case]
    model = model_of()
    train(model, kind(param_groups_for(model), fused=False, **options), range(STEPS))
    return whole(model)


def with_ddp(case: str, rank: int) -> dict[str, Tensor]:
    kind, options = CASES[case]
    model = DistributedDataParallel(model_of())
    train(model, kind(param_groups_for(model), **options), range(STEPS), rank=rank, world=2)
    return whole(model)


def with_fsdp(case: str, rank: int) -> dict[str, Tensor]:
    """Saved and loaded in the middle of a window on the way."""
    kind, options = CASES[case]
    model = model_of()
    for part in model:  # type: ignore[attr-defined]
        fully_shard(part)
    fully_shard(model)
    optimiser = kind(param_groups_for(model), **options)
    train(model, optimiser, range(5), rank=rank, world=2)
    saved = get_optimizer_state_dict(model, optimiser)
    fresh = kind(param_groups_for(model), **options)
    set_optimizer_state_dict(model, fresh, saved)
    train(model, fresh, range(5, STEPS), rank=rank, world=2)
    return whole(model)


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {case: {"ddp": with_ddp(case, rank), "fsdp": with_fsdp(case, rank)} for case in CASES}
    torch.save(found, folder / f"end-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
