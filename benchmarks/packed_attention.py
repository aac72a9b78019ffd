"""Five ways to attend within the sequences of a padding-free batch, on a CPU.

Post: 8998

All get queries, keys and values end to end, [tokens, 3, heads, size], sequences sorted by length, and give the same
result (checked). Times are medians of interleaved rounds, in milliseconds, of one layer with 6 heads of 64; with one
thread the time is that thread's own, with more it is the clock on the wall.

    notation       meaning
    runs           one call for each run of equal lengths, on views (what `packing.py` does)
    each           one call for each sequence
    padded         copied into a padded batch with a mask and back
    block_diagonal one call with a mask [tokens, tokens]
    nested         PyTorch's jagged nested tensors
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tianwen.backbone.masks import encoder_mask, valid_tokens
from tianwen.backbone.packing import Runs
from tianwen.errors import TianwenError

HEADS, SIZE = 6, 64


def run(*, quiet: bool = False, rounds: int = 9) -> dict[str, Any]:
    """Milliseconds by case and way."""
    del quiet  # nothing is shown before the numbers
    torch.manual_seed(0)
    cases = {
        "short": torch.randint(8, 33, (50,)).tolist(),  # 8 to 32 tokens each
        "mixed": torch.randint(8, 257, (8,)).tolist(),
        "equal": [32] * 32,
    }
    numbers: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors call themselves a prototype
        for name, lengths in cases.items():
            numbers |= _case(name, sorted(lengths), rounds)
    return numbers


def _case(name: str, lengths: list[int], rounds: int) -> dict[str, float]:
    qkv = torch.randn(sum(lengths), 3, HEADS, SIZE)
    ways = _ways(qkv, lengths)
    truth = ways["each"]()
    for way, attend in ways.items():
        if (attend() - truth).abs().max() > 1e-5:
            raise TianwenError(f"{way} gives another result, so its time would mean nothing.")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(rounds):
        for way, attend in ways.items():
            begin = clock()
            attend()
            seconds[way].append(clock() - begin)
    return {f"{name}_{way}_ms": round(statistics.median(s) * 1e3, 2) for way, s in seconds.items()}


def _ways(qkv: Tensor, lengths: list[int]) -> dict[str, Callable[[], Tensor]]:
    """Each way as a function that gives [tokens, heads, size]."""
    runs = Runs(tuple((len(list(same)), length) for length, same in groupby(lengths)))
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    diagonal = (sequence[:, None] == sequence)[None, None]
    valid = valid_tokens(torch.tensor(lengths), max(lengths))
    ends = torch.tensor([0, *lengths]).cumsum(0)
    whole = qkv.permute(1, 2, 0, 3)[:, None]  # [3, 1, heads, tokens, size]

    def each() -> Tensor:
        parts = [part.permute(1, 2, 0, 3)[:, None] for part in qkv.split(lengths)]
        return torch.cat([F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1) for q, k, v in parts])

    def padded() -> Tensor:
        rows = torch.zeros(*valid.shape, 3, HEADS, SIZE)
        rows[valid] = qkv
        q, k, v = rows.permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=encoder_mask(valid)).transpose(1, 2)[valid]

    def nested() -> Tensor:
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(qkv[:, i].contiguous(), ends).transpose(1, 2) for i in range(3)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).values()

    return {
        "runs": lambda: runs.attend(*whole)[0].transpose(0, 1),
        "each": each,
        "padded": padded,
        "block_diagonal": lambda: F.scaled_dot_product_attention(*whole, attn_mask=diagonal)[0].transpose(0, 1),
        "nested": nested,
    }


if __name__ == "__main__":
    for key, value in run().items():
        print(f"{key:28} {value}")
