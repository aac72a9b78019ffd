"""Tokens per second of RoFormerV2 on a CPU: full batches, and mixed lengths packed against padded; BERT beside it.

Post: 8998

All contenders have 6 layers of width 384 and random weights, in float32. Each round runs every contender once, one
after the other, so that whatever else the machine does meets them alike; a ratio is the median of the rounds' ratios.
BERT is that of transformers with its fastest attention and is left out where transformers is not installed. With one
thread the time is that thread's own, with more it is the clock on the wall.

    python benchmarks/backbone.py [--rounds 5] [--threads 2] [--json]

    notation      meaning
    8x128         a batch of 8 sequences of 128 tokens, no padding
    mixed         48 sequences of 4 to 256 tokens, most of them short; only real tokens are counted
    one batch     all padded to the longest;  arrival: batches of 16 as they come;  sorted: batches of 16 by length
    packed        no padding: `RoFormerV2.encode` with a budget of 1024 tokens
    of peak       share of the speed of one large matrix product (PyTorch's own, 1024 x 1536 x 384)
    product       how much faster the product of linear.py is than that one
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tianwen.backbone.linear import linear
from tianwen.backbone.masks import encoder_mask, valid_tokens
from tianwen.backbone.roformer_v2 import SMALL, RoFormerV2

Contender = Callable[[], object]
BATCHES = ((8, 128), (1, 512), (32, 64))
MULTIPLICATIONS = 12 * SMALL.width**2 * SMALL.layers  # of weights per token, without attention


def run(*, quiet: bool = False, rounds: int = 5, threads: int | None = None) -> dict[str, Any]:
    """Every number by name."""
    del quiet  # nothing is shown before the numbers
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours, bert = RoFormerV2(SMALL).eval(), bert_of_equal_size()
    numbers: dict[str, Any] = {}
    with torch.inference_mode():
        for batch, length in BATCHES:
            numbers |= _full_batches(ours, bert, batch, length, rounds)
        numbers |= _mixed(ours, bert, rounds) | _products(rounds)
    return numbers | {
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "torch": torch.__version__,
        "transformers": version_of_transformers(),
        "processor": platform.processor() or platform.machine(),
    }


def _full_batches(ours: RoFormerV2, bert: Any, batch: int, length: int, rounds: int) -> dict[str, Any]:
    ids = torch.randint(5, SMALL.vocabulary, (batch, length))
    x, weight = torch.randn(1024, 384), torch.randn(1536, 384)

    def product() -> None:
        for _ in range(8):
            F.linear(x, weight)

    contenders: dict[str, Contender] = {"ours": lambda: ours(ids), "product": product}
    if bert is not None:
        contenders["bert"] = lambda: bert(ids)
    seconds = interleaved(contenders, rounds)
    peak = [8 * 1024 * 1536 * 384 / s for s in seconds["product"]]
    speed = [MULTIPLICATIONS * ids.numel() / s for s in seconds["ours"]]
    name = f"{batch}x{length}"
    numbers = {
        f"{name}_tokens_per_second": round(ids.numel() / statistics.median(seconds["ours"])),
        f"{name}_of_peak": median_ratio(speed, peak),
    }
    if bert is not None:
        numbers[f"{name}_bert_tokens_per_second"] = round(ids.numel() / statistics.median(seconds["bert"]))
        numbers[f"{name}_ratio_bert"] = median_ratio(seconds["bert"], seconds["ours"])
    return numbers


def _mixed(ours: RoFormerV2, bert: Any, rounds: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(3.4, 0.9, 48).astype(int), 4, 256)
    lengths[7] = 256
    rows = [torch.from_numpy(random.integers(5, SMALL.vocabulary, length)) for length in lengths]
    by_length = sorted(rows, key=len)

    def padded(model: Callable[..., Any], rows: Sequence[Tensor], size: int, *, hugging: bool) -> list[Any]:
        results = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            ids = torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True)
            valid = valid_tokens(torch.tensor([len(row) for row in part]), ids.shape[1])
            options = {"attention_mask": valid.long()} if hugging else {"mask": encoder_mask(valid)}
            results.append(model(ids, **options)[0])
        return results

    contenders: dict[str, Contender] = {"packed": lambda: ours.encode(rows)}
    for name, order, size in (("one_batch", rows, 48), ("arrival", rows, 16), ("sorted", by_length, 16)):
        contenders[name] = lambda order=order, size=size: padded(ours, order, size, hugging=False)
        if bert is not None and name != "one_batch":
            contenders[f"bert_{name}"] = lambda order=order, size=size: padded(bert, order, size, hugging=True)
    packed, (whole,) = ours.encode(rows), padded(ours, rows, 48, hugging=False)
    difference = max(float((p - w[: len(p)]).abs().max()) for p, w in zip(packed, whole, strict=True))
    seconds = interleaved(contenders, rounds)
    tokens = int(lengths.sum())
    speeds = {f"mixed_{name}_tokens_per_second": round(tokens / statistics.median(s)) for name, s in seconds.items()}
    ratios = {
        f"mixed_ratio_{name}": median_ratio(s, seconds["packed"]) for name, s in seconds.items() if name != "packed"
    }
    return speeds | ratios | {"mixed_packed_minus_padded": float(f"{difference:.1e}")}


def _products(rounds: int) -> dict[str, Any]:
    x, weight = torch.randn(1024, 384), torch.randn(1536, 384)
    seconds = interleaved({"plain": lambda: F.linear(x, weight), "ours": lambda: linear(x, weight)}, 4 * rounds)
    return {"product_ratio": median_ratio(seconds["plain"], seconds["ours"])}


def interleaved(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one round that is not counted."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            begin = clock()
            contender()
            if number:
                seconds[name].append(clock() - begin)
    return seconds


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 2)


def bert_of_equal_size() -> Any:
    """BERT of transformers in the shape of SMALL, None without transformers."""
    try:
        from transformers import BertConfig, BertModel
    except ImportError:
        return None
    config = BertConfig(
        vocab_size=SMALL.vocabulary,
        hidden_size=SMALL.width,
        num_hidden_layers=SMALL.layers,
        num_attention_heads=SMALL.heads,
        intermediate_size=4 * SMALL.width,
        hidden_act="relu",  # cheaper than its usual GELU
        attn_implementation="sdpa",
    )
    return BertModel(config, add_pooling_layer=False).eval()


def version_of_transformers() -> str:
    """Of the package that is installed."""
    try:
        from transformers import __version__
    except ImportError:
        return "not installed"
    return __version__


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    numbers = run(rounds=options.rounds, threads=options.threads)
    if options.json:
        print(json.dumps(numbers, ensure_ascii=False))
    else:
        print("\n".join(f"{name:40} {value}" for name, value in numbers.items()))


if __name__ == "__main__":
    main()
