"""The index at scale: `tianwen build` on a table of made-up facts, then every step of reading it.

Post: 8802

    tianwen bench index --facts 20560000 --json
    tianwen bench index --facts 5000000 --memory 300MB --json              facts sorted on disk
    tianwen bench index --sizes 10000 100000 1000000 --plot growth.svg     how it grows

The table has the shape of KgCLUE's full base (`index_facts.py`) and is read by the command that everybody uses, in a
process of its own, so that its seconds and its peak of memory are the user's. A step is one call for 128 rows that have
read the same number of tokens of random keys; each time is a median, and the worst over all depths is given.

    key                 meaning
    build_seconds       the command: reading, tokenising, indexing, writing and flushing
    peak_rss_mb         the most memory it had, files it had mapped included
    peak_anonymous_mb   the most memory of its own, which --memory bounds; peak_mapped_mb: pages of mapped files (looked
                        at every 20 ms, on Linux; the two peaks need not come together)
    index_mb            the tree; values_mb: everything else of the segment
    open_ms             opening the finished knowledge base, in a process that has it open already
    step_compact_us     `allowed`: the children of every row as a ragged list; by_depth has each depth
    step_scores_us      dense scores [128, 12000] for transformers, through `CatalogueLogitsProcessor`
    torch_advance_us    reading one token a row with the tree as tensors (`TorchTrie`), on the CPU
    lookahead_us        weights of the children of 128 paths that have just completed their subjects
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from index_facts import write_table

from tianwen.ask.asker import BUNDLED
from tianwen.ask.huggingface import CatalogueLogitsProcessor
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.lookahead import Ragged, lookahead_weights, question_positions
from tianwen.ask.ragged import pointers
from tianwen.ask.torch_trie import TorchTrie
from tianwen.ask.trie import Constraint
from tianwen.errors import TianwenError
from tianwen.text import Tokenizer

ROWS, VOCABULARY = 128, 12_000
WATCHED = {"RssAnon": "peak_anonymous_mb", "RssFile": "peak_mapped_mb"}
BUILD = "import sys; sys.argv = ['tianwen', *sys.argv[1:]]; from tianwen.cli import main; main()"


def built(table: Path, folder: Path, memory: str | None = None) -> dict[str, float]:
    """Run `tianwen build`; its seconds and its peak memory."""
    command = [sys.executable, "-c", BUILD, "build", str(table), "--kb", str(folder), "--quiet"]
    start = time.perf_counter()
    process = subprocess.Popen(command + (["--memory", memory] if memory else []), stdout=subprocess.DEVNULL)
    peaks: dict[str, float] = {}
    watching = threading.Thread(target=watch, args=(process.pid, peaks), daemon=True)
    watching.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    watching.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise TianwenError(f"tianwen build ended with {process.returncode}; its message stands above.")
    return {
        "build_seconds": round(seconds, 2),
        "build_cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_rss_mb": round(usage.ru_maxrss / 1024),
        **peaks,
    }


def watch(process: int, peaks: dict[str, float]) -> None:
    """Note the most memory that a process has until it ends: its own, and pages of files that it has mapped."""
    with contextlib.suppress(OSError):  # it has ended, or the system does not tell
        while True:
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in WATCHED:
                    peaks[WATCHED[name]] = max(peaks.get(WATCHED[name], 0), round(int(rest.split()[0]) / 1024))
            time.sleep(0.02)


def sizes(folder: Path) -> dict[str, float]:
    """Megabytes of the index and of the values."""
    files = {path: path.stat().st_size for path in (folder / "segments").rglob("*") if path.is_file()}
    index = sum(size for path, size in files.items() if path.parent.name == "trie")
    return {"index_mb": round(index / 1e6, 1), "values_mb": round((sum(files.values()) - index) / 1e6, 1)}


def median_us(call: Callable[[], Any], *, seconds: float = 0.15) -> float:
    """Median time of a call in microseconds, after one call for the caches."""
    call()
    times, started = [], time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - started < seconds and len(times) < 2000):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return round(statistics.median(times) * 1e6, 2)


def random_keys(trie: Constraint, rng: np.random.Generator) -> Ragged:
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


def steps(trie: Constraint, keys: Ragged) -> dict[str, Any]:
    """Microseconds of a step at every depth that random keys reach: compact, and as dense scores."""
    length = np.diff(keys.row_ptr)
    compact, dense = [], []
    scores = torch.randn(ROWS, VOCABULARY)
    for depth in range(int(length.max())):
        rows = np.flatnonzero(length > depth)
        rows = rows[np.arange(ROWS) % len(rows)]
        ids = keys.tokens[keys.row_ptr[rows][:, None] + np.arange(depth)] if depth else np.empty((ROWS, 0), np.int32)
        state = trie.walk(ids, np.full(ROWS, depth))
        compact.append(median_us(lambda state=state: trie.allowed(state)))
        plug = CatalogueLogitsProcessor(trie, prompt_len=1, eos_token_id=VOCABULARY - 1, pad_token_id=0)
        prompt = torch.zeros(ROWS, 1, dtype=torch.int64)
        whole = torch.cat([prompt, torch.from_numpy(ids.astype(np.int64))], dim=1)
        dense.append(_step_us(plug, whole, scores))
    return {
        "step_compact_us": max(compact),
        "step_compact_below_root_us": max(compact[1:]),
        "step_compact_by_depth": compact,
        "step_scores_us": max(dense),
        "step_scores_by_depth": dense,
        "root_children": len(trie.allowed(trie.root(1))[1]),
    }


def torch_steps(trie: Any, keys: Ragged) -> dict[str, Any]:
    """Microseconds of `TorchTrie.advance` by the next token of each key, the worst depth."""
    held, spent = TorchTrie(trie), []
    ends = torch.from_numpy(keys.row_ptr[1:] - 1)
    tokens = torch.from_numpy(keys.tokens)
    state = held.root(ROWS)
    for depth in range(int(np.diff(keys.row_ptr).max())):
        token = tokens[torch.minimum(torch.from_numpy(keys.row_ptr[:-1]) + depth, ends)]
        spent.append(median_us(lambda state=state, token=token: held.advance(state, token), seconds=0.05))
        state = held.advance(state, token)
    return {"torch_advance_us": max(spent)}


def _step_us(plug: CatalogueLogitsProcessor, whole: torch.Tensor, scores: torch.Tensor, *, times: int = 25) -> float:
    """The last step of a generation, the steps before it having been made, as `generate` makes them."""
    found = []
    for _ in range(times):
        for length in range(max(1, whole.shape[1] - 1), whole.shape[1]):
            plug(whole[:, :length], scores)
        start = time.perf_counter()
        plug(whole, scores)
        found.append(time.perf_counter() - start)
    return round(statistics.median(found[3:]) * 1e6, 2)


def lookahead(trie: Constraint, keys: Ragged, rng: np.random.Generator) -> dict[str, Any]:
    """The lookahead of 128 paths that have just completed their subjects, questions of 30 tokens."""
    bounds = list(zip(keys.row_ptr[:-1].tolist(), keys.row_ptr[1:].tolist(), strict=True))
    end = [int(np.flatnonzero(keys.tokens[a:b] == trie.end_id)[0]) + 1 for a, b in bounds]
    heads = [keys.tokens[a : a + n] for (a, _), n in zip(bounds, end, strict=True)]
    ids = np.zeros((ROWS, max(end)), np.int64)
    for row, head in enumerate(heads):
        ids[row, : len(head)] = head
    row_ptr, token, after = trie.allowed(trie.walk(ids, np.array(end)))
    questions = question_positions([np.concatenate([rng.choice(keys.tokens, 25), ids[row, :5]]) for row in range(ROWS)])
    children, owner, prefix = Ragged(row_ptr, token), np.arange(ROWS), Ragged(pointers(end), np.concatenate(heads))

    def weights() -> None:
        below = trie.completions(after, limit=1000)
        lookahead_weights(questions, owner, prefix, children, below)

    return {"lookahead_us": median_us(weights), "lookahead_entries": len(trie.completions(after, limit=1000).terminal)}


def measure(facts: int, work: Path, *, table: Path | None, seed: int, memory: str | None = None) -> dict[str, Any]:
    """All numbers for one size; `table` instead of made-up facts if it is given, `memory` as for `tianwen build`."""
    tokenizer = Tokenizer.load(BUNDLED / "tokenizer.json")
    characters = "".join(piece for piece in tokenizer.pieces if len(piece) == 1 and "\u4e00" <= piece <= "\u9fff")
    if table is None:
        table = work / "facts.tsv"
        write_table(table, facts, characters, seed=seed)
    result: dict[str, Any] = {"table_mb": round(table.stat().st_size / 1e6, 1)}
    folder = work / "index.kb"
    result |= built(table, folder, memory) | sizes(folder)
    rng = np.random.default_rng(seed)
    with KnowledgeBase.open(folder) as kb:
        trie = kb.snapshot().trie
        result["facts"] = len(kb)
        result["open_ms"] = round(median_us(lambda: KnowledgeBase.open(folder).close()) / 1e3, 2)
        keys = random_keys(trie, rng)
        result |= steps(trie, keys) | torch_steps(trie, keys) | lookahead(trie, keys, rng)
    return result


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """How seconds, memory, bytes and steps grow with the facts, on doubly logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    facts = [result["facts"] for result in results]
    groups = (
        ("seconds to build", ["build_seconds"]),
        ("megabytes", ["peak_rss_mb", "index_mb", "values_mb"]),
        ("microseconds a step", ["step_compact_us", "step_compact_below_root_us", "step_scores_us", "lookahead_us"]),
    )
    for axes, (title, names) in zip(figure.subplots(1, 3), groups, strict=True):
        for name in names:
            axes.loglog(facts, [result[name] for result in results], marker="o", label=name)
        axes.set(title=title, xlabel="facts")
        axes.legend(fontsize=7)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--facts", type=int, default=1_000_000)
    parser.add_argument("--sizes", type=int, nargs="+", help="several sizes, one after the other")
    parser.add_argument("--table", type=Path, help="a TSV of your own instead of made-up facts")
    parser.add_argument("--memory", help="a bound for tianwen build, such as 600MB or 1GB")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--plot", type=Path, help="draw the growth over --sizes (needs matplotlib)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for facts in options.sizes or [options.facts]:
        with tempfile.TemporaryDirectory(dir=options.folder) as work:
            results.append(measure(facts, Path(work), table=options.table, seed=options.seed, memory=options.memory))
    if options.plot:
        draw(results, options.plot)
    shown = results if options.sizes else results[0]
    print(json.dumps(shown) if options.json else json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()
