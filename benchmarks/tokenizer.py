"""The tokenizer's fast path against its slow path (the `tokenizers` library), on Han text and on mixed names.

    python benchmarks/tokenizer.py [--rounds 7] [--json]

The texts are made up with a fixed seed: Han characters with the frequencies of Zipf; mixed names are Han with digits,
Latin words, full-width brackets, rare characters and, one in 300, a combining mark that sends the name the slow way.
In each round every contender runs once, one after the other, on one thread; seconds are those of the processor, and a
ratio is the median of the rounds' ratios. The two paths must give equal ids, or the run stops.

    key                  meaning
    han_ratio            Han passages of 128 characters, `ids_batch` against the slow path text by text
    han_one_ratio        Han questions of 12 characters, `ids` one at a time
    han_places_ratio     Han passages, `encode` with offsets, one at a time
    mixed_ratio          mixed names, `ids_batch`
    library_ratio        mixed names, `ids_batch` against the library's own batch call (no byte pieces, no offsets)
    names_per_second     mixed names through `ids_batch`, tables already filled
    first_names_per_second  the same, tables empty
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread for each contender; read when the library starts

import numpy as np
import tokenizers

from tianwen.text import Tokenizer

HAN = [chr(c) for c in range(0x4E00, 0x4E00 + 6000)]
CUMULATED = list(accumulate(1 / (rank + 10) for rank in range(len(HAN))))
LATIN = ["iPhone", "Apollo", "NASA", "Falcon", "Heavy", "BMW", "DNA", "Java", "Windows", "New", "York", "III", "pro"]


@dataclass(frozen=True, slots=True)
class Pair:
    """The fast way through `texts`, and the slow way through the first `slow_texts` of them."""

    fast: Callable[[list[str]], object]
    slow: Callable[[list[str]], object]
    texts: list[str]
    slow_texts: int

    def seconds(self) -> tuple[float, float]:
        """Seconds a text, fast and slow."""
        few = self.texts[: self.slow_texts]
        return _seconds(self.fast, self.texts) / len(self.texts), _seconds(self.slow, few) / len(few)


def run(*, rounds: int = 7, names: int = 200_000) -> dict[str, Any]:
    """Every number by name."""
    rng = random.Random(8802)
    passages = _han(rng, count=max(200, names // 100), length=128)
    questions = _han(rng, count=max(400, names // 50), length=12)
    mixed = [_mixed_name(rng) for _ in range(names)]
    tokenizer = Tokenizer.train(mixed[:50_000] + passages, size=8000)
    first = _seconds(Tokenizer(tokenizer.pieces).ids_batch, mixed) / names
    _check_equal(tokenizer, passages[:200] + questions[:500] + mixed[:5_000])
    pairs = _pairs(tokenizer, passages, questions, mixed)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    for _ in range(rounds):
        for name, pair in pairs.items():
            times[name].append(pair.seconds())
    ratios = {name: round(statistics.median(slow / fast for fast, slow in of), 1) for name, of in times.items()}
    return ratios | {
        "names_per_second": round(1 / statistics.median(fast for fast, _ in times["mixed_ratio"])),
        "first_names_per_second": round(1 / first),
        "rounds": rounds,
        "names": names,
        "tokenizers": tokenizers.__version__,
        "numpy": np.__version__,
    }


def _pairs(tokenizer: Tokenizer, passages: list[str], questions: list[str], mixed: list[str]) -> dict[str, Pair]:
    library = tokenizer._cutter._pipeline

    def slow(texts: list[str]) -> object:
        return [tokenizer.slow_encode(text) for text in texts]

    def one_by_one(texts: list[str]) -> object:
        return [tokenizer.ids(text) for text in texts]

    def with_places(texts: list[str]) -> object:
        return [tokenizer.encode(text) for text in texts]

    def library_batch(texts: list[str]) -> object:
        return library.encode_batch_fast(texts, add_special_tokens=False)

    return {
        "han_ratio": Pair(tokenizer.ids_batch, slow, passages, 200),
        "han_one_ratio": Pair(one_by_one, slow, questions, 2_000),
        "han_places_ratio": Pair(with_places, slow, passages, 200),
        "mixed_ratio": Pair(tokenizer.ids_batch, slow, mixed, 5_000),
        "library_ratio": Pair(tokenizer.ids_batch, library_batch, mixed, 5_000),
    }


def _han(rng: random.Random, *, count: int, length: int) -> list[str]:
    return ["".join(rng.choices(HAN, cum_weights=CUMULATED, k=length)) for _ in range(count)]


def _mixed_name(rng: random.Random) -> str:
    name = "".join(rng.choices(HAN, cum_weights=CUMULATED, k=rng.randint(2, 9)))
    chance = rng.random()
    if chance < 0.15:
        name += rng.choice(LATIN) + (" " + rng.choice(LATIN) if rng.random() < 0.3 else "")
    elif chance < 0.30:
        name += str(rng.randint(1, 2030)) + rng.choice(["年", "号", "", "届"])
    elif chance < 0.50:
        name += "（" + "".join(rng.choices(HAN, cum_weights=CUMULATED, k=rng.randint(2, 5))) + "）"
    elif chance < 0.52:
        name += rng.choice("龘𠮷㍿ＡＢ·：！")
    elif chance < 0.5233:
        name += "e\u0301"
    return name


def _seconds(work: Callable[[list[str]], object], texts: list[str]) -> float:
    start = time.process_time()
    work(texts)
    return time.process_time() - start


def _check_equal(tokenizer: Tokenizer, texts: list[str]) -> None:
    _, tokens = tokenizer.ids_batch(texts)
    slow = np.concatenate([tokenizer.slow_encode(text).ids for text in texts])
    if not np.array_equal(tokens, slow):
        raise SystemExit("The fast path and the slow path disagree; their speed means nothing.")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--names", type=int, default=200_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    numbers = run(rounds=options.rounds, names=options.names)
    if options.json:
        print(json.dumps(numbers, ensure_ascii=False))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in numbers.items()))


if __name__ == "__main__":
    main()
