"""Edits of a large knowledge base: how many a second, what they do to a step, and reading while another process writes.

Post: 8802 (which rebuilds its tree for every change).

    tianwen bench index_edits --facts 1000000 --json

Every edit is on disk when it returns, so its floor is one synchronous commit (`commit_ms`). Half of the added facts are
new ones of subjects that are there, half have new subjects. A step is one call for 128 rows, as in `index.py`; the same
128 keys are read in every state of the base, each in a copy of its own.

    key                      meaning
    adds_per_second          one fact a call; adds_after_10000_per_second: with 10,000 facts added before
    batched_adds_per_second  facts a second in calls of 1,000; removes_per_second: one fact a call
    removed_by_subject       facts a second, and calls a second, removing all facts of a subject at a time up to 1%
    steps                    the worst depth in microseconds, compact and as dense scores: before, with 100 and 10,000
                             added facts, with 1% removed, with both, and after compact_seconds of merging
    readers                  reads a second of two processes, alone and beside a writer, whose writes are counted too; a
                             read is a snapshot, two look-ups and a step of 128 rows. A write adds two facts or removes
                             two. torn: snapshots with one of the two; late: snapshots without an acknowledged write
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from index import ROWS, built, random_keys, steps
from index_facts import tables, write_table

from tianwen.ask.asker import BUNDLED
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.lookahead import Ragged
from tianwen.ask.snapshot import Snapshot
from tianwen.errors import KnowledgeBaseLocked
from tianwen.text import Tokenizer

PAIR = ("甲", "乙")
"""Predicates of the two facts that are written and removed together."""
READ, KEPT = "共读", 20
PARTS = ("throughput", "steps", "readers")


def per_second(calls: int, work: Callable[[int], Any]) -> float:
    """Calls a second of `work(0)`, `work(1)` ..."""
    start = time.perf_counter()
    for i in range(calls):
        work(i)
    return round(calls / (time.perf_counter() - start), 1)


def commit_ms(folder: Path) -> float:
    """A bare commit of one row, synchronous as the catalogue's are."""
    times = []
    with closing(sqlite3.connect(folder / "floor.sqlite", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE rows(number)")
        for number in range(100):
            start = time.perf_counter()
            connection.execute("INSERT INTO rows VALUES (?)", (number,))
            times.append(time.perf_counter() - start)
    return round(statistics.median(times) * 1e3, 2)


def new_facts(snapshot: Snapshot, count: int, characters: str, *, seed: int) -> list[Fact]:
    """Facts that are not there: every other one of a subject that is."""
    rng = np.random.default_rng(seed)
    known = some_facts(snapshot, count // 2, rng)
    made: list[Fact] = []
    for frame in tables(count, characters, seed=seed + 1):
        made += [Fact.of(*row) for row in frame.iter_rows()]
    old = [Fact(k.subject, m.predicate, m.object, k.sense) for k, m in zip(known, made, strict=False)]
    mixed = [fact for pair in zip(old, made[len(old) :], strict=False) for fact in pair]
    return list(dict.fromkeys(mixed))


def some_facts(snapshot: Snapshot, count: int, rng: np.random.Generator) -> list[Fact]:
    """Random facts of the base."""
    segment = snapshot.parts[0].segment
    return segment.facts(np.sort(rng.choice(len(segment), min(count, len(segment)), replace=False)))


def throughput(folder: Path, added: list[Fact], singles: int) -> dict[str, float]:
    """Edits a second, each kind; the base keeps 10,000 facts more."""
    result: dict[str, float] = {"commit_ms": commit_ms(folder.parent)}
    with _opened(folder) as kb:
        known = some_facts(kb.snapshot(), singles, np.random.default_rng(3))
        ones, added = added[: 2 * singles], added[2 * singles :]
        result["adds_per_second"] = per_second(singles, lambda i: kb.add([ones[i]]))
        batches = [added[start : start + 1000] for start in range(0, 10_000, 1000)]
        result["batched_adds_per_second"] = per_second(len(batches), lambda i: kb.add(batches[i])) * 1000
        result["adds_after_10000_per_second"] = per_second(singles, lambda i: kb.add([ones[singles + i]]))

        def remove(i: int) -> None:
            kb.remove(known[i].subject, known[i].predicate, known[i].object, known[i].sense)

        result["removes_per_second"] = per_second(len(known), remove)
    return result


def thin(folder: Path, share: float) -> dict[str, float]:
    """Remove all facts of one subject after the other until that share of the base is gone."""
    with _opened(folder) as kb:
        whole = len(kb)
        some = some_facts(kb.snapshot(), int(whole * share), np.random.default_rng(4))
        subjects = dict.fromkeys(fact.subject for fact in some)
        gone, calls, start = 0, 0, time.perf_counter()
        for subject in subjects:
            gone, calls = gone + kb.remove(subject), calls + 1
            if gone >= whole * share:
                break
        seconds = time.perf_counter() - start
    return {"facts_per_second": round(gone / seconds, 1), "calls_per_second": round(calls / seconds, 1)}


def step_times(folder: Path, keys: Ragged) -> dict[str, Any]:
    """The worst depth and every depth, of the base as it is now."""
    with KnowledgeBase.open(folder) as kb:
        found = steps(kb.snapshot().trie, keys)
    names = ("step_compact_us", "step_compact_by_depth", "step_scores_us", "step_scores_by_depth")
    return {name: found[name] for name in names}


def all_steps(base: Path, work: Path, added: list[Fact]) -> dict[str, Any]:
    """Step times in every state, and how fast 1% was removed."""
    thinned = _copy(base, work / "thinned.kb")
    removed = thin(thinned, 0.01)
    with KnowledgeBase.open(thinned) as kb:
        keys = random_keys(kb.snapshot().trie, np.random.default_rng(0))
    result: dict[str, Any] = {"before": step_times(base, keys)}
    for count in (100, 10_000):
        grown = _copy(base, work / f"grown{count}.kb")
        _add(grown, added[:count])
        result[f"added_{count}"] = step_times(grown, keys)
        shutil.rmtree(grown)
    result["removed_1_percent"] = step_times(thinned, keys)
    _add(thinned, added[:10_000])
    result["both"] = step_times(thinned, keys)
    start = time.perf_counter()
    with KnowledgeBase.open(thinned) as kb:
        kb.compact()
    seconds = round(time.perf_counter() - start, 2)
    result["compacted"] = step_times(thinned, keys)
    return {"removed_by_subject": removed, "steps": result, "compact_seconds": seconds}


def _add(folder: Path, facts: list[Fact]) -> None:
    with _opened(folder) as kb:
        for start in range(0, len(facts), 1000):
            kb.add(facts[start : start + 1000])


def _opened(folder: Path) -> KnowledgeBase:
    """Without merging in the background, which would change what is measured."""
    kb = KnowledgeBase.open(folder)
    kb.merges_by_itself = False
    return kb


def _copy(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    return folder


# Two processes read, a third writes


def read_on(folder: Path, seconds: float) -> dict[str, int]:
    """What one reader did and saw: reads, different snapshots, and those that were not whole or not up to date."""
    acknowledged = np.memmap(folder.parent / "acknowledged", np.int64, "r", shape=(1,))
    seen: dict[str, int] = dict.fromkeys(("reads", "snapshots", "torn", "late", "backwards"), 0)
    with KnowledgeBase.open(folder) as kb:
        keys = random_keys(kb.snapshot().trie, np.random.default_rng(0))
        depth = 3
        ids = keys.tokens[keys.row_ptr[:-1, None] + np.arange(depth)]
        last, commit, start = 0, -1, time.perf_counter()
        while time.perf_counter() - start < seconds:
            at_least = int(acknowledged[0])
            snapshot = kb.snapshot()
            first, second = ({fact.object for fact in snapshot.find(READ, name)} for name in PAIR)
            newest = max(map(int, first), default=0)
            snapshot.trie.allowed(snapshot.trie.walk(ids, np.full(ROWS, depth)))
            seen["reads"] += 1
            seen["snapshots"] += snapshot.commit != commit
            seen["torn"] += first != second
            seen["late"] += newest < at_least
            seen["backwards"] += newest < last
            last, commit = newest, snapshot.commit
    return seen


def write_on(folder: Path, seconds: float) -> dict[str, int]:
    """Add two facts at a time, and remove the two of some writes before."""
    acknowledged = np.memmap(folder.parent / "acknowledged", np.int64, "r+", shape=(1,))
    done = {"writes": 0, "locked": 0}
    with KnowledgeBase.open(folder) as kb:
        number, start = int(acknowledged[0]), time.perf_counter()
        while time.perf_counter() - start < seconds:
            try:
                kb.add([Fact(READ, name, str(number + 1)) for name in PAIR])
                number += 1
                acknowledged[0] = number
                kb.remove(READ, object=str(number - KEPT))
                done["writes"] += 2
            except KnowledgeBaseLocked:
                done["locked"] += 1
    return done


def together(folder: Path, seconds: float) -> dict[str, Any]:
    """Readers alone, a writer alone, all three."""
    (folder.parent / "acknowledged").write_bytes(np.int64(KEPT).tobytes())
    with KnowledgeBase.open(folder) as kb:  # the readers have something to find from the beginning
        kb.add([Fact(READ, name, str(number + 1)) for number in range(KEPT) for name in PAIR])
    result: dict[str, Any] = {"seconds": seconds}
    for name, readers, writers in (("alone", 2, 0), ("writer_alone", 0, 1), ("together", 2, 1)):
        roles = ["reader"] * readers + ["writer"] * writers
        command = [sys.executable, __file__, "--base", str(folder), "--seconds", str(seconds)]
        running = [subprocess.Popen([*command, "--role", role], stdout=subprocess.PIPE) for role in roles]
        found = [json.loads(process.communicate()[0]) for process in running]
        total: dict[str, float] = {key: sum(part.get(key, 0) for part in found) for part in found for key in part}
        for key in ("reads", "writes"):
            if key in total:
                total[f"{key}_per_second"] = round(total.pop(key) / seconds, 1)
        result[name] = total
    return result


def measure(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The parts that were asked for."""
    tokenizer = Tokenizer.load(BUNDLED / "tokenizer.json")
    characters = "".join(piece for piece in tokenizer.pieces if len(piece) == 1 and "\u4e00" <= piece <= "\u9fff")
    base: Path | None = options.base
    result: dict[str, Any] = {}
    if base is None:
        write_table(work / "facts.tsv", options.facts, characters, seed=options.seed)
        base = work / "base.kb"
        result |= built(work / "facts.tsv", base)
    with KnowledgeBase.open(base) as kb:
        result["facts"] = len(kb)
        added = new_facts(kb.snapshot(), 10_000 + 4 * options.singles + 2000, characters, seed=options.seed + 7)
    if "throughput" in options.parts:
        copy = _copy(base, work / "edited.kb")
        result |= throughput(copy, added, options.singles)
        shutil.rmtree(copy)
    if "steps" in options.parts:
        result |= all_steps(base, work, added)
    if "readers" in options.parts:
        result["readers"] = together(_copy(base, work / "read.kb"), options.seconds)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--facts", type=int, default=1_000_000)
    parser.add_argument("--singles", type=int, default=200, help="edits of one fact that are timed")
    parser.add_argument("--seconds", type=float, default=10, help="of each part of reading while another writes")
    parser.add_argument("--base", type=Path, help="a knowledge base to be copied instead of made-up facts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--role", choices=("reader", "writer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        print(json.dumps((read_on if options.role == "reader" else write_on)(options.base, options.seconds)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        result = measure(Path(work), options)
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
