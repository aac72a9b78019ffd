"""Milliseconds and bytes of an optimiser step on a CPU: Tiger, Lion, PyTorch's AdamW, other people's Lion and Tiger.

Post: 9512, 9473, 9736

29.6 million float32 parameters in 99 tensors, those of a BERT of 12 layers, width 384, with 21,128 tokens. All
contenders step the same parameters, one after the other in every round; a ratio is the median of the rounds' ratios.
Ours run with all their rules on: rates by RMS (by row for the tables), gradients looked through for NaN and infinities.
Peers that are not installed are named under `left_out`.

    python benchmarks/optim.py [--rounds 15] [--threads 2] [--json]

    notation            meaning
    floor               a loop that reads theta, m, g and writes theta, m and does next to nothing: 20 bytes a weight
    NAME_ms             median time of a step             NAME_state_mb         what it keeps, without the weights
    tiger_over_NAME     below 1: ours is faster           state_ratio           Tiger's state over AdamW's
    tiger_micro_step    within a window: the gradient goes into the momentum, the weights stand still
    tiger_stale_rows    embedding_update="stale"; a tenth of the tables' rows has a gradient, as in a real batch
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module, metadata
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from tianwen.optim.lion import Lion
from tianwen.optim.tiger import Tiger

Contender = Callable[[], object]
RATE = 1e-6
PEERS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "lion_pytorch": ("lion-pytorch", "lion_pytorch", "Lion", {}),
    "lion_pytorch_foreach": ("lion-pytorch", "lion_pytorch.foreach", "Lion", {}),
    "pytorch_optimizer_lion": ("pytorch_optimizer", "pytorch_optimizer", "Lion", {}),
    "pytorch_optimizer_lion_foreach": ("pytorch_optimizer", "pytorch_optimizer", "Lion", {"foreach": True}),
    "pytorch_optimizer_tiger": ("pytorch_optimizer", "pytorch_optimizer", "Tiger", {}),
    "pytorch_optimizer_tiger_foreach": ("pytorch_optimizer", "pytorch_optimizer", "Tiger", {"foreach": True}),
    "bitsandbytes_lion": ("bitsandbytes", "bitsandbytes.optim", "Lion", {}),
    "bitsandbytes_lion8bit": ("bitsandbytes", "bitsandbytes.optim", "Lion8bit", {}),
}


def run(*, rounds: int = 15, threads: int | None = None) -> dict[str, Any]:
    """Every number by name."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    groups = _parameters()
    every = [p for group in groups for p in group["params"]]
    contenders, optimisers, left_out = _contenders(groups, every)
    floor, close = _floor(sum(p.numel() for p in every))
    contenders["floor"] = floor
    seconds = _interleaved(contenders, rounds)
    close()
    numbers: dict[str, Any] = {f"{name}_ms": round(statistics.median(s) * 1e3, 1) for name, s in seconds.items()}
    numbers |= {f"{name}_state_mb": round(_state_bytes(o) / 1e6, 1) for name, o in optimisers.items()}
    others = {name: s for name, s in seconds.items() if name != "lion" and not name.startswith("tiger")}
    numbers |= {f"tiger_over_{name}": _ratio(seconds["tiger"], s) for name, s in others.items()}
    numbers["lion_over_adamw_fused"] = _ratio(seconds["lion"], seconds["adamw_fused"])
    numbers["state_ratio"] = round(_state_bytes(optimisers["tiger"]) / _state_bytes(optimisers["adamw_fused"]), 4)
    return numbers | {
        "parameters": sum(p.numel() for p in every),
        "tensors": len(every),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "left_out": left_out,
        "versions": {
            name: _version(name) for name in ["torch", *{peer[0]: 0 for peer in PEERS.values()}] if _version(name)
        },
        "processor": platform.processor() or platform.machine(),
    }


def _parameters() -> list[dict[str, Any]]:
    """Groups by kind, each parameter with a gradient; of the tables' rows one in ten has one."""
    width, inner, layers = 384, 1536, 12
    tables = [(21128, width), (512, width)]
    matrices = [shape for _ in range(layers) for shape in [(width, width)] * 4 + [(inner, width), (width, inner)]]
    vectors = [(width,)] + [shape for _ in range(layers) for shape in [(width,), (inner,)]]
    groups = []
    for kind, shapes in (("embedding", tables), ("matrix", matrices), ("gain", vectors)):
        members = [nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes]
        groups.append({"params": members, "kind": kind})
        for p in members:
            p.grad = torch.randn_like(p) * 1e-3
            if kind == "embedding":
                p.grad[torch.rand(len(p)) > 0.1] = 0
    return groups


def _contenders(
    groups: list[dict[str, Any]], every: list[nn.Parameter]
) -> tuple[dict[str, Contender], dict[str, torch.optim.Optimizer], dict[str, str]]:
    optimisers: dict[str, Any] = {
        "tiger": Tiger([dict(group) for group in groups], lr=RATE),
        "tiger_micro_step": Tiger([dict(group) for group in groups], lr=RATE, accumulate=1 << 30),
        "tiger_stale_rows": Tiger([dict(group) for group in groups], lr=RATE, embedding_update="stale"),
        "lion": Lion([dict(group) for group in groups], lr=RATE, weight_decay=0.01),
        "adamw_fused": torch.optim.AdamW(every, lr=RATE, fused=True),
        "adamw_foreach": torch.optim.AdamW(every, lr=RATE, foreach=True),
    }
    left_out = {}
    for name, (package, module, kind, options) in PEERS.items():
        if _version(package) is None:
            left_out[name] = f"{package} is not installed"
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                peer = getattr(import_module(module), kind)(every, lr=RATE, weight_decay=0.01, **options)
                peer.step()
        except Exception as error:
            left_out[name] = f"{type(error).__name__}: {str(error)[:100]}"
            continue
        optimisers[name] = peer
    return {name: optimiser.step for name, optimiser in optimisers.items()}, optimisers, left_out


@njit(nogil=True)
def _touch(theta, m, g):
    for i in range(theta.size):
        new = m[i] + g[i]
        m[i] = new
        theta[i] = theta[i] - new


def _floor(size: int) -> tuple[Contender, Callable[[], None]]:
    """Three arrays of as many numbers, gone through once by as many threads; and what ends the threads."""
    arrays = [torch.full((size,), 1e-9).numpy() for _ in range(3)]
    threads = torch.get_num_threads()
    cuts = np.linspace(0, size, threads + 1).astype(int)
    parts = [[array[a:b] for array in arrays] for a, b in pairwise(cuts)]
    pool = ThreadPoolExecutor(threads)

    def once() -> None:
        waiting = [pool.submit(_touch, *part) for part in parts[1:]]
        _touch(*parts[0])
        for one in waiting:
            one.result()

    return once, pool.shutdown


def _interleaved(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 2):  # two rounds to warm up
        for name, step in contenders.items():
            begin = time.perf_counter()
            step()
            if number >= 2:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def _ratio(ours: list[float], theirs: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def _state_bytes(optimiser: torch.optim.Optimizer) -> int:
    tensors = [value for state in optimiser.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in tensors if tensor.numel() > 1)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numbers = run(rounds=options.rounds, threads=options.threads)
    if options.json:
        print(json.dumps(numbers))
        return
    for key, value in numbers.items():
        print(f"{key:42} {value}")


if __name__ == "__main__":
    main()
