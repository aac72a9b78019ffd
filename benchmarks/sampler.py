"""How far a sampler is from the truth where the truth is known: every solver and grid, and diffusers beside them.

Post: 9152, 9181

    tianwen bench sampler [--json] [--count 250000]

The data is N(0.5, 0.2^2), independent for every number, so the best network is known in closed form and nothing is
trained: whatever the result misses, the sampler missed. Printed is the standard deviation reached; 0.200 is right.

Keys of --json
    std_10, mean_10, std_20, std_50     our default (2m on the log-SNR grid) at 10, 20 and 50 model calls
    table                               solver -> grid -> deviation at 5, 10, 20 and 50 calls; the post's schedule
    post_stride                         the post's own way, every (T/S)-th time from 0, which never visits T-1
    diffusers                           scheduler -> deviation at the same calls, each as it comes; left out without it
The sampling error of a deviation of 0.2 from 250,000 numbers is 0.0003.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any, get_args

import torch
from torch import Tensor

from tianwen.diffusion import GaussianOracle, Schedule, sample
from tianwen.diffusion.grids import GridName
from tianwen.diffusion.sampling import Options, Solver, walk

CALLS = (5, 10, 20, 50)
SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")


def ours(count: int) -> dict[str, Any]:
    """Our default and the whole table."""
    schedule = Schedule.post()
    oracle = GaussianOracle(schedule)
    result: dict[str, Any] = {}
    for steps in CALLS[1:]:
        numbers = sample(oracle, (count,), schedule=schedule, steps=steps, seeds=0)
        result[f"std_{steps}"], result[f"mean_{steps}"] = float(numbers.std()), float(numbers.mean())
    result["table"] = {
        solver: {
            grid: {
                steps: float(
                    sample(oracle, (count,), schedule=schedule, solver=solver, grid=grid, steps=steps, seeds=0).std()
                )
                for steps in CALLS
            }
            for grid in get_args(GridName)
        }
        for solver in get_args(Solver)
    }
    result["post_stride"] = {steps: float(by_stride(oracle, count, steps).std()) for steps in CALLS}
    return result


def by_stride(oracle: GaussianOracle, count: int, steps: int) -> Tensor:
    """DDIM as the post's code strides: 0, T/S, 2 T/S ... from the top, although noise is only at T-1."""
    times = list(range(0, oracle.schedule.T, oracle.schedule.T // steps))[::-1]
    x = torch.randn(1, count, generator=torch.Generator().manual_seed(0))
    return walk(oracle, x, times, schedule=oracle.schedule, options=Options(solver="ddim"), seeds=[0])


def theirs(count: int) -> dict[str, Any]:
    """The same oracle under diffusers' schedulers with the settings they come with, on their own amplitudes."""
    diffusers = import_module("diffusers")
    return {
        "version": version("diffusers"),
        **{
            name: {steps: by_scheduler(getattr(diffusers, name), count, steps) for steps in CALLS}
            for name in SCHEDULERS
        },
    }


def by_scheduler(scheduler_of: Callable[[], Any], count: int, steps: int) -> float:
    """Deviation that a scheduler of diffusers reaches."""
    scheduler = scheduler_of()
    oracle = GaussianOracle(Schedule.from_amplitudes(scheduler.alphas_cumprod.double().sqrt()))
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, count, generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        eps = oracle(scheduler.scale_model_input(x, t), t.long().expand(1))
        takes = {"generator": generator} if type(scheduler).__name__ == "DDPMScheduler" else {}
        x = scheduler.step(eps, t, x, **takes).prev_sample
    return float(x.std())


def show(result: dict[str, Any]) -> None:
    """The numbers as a table; deviations, right is 0.200."""
    print(f"deviation reached (right: 0.200){'':18}" + "".join(f"{steps:>8} calls" for steps in CALLS))

    def line(name: str, row: dict[int, float]) -> None:
        print(f"{name:50}" + "".join(f"{row[steps]:14.4f}" for steps in CALLS))

    for solver, grids in result["table"].items():
        for grid, row in grids.items():
            line(f"{solver} on {grid}{'  (default)' if (solver, grid) == ('2m', 'logsnr') else ''}", row)
    line("the post's stride", result["post_stride"])
    for name, row in result.get("diffusers", {}).items():
        if name != "version":
            line(f"diffusers {result['diffusers']['version']} {name}", row)
    print(f"mean of the default at 10 calls (right: 0.500): {result['mean_10']:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Samplers against an exact oracle.")
    parser.add_argument("--count", type=int, default=250_000, help="numbers drawn for each row")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    result = ours(options.count)
    try:
        result["diffusers"] = theirs(options.count)
    except ImportError:
        result["note"] = "diffusers is not installed; its rows are left out"
        print(result["note"], file=sys.stderr)
    assert all(math.isfinite(result[f"std_{steps}"]) for steps in CALLS[1:])
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
