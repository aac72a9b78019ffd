"""Time of a step and of a training step: the light and the paper-like network against diffusers' UNet2D.

Post: 9152

    tianwen bench draw [--json] [--rounds 7] [--threads 1]

Eight pictures of 32 x 32, width 64, multipliers 1 2 2 2, two blocks a level, no attention, float32, random weights; the
training step is a forward pass, the squared error, a backward pass and AdamW (the fused one, for all). Each round runs
every contender once, one after the other, and a ratio is the median of the rounds' ratios. With one thread the time is
that thread's own, so other work on the machine hardly counts; with more it is the clock on the wall.

Keys of --json
    forward_ratio, train_ratio          light network / diffusers; below 1: we are faster
    paper_forward_ratio ...             the paper-like network / diffusers
    batch_forward_ratio                 light network with same_bits.exact = False, without the promise of equal bits
    *_ms, *_parameters                  medians, and sizes
Without diffusers its rows and the ratios against it are left out, and the two networks of ours are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from tianwen.diffusion.unet_light import LightUNet
from tianwen.diffusion.unet_paper import PaperUNet
from tianwen.diffusion.unet_parts import UNetConfig

CONFIG = UNetConfig(side=32, width=64, multipliers=(1, 2, 2, 2), blocks=2)
BATCH = 8


def contenders() -> dict[str, nn.Module]:
    """The networks, each called with (x, t); diffusers' is missing where it is not installed."""
    torch.manual_seed(0)
    nets: dict[str, nn.Module] = {"light": LightUNet(CONFIG), "paper": PaperUNet(CONFIG), "batch": LightUNet(CONFIG)}
    nets["batch"].same_bits.exact = False  # type: ignore[union-attr]
    try:
        nets["diffusers"] = peer(import_module("diffusers").UNet2DModel)
    except ImportError:
        print("diffusers is not installed; its rows are left out", file=sys.stderr)
    return nets


def peer(network: Callable[..., nn.Module]) -> nn.Module:
    """diffusers' network of the same widths, levels and blocks."""
    return network(
        sample_size=CONFIG.side,
        in_channels=CONFIG.colours,
        out_channels=CONFIG.colours,
        layers_per_block=CONFIG.blocks,
        block_out_channels=tuple(CONFIG.width * multiplier for multiplier in CONFIG.multipliers),
        down_block_types=("DownBlock2D",) * len(CONFIG.multipliers),
        up_block_types=("UpBlock2D",) * len(CONFIG.multipliers),
        add_attention=False,
    )


def prediction(net: nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The network's answer, without the wrapping of diffusers."""
    answer = net(x, t)
    return answer if isinstance(answer, torch.Tensor) else answer.sample


def seconds(work: Callable[[], Any]) -> float:
    """Time of one call: this thread's own if there is only one, else on the wall."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """kind -> contender -> seconds of every round, interleaved."""
    nets = contenders()
    x, t = torch.randn(BATCH, CONFIG.colours, CONFIG.side, CONFIG.side), torch.full((BATCH,), 500)
    noise = torch.randn_like(x)
    optimisers = {name: torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True) for name, net in nets.items()}

    def forward(name: str) -> None:
        with torch.no_grad():
            prediction(nets[name].eval(), x, t)

    def train(name: str) -> None:
        nets[name].train()
        ((prediction(nets[name], x, t) - noise) ** 2).mean().backward()
        optimisers[name].step()
        optimisers[name].zero_grad()

    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in nets} for kind in ("forward", "train")}
    for turn in range(rounds + 1):
        for kind, work in (("forward", forward), ("train", train)):
            for name in nets:
                spent = seconds(lambda work=work, name=name: work(name))
                if turn:  # the first round warms up
                    times[kind][name].append(spent)
    for name, net in nets.items():
        times.setdefault("parameters", {})[name] = [sum(p.numel() for p in net.parameters())]
    return times


def summarise(times: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Medians in milliseconds, sizes, and ratios against diffusers (against the paper-like network without it)."""
    result: dict[str, Any] = {}
    base = "diffusers" if "diffusers" in times["forward"] else "paper"
    names = {"light": "", "paper": "paper_", "batch": "batch_"}
    for kind in ("forward", "train"):
        for name, spent in times[kind].items():
            result[f"{name}_{kind}_ms"] = 1000 * statistics.median(spent)
        for name, prefix in names.items():
            ratios = [ours / theirs for ours, theirs in zip(times[kind][name], times[kind][base], strict=True)]
            if name != base:
                suffix = "" if base == "diffusers" else "_to_paper"
                result[f"{prefix}{kind}_ratio{suffix}"] = statistics.median(ratios)
    for name, count in times["parameters"].items():
        result[f"{name}_parameters"] = int(count[0])
    result["torch"], result["threads"] = torch.__version__, torch.get_num_threads()
    if base == "diffusers":
        result["diffusers"] = version("diffusers")
    else:
        result["note"] = "diffusers is not installed; its rows are left out"
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Networks side by side.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = summarise(measure(options.rounds))
    if options.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:30} {value:.4g}" if isinstance(value, float) else f"{key:30} {value}")


if __name__ == "__main__":
    main()
