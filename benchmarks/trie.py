"""How fast and how small the prefix trees are, on made-up facts of KgCLUE's shape.

Post: 8802

    python benchmarks/trie.py --keys 1000000 --json

Made up: 0.15 subjects and 0.012 predicates a key, lengths and frequencies (Zipf) like those of the Chinese base, 40% of
the keys with a sense, the project's own tokenizer. A step is one call of `allowed` for 128 rows that have read the same
number of tokens of random keys; depth 0 is the root, whose thousands of children are laid out for every row.

    key                      meaning
    build_seconds            columns of strings to tree, tokenising included
    bytes_per_key            all arrays, memory and disk alike; megabytes_at_kgclue is this for 20.56 million keys
    allowed_us, advance_us   median microseconds of a step at each depth, worst and median depth below
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from tianwen.ask.fielded import FieldedTrie
from tianwen.ask.lookahead import Ragged, lookahead_weights, question_positions
from tianwen.ask.ragged import pointers, slots
from tianwen.ask.trie import CatalogueTrie
from tianwen.text import Tokenizer

KGCLUE_KEYS = 20_559_652
ROWS = 128


def names(rng: np.random.Generator, count: int, lengths: tuple[int, int]) -> pl.Series:
    """`count` different names of Han characters, frequent ones most often."""
    size = rng.integers(*lengths, int(count * 1.3) + 20)
    rank = np.minimum(rng.zipf(1.2, int(size.sum())), 5000)
    characters = "".join(map(chr, 0x4E00 + rank * 4))
    ptr = pointers(size).tolist()
    return pl.Series([characters[a:b] for a, b in pairwise(ptr)]).unique(maintain_order=True)[:count]


def facts(rng: np.random.Generator, keys: int) -> pl.DataFrame:
    """`keys` different facts, ordered as a dump orders them: by subject, its facts together."""
    subjects = names(rng, max(int(keys * 0.15), 1), (2, 10))
    predicates = names(rng, max(int(keys * 0.012), 20), (2, 6))
    senses = pl.concat([pl.Series([""]), names(rng, max(int(keys * 0.05), 1), (3, 14))])
    count = int(keys * 1.3)
    subject = np.sort(rng.integers(0, len(subjects), count))
    predicate = (len(predicates) ** rng.random(count)).astype(np.int64)  # density 1 / rank
    sense = np.where(rng.random(len(subjects)) < 0.4, rng.integers(1, len(senses), len(subjects)), 0)[subject]
    number = np.unique(subject << 32 | predicate, return_index=True)[1]
    number = number[np.sort(rng.permutation(len(number))[:keys])]
    subject, predicate, sense = subject[number], predicate[number], sense[number]
    return pl.DataFrame({"subject": subjects[subject], "predicate": predicates[predicate - 1], "sense": senses[sense]})


def median_us(call: Callable[[], Any], *, seconds: float = 0.15) -> float:
    """Median time of a call in microseconds, after one call for the caches."""
    call()
    times, started = [], time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - started < seconds and len(times) < 2000):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return round(float(np.median(times)) * 1e6, 2)


def steps(trie: FieldedTrie | CatalogueTrie, rng: np.random.Generator) -> dict[str, Any]:
    """Microseconds of `allowed` and `advance` for 128 rows at every depth that random keys reach."""
    keys = random_keys(trie, rng)
    length = np.diff(keys.row_ptr)
    allowed, advance = [], []
    for depth in range(int(length.max())):
        rows = np.flatnonzero(length > depth)
        rows = rows[np.arange(ROWS) % len(rows)]
        at = keys.row_ptr[rows]
        ids = (
            keys.tokens[at[:, None] + np.minimum(np.arange(depth), length[rows, None])]
            if depth
            else np.empty((ROWS, 0))
        )
        state = trie.walk(ids, np.full(ROWS, depth))
        allowed.append(median_us(lambda state=state: trie.allowed(state)))
        advance.append(median_us(lambda state=state, token=keys.tokens[at + depth]: trie.advance(state, token)))
    below = {"worst_below_root": max(allowed[1:]), "median": float(np.median(allowed))}
    root_children = len(trie.allowed(trie.root(1))[1])
    return {"allowed_us": allowed, **below, "advance_us": advance, "root_children": root_children}


def random_keys(trie: FieldedTrie | CatalogueTrie, rng: np.random.Generator) -> Ragged:
    """Keys reached by walking down at random, so that wide and narrow places are both met; END included."""
    chains: list[list[int]] = [[] for _ in range(ROWS)]
    state = trie.root(ROWS)
    while not trie.is_terminal(state).all():
        row_ptr, token, after = trie.allowed(state)
        has = np.flatnonzero(np.diff(row_ptr))
        choice = row_ptr[has] + rng.integers(0, np.diff(row_ptr)[has])
        for row, chosen in zip(has, token[choice], strict=True):
            chains[row].append(int(chosen))
        state = state.copy()
        state[has] = after[choice]
    return Ragged(pointers(np.array([len(chain) for chain in chains])), np.concatenate(chains).astype(np.int32))


def lookahead_us(trie: FieldedTrie, rng: np.random.Generator) -> dict[str, Any]:
    """The lookahead of 128 paths that have just completed their subjects, questions of 30 tokens."""
    keys = random_keys(trie, rng)
    end = [
        np.flatnonzero(keys.tokens[a:b] == trie.end_id)[0] + 1
        for a, b in zip(keys.row_ptr, keys.row_ptr[1:], strict=False)
    ]
    prefix = Ragged(
        pointers(np.array(end)),
        np.concatenate([keys.tokens[a : a + n] for a, n in zip(keys.row_ptr, end, strict=False)]),
    )
    ids = np.full((ROWS, max(end)), 0, np.int64)
    for row, length in enumerate(end):
        ids[row, :length] = prefix.tokens[prefix.row_ptr[row] : prefix.row_ptr[row + 1]]
    state = trie.walk(ids, np.array(end))
    row_ptr, token, after = trie.allowed(state)
    questions = question_positions([np.concatenate([rng.choice(keys.tokens, 25), ids[row, :5]]) for row in range(ROWS)])
    children, owner = Ragged(row_ptr, token), np.arange(ROWS)
    below = trie.completions(after, limit=1000)
    return {
        "entries_read": len(below.terminal),
        "completions_us": median_us(lambda: trie.completions(after, limit=1000)),
        "weights_us": median_us(lambda: lookahead_weights(questions, owner, prefix, children, below)),
    }


def measure(trie: FieldedTrie | CatalogueTrie, build_seconds: float, rng: np.random.Generator) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        trie.save(folder)
        started = time.perf_counter()
        type(trie).open(folder)
        open_ms = (time.perf_counter() - started) * 1e3
    per_key = trie.nbytes / len(trie)
    return {
        "keys": len(trie),
        "build_seconds": round(build_seconds, 2),
        "bytes_per_key": round(per_key, 2),
        "megabytes_at_kgclue": round(per_key * KGCLUE_KEYS / 1e6),
        "open_ms": round(open_ms, 2),
        **steps(trie, rng),
    }


def catalogue_of(trie: FieldedTrie, end_id: int) -> tuple[CatalogueTrie, float]:
    """The same keys in a general tree, closed by another END, and the seconds that its build took."""
    found = trie.completions(trie.root(1), limit=len(trie))
    started = time.perf_counter()
    general, _ = CatalogueTrie.build(*without_last(found.token_ptr, found.tokens), end_id=end_id)
    return general, time.perf_counter() - started


def without_last(row_ptr: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every sequence without its last token."""
    _, flat = slots(row_ptr, np.arange(len(row_ptr) - 1))
    keep = np.ones(len(flat), np.bool_)
    keep[row_ptr[1:] - 1] = False
    return row_ptr - np.arange(len(row_ptr)), tokens[keep]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fielded-only", action="store_true", help="leave the general tree out (for tens of millions)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    FieldedTrie.build(["a", "b"], ["p", "p"], ["", "m"], Tokenizer.train(["ab"]))  # compiles the kernels
    table = facts(rng, options.keys)
    tokenizer = Tokenizer.train(table["subject"][:20000].to_list(), min_count=1)
    started = time.perf_counter()
    trie, _ = FieldedTrie.build(table["subject"], table["predicate"], table["sense"], tokenizer)
    result: dict[str, Any] = {"fielded": measure(trie, time.perf_counter() - started, rng)}
    result["fielded"]["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    result["lookahead"] = lookahead_us(trie, rng)
    if not options.fielded_only:
        result["catalogue"] = measure(*catalogue_of(trie, tokenizer.cls_id), rng)
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
