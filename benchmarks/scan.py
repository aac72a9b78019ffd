"""The linear recurrence against the speed of memory and against the other ways to compute it, on a CPU.

Post: 9554

Batch 8, 256 complex channels, float32. Rounds are interleaved; numbers are medians. A peer that would need minutes or
all of memory runs on a part of the batch and channels, and its time is multiplied up (`scaled_down` says by how much).

    key                 meaning
    forward_over_floor  our forward / time to move u and x at the speed of copying one onto the other
    both_over_floor     forward and backward / time to move five tensors (u, x; x, dx, du) at the speed of copying two
                        of four tensors of that size onto the others
    X_ratio             time of peer X / ours, forward and backward; X_forward_ratio: forward alone
    error_262144        largest error against float64 at that length, |lam| = .999, inputs of variance 1
    stream_*            a million steps in chunks of 1,000 on one row, and how much memory grew meanwhile
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from typing import Any

import torch
from scan_peers import PEERS, Run
from torch import Tensor

from tianwen.recurrent import linear_scan
from tianwen.recurrent.ring import ring

BATCH, CHANNELS = 8, 256
ENOUGH = BATCH * 2048 * CHANNELS
"""Complex numbers that a peer is given at most."""


def run(lengths: list[int], *, rounds: int = 15, quiet: bool = False) -> dict[str, Any]:
    """Every number, lengths as keys."""
    torch.manual_seed(0)
    numbers: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for length in lengths:
        if not quiet:
            print(f"length {length}", file=sys.stderr)
        numbers[str(length)] = _length(length, rounds)
    return numbers | _error() | _stream()


def _eigenvalues(channels: int, **options: float) -> tuple[Tensor, Tensor]:
    nu_log, theta_log, gamma_log = ring(channels, **options)
    radius, angle = (-nu_log.exp()).exp(), theta_log.exp()
    return torch.stack([radius * angle.cos(), radius * angle.sin()]), gamma_log.exp()


def _length(length: int, rounds: int) -> dict[str, Any]:
    lam, gamma = _eigenvalues(CHANNELS)
    u, dx = torch.randn(2, BATCH, length, 2 * CHANNELS).unbind()
    targets = torch.zeros(2, BATCH, length, 2 * CHANNELS).unbind()
    leaves = [tensor.requires_grad_() for tensor in (u, lam, gamma)]

    def forward() -> None:
        with torch.no_grad():
            linear_scan(u, lam, gamma)

    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        linear_scan(u, lam, gamma)[0].backward(dx)

    def copy() -> None:
        targets[0].copy_(u.detach())

    def copy_two() -> None:
        targets[0].copy_(u.detach())
        targets[1].copy_(dx)

    times = _interleaved({"forward": forward, "both": both, "copy": copy, "copy_two": copy_two}, _fewer(rounds, length))
    row: dict[str, Any] = {f"{name}_ms": round(seconds * 1e3, 3) for name, seconds in times.items()}
    row["forward_over_floor"] = round(times["forward"] / times["copy"], 2)
    row["both_over_floor"] = round(times["both"] / (1.25 * times["copy_two"]), 2)  # 5 passes, where two copies are 4
    del u, dx, targets, leaves
    return row | _peers(length, times)


def _fewer(rounds: int, length: int) -> int:
    return max(5, rounds if length <= 4096 else rounds * 4096 // length)


def _peers(length: int, ours: dict[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, (make, longest, divisible) in PEERS.items():
        if length > longest:
            row[f"{name}_note"] = f"left out beyond {longest} steps: minutes a call"
            continue
        batch = max(1, min(BATCH, ENOUGH // (length * CHANNELS))) if divisible else BATCH
        channels = max(4, min(CHANNELS, ENOUGH // (batch * length))) if divisible else CHANNELS
        lam, gamma = _eigenvalues(channels)
        try:
            pair = make(torch.randn(batch, length, channels, dtype=torch.complex64), torch.complex(*lam), gamma)
            forward, both = _interleaved({"forward": pair[0], "both": pair[1]}, 2).values()
        except Exception as error:
            row[f"{name}_note"] = f"left out: {type(error).__name__}: {str(error).strip().splitlines()[0][:100]}"
            continue
        part = BATCH * CHANNELS / (batch * channels)
        row[f"{name}_forward_ms"], row[f"{name}_both_ms"] = round(forward * part * 1e3, 1), round(both * part * 1e3, 1)
        row[f"{name}_forward_ratio"] = round(forward * part / ours["forward"], 1)
        row[f"{name}_ratio"] = round(both * part / ours["both"], 1)
        if part > 1:
            row[f"{name}_scaled_down"] = part
    return row


def _interleaved(ways: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if number:  # the first compiles and fills buffers
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _error() -> dict[str, float]:
    lam, gamma = _eigenvalues(16, r_min=0.99899, r_max=0.999)
    u = torch.randn(1, 1 << 18, 32)
    with torch.no_grad():
        exact, _ = linear_scan(u.double(), lam.double(), gamma.double())
        return {"error_262144": (linear_scan(u, lam, gamma)[0] - exact).abs().max().item()}


def _stream(steps: int = 1_000_000, chunk: int = 1000) -> dict[str, float]:
    lam, gamma = _eigenvalues(CHANNELS)
    u, state = torch.randn(1, chunk, 2 * CHANNELS), None
    begin, before = time.perf_counter(), 0
    with torch.no_grad():
        for done in range(0, steps, chunk):
            _, state = linear_scan(u, lam, gamma, h0=state)
            if done == steps // 10:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {
        "stream_grown_mb": round(grown, 2),
        "stream_steps_per_second": round(steps / (time.perf_counter() - begin)),
    }


def main() -> None:
    """Print the numbers, as JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="nothing on stderr")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peers", help="a folder that holds peers (jax), looked at after the installed packages")
    options = parser.parse_args()
    if options.peers:
        sys.path.append(options.peers)
    numbers = run(options.lengths, rounds=options.rounds, quiet=options.quiet)
    if options.json:
        print(json.dumps(numbers))
        return
    for name, value in numbers.items():
        rows = value.items() if isinstance(value, dict) else [("", value)]
        for key, number in rows:
            print(f"{name:>24} {key:28} {number}")


if __name__ == "__main__":
    main()
