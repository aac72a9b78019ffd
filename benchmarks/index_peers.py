"""The index beside its peers, in one run on the same made-up keys: building, opening, and every step of reading.

Post: 8802

    tianwen bench index_peers --sizes 10000 100000 1000000 --static FOLDER --json
    tianwen bench index_peers --facts 5000000 --peers tianwen,general,marisa
    tianwen bench index_peers --draw A.json B.json --plot growth.svg       results of this and of `bench index`

Peers are described in `index_tries.py` and `index_grammars.py`. Each is built in a process of its own and opened in
another; the steps of all are timed in turns, one process working while the others wait. The keys are sorted and
distinct, as arrays of tokens on disk (of texts for `tianwen`, which tokenises them). What a peer allows behind 128
random prefixes of every depth is compared with what the sorted keys say.

    key                 meaning
    build_seconds       from the keys to an index in memory; build_cpu_seconds: of all threads
    peak_rss_mb         the most memory of that process, PyTorch and the mapped keys included; built_mb: what it held
                        more at the end
    disk_mb             what was saved; open_ms: opening it; opened_mb: memory of the process alone after that
    step_compact_us     128 rows, in the peer's own form; the worst depth, and by_depth
    step_scores_us      128 rows as dense scores over a vocabulary of 12,000
    agrees              whether both forms allow exactly the right tokens; if not, where
    note                why numbers are missing
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from growth import plot
from index_keys import ROWS, Keys, children, random_paths, write_keys

PEERS = ("tianwen", "general", "dict", "marisa", "static", "xgrammar", "llguidance")
STEP_LIMIT = 60.0  # seconds that one timing or check may take
TURN = 0.02  # seconds that one timing goes on, once at least
Row = dict[str, Any]


class Overdue(Exception):
    """A peer took too long, too much memory, or ended."""


class Process:
    """A worker and its limits."""

    def __init__(self, name: str, keys: Path, folder: Path, *, memory_mb: float, threads: int) -> None:
        self.memory_mb = memory_mb
        worker = Path(__file__).with_name("index_worker.py")
        command = [sys.executable, str(worker), name, str(keys), str(folder), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, limit: float, **command: Any) -> Row:
        """The answer to one command; raises Overdue, and ends the process then."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Overdue("it ended by itself") from None
        start, answer = time.monotonic(), b""
        while not answer.endswith(b"\n"):
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                part = os.read(self.process.stdout.fileno(), 2**20)
                answer += part
                if not part:
                    raise Overdue(f"it ended with code {self.process.wait()} at: {command['do']}")
            elif time.monotonic() - start > limit:
                self.end()
                raise Overdue(f"{command['do']} took more than {limit:g} s")
            elif self._held_mb() > self.memory_mb:
                self.end()
                raise Overdue(f"{command['do']} took more than {self.memory_mb:g} MB of memory")
        row = json.loads(answer)
        if "absent" in row or "failed" in row:
            self.end()
            raise Overdue(row.get("absent") or row["failed"])
        return row

    def _held_mb(self) -> float:
        try:
            fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        except OSError:
            return 0.0
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def measure(facts: int, work: Path, options: argparse.Namespace) -> Row:
    """All peers on one size."""
    keys = _keys(facts, work, options)
    ids, length = random_paths(keys.keys, keys.length, np.random.default_rng(options.seed))
    steps = [rows_at(ids, length, depth) for depth in range(int(length.max()))]
    right = [right_tokens(keys.keys, prefixes) for prefixes in steps]
    rows: dict[str, Row] = {}
    opened: dict[str, Process] = {}
    for name in options.peers:
        rows[name] = {}
        try:
            opened[name] = _built(name, keys.folder, work / name, rows[name], options)
            rows[name]["agrees"] = _agreement(opened[name], steps, right)
        except Overdue as over:
            rows[name]["note"] = str(over)
            opened.pop(name, None)
        _tell(options, f"{facts} {name} {json.dumps(rows[name])}")
    _time(opened, rows, steps, options.rounds)
    for process in opened.values():
        process.end()
    return {"facts": facts, "keys": len(keys.keys), "tokens_a_key": round(float(keys.length.mean()), 2), "peers": rows}


def _keys(facts: int, work: Path, options: argparse.Namespace) -> Keys:
    """Made-up keys: new ones, or those that `--keys` has from an earlier run."""
    if options.keys is None:
        return write_keys(work, facts, seed=options.seed)
    folder = options.keys / f"{facts}-{options.seed}"
    if (folder / "length.npy").exists():  # the last file that is written
        return Keys.open(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return write_keys(folder, facts, seed=options.seed)


def rows_at(ids: np.ndarray, length: np.ndarray, depth: int) -> np.ndarray:
    """ROWS prefixes of `depth` tokens that are no whole keys; the same again where few keys are so long."""
    rows = np.flatnonzero(length > depth)
    return ids[rows[np.arange(ROWS) % len(rows)], :depth]


def _built(name: str, keys: Path, folder: Path, row: Row, options: argparse.Namespace) -> Process:
    """Build in one process, open in another; the second."""
    folder.mkdir()
    builder = Process(name, keys, folder, memory_mb=options.memory_mb, threads=options.threads)
    row |= builder.ask(STEP_LIMIT, do="versions")
    row |= builder.ask(options.limit, do="build")
    builder.end()
    opener = Process(name, keys, folder, memory_mb=options.memory_mb, threads=options.threads)
    opener.ask(STEP_LIMIT, do="versions")
    row |= opener.ask(options.limit, do="open")
    return opener


def _agreement(process: Process, steps: list[np.ndarray], right: list[list[set[int]]]) -> bool | str:
    """True, or what is wrong."""
    for depth, ids in enumerate(steps):
        answer = process.ask(STEP_LIMIT, do="check", ids=ids.tolist())
        for form, given in answer.items():
            difference = first_difference(right[depth], ids, given)
            if difference:
                return f"NO: {form} at depth {depth}, {difference}"
    return True


def right_tokens(keys: np.ndarray, ids: np.ndarray) -> list[set[int]]:
    """What the sorted keys allow behind each prefix."""
    known = {prefix: set(children(keys, np.array(prefix, np.uint16)).tolist()) for prefix in set(map(tuple, ids))}
    return [known[prefix] for prefix in map(tuple, ids)]


def first_difference(right: list[set[int]], ids: np.ndarray, given: list[list[int]]) -> str:
    """Where a peer allows other tokens than the right ones; "" where it does not."""
    for expected, prefix, tokens in zip(right, ids, given, strict=True):
        if set(tokens) != expected:
            missing, foreign = sorted(expected - set(tokens)), sorted(set(tokens) - expected)
            return (
                f"behind {prefix.tolist()}: {len(missing)} missing {missing[:3]}, {len(foreign)} foreign {foreign[:3]}"
            )
    return ""


def _time(opened: dict[str, Process], rows: dict[str, Row], steps: list[np.ndarray], rounds: int) -> None:
    """Every step of every peer, in turns."""
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(lambda: [[] for _ in steps])
    for _ in range(rounds):
        for depth, ids in enumerate(steps):
            for name in list(opened):
                try:
                    spent = opened[name].ask(STEP_LIMIT, do="time", ids=ids.tolist(), seconds=TURN)
                except Overdue as over:
                    rows[name]["note"] = str(over)
                    del opened[name]
                    continue
                for form, microseconds in spent.items():
                    found[name, form][depth].append(microseconds)
    for (name, form), by_depth in found.items():
        medians = [round(statistics.median(times), 1) for times in by_depth if times]
        rows[name] |= {f"step_{form}_us": max(medians), f"step_{form}_us_by_depth": medians}


def _tell(options: argparse.Namespace, text: str) -> None:
    if not options.json:
        print(text, file=sys.stderr)


def lines_of(results: list[Row]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Panels of lines out of results of this benchmark and of `bench index`, which has no peers."""
    wanted = {
        "seconds to build": "build_seconds",
        "most memory while building, MB": "peak_rss_mb",
        "index on disk, MB": "disk_mb",
        "a step as scores, us": "step_scores_us",
        "a compact step, us": "step_compact_us",
    }
    whole = {"disk_mb": "index_mb"}
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {title: {} for title in wanted}
    for result in sorted(results, key=lambda result: result["facts"]):
        rows = result.get("peers") or {"tianwen build": result}
        for name, row in rows.items():
            for title, key in wanted.items():
                value = row.get(key if "peers" in result else whole.get(key, key))
                if value:
                    panels[title].setdefault(name, []).append((result["facts"], value))
    return panels


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--facts", type=int, default=100_000)
    parser.add_argument("--sizes", type=int, nargs="+", help="several sizes, one after the other")
    parser.add_argument("--peers", default=",".join(PEERS), help="those to run (default: all)")
    parser.add_argument("--static", type=Path, help="folder of the public code of STATIC (or TIANWEN_BENCH_STATIC)")
    parser.add_argument("--limit", type=float, default=120, help="seconds that building or opening may take")
    parser.add_argument("--memory-mb", type=float, default=7000, help="megabytes that one process may take")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of every peer that can use several")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--keys", type=Path, help="a folder that keeps the keys for another run")
    parser.add_argument("--plot", type=Path, help="draw the growth as SVG")
    parser.add_argument("--draw", type=Path, nargs="+", help="measure nothing, draw these results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.peers = options.peers.split(",")
    unknown = set(options.peers) - set(PEERS)
    if unknown:
        parser.error(f"there is no peer {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    if options.static:
        os.environ["TIANWEN_BENCH_STATIC"] = str(options.static.resolve())
    return options


def _read(paths: list[Path]) -> list[Row]:
    found: list[Row] = []
    for path in paths:
        result = json.loads(path.read_text())
        found += result["sizes"] if "sizes" in result else result if isinstance(result, list) else [result]
    return found


def main() -> None:
    options = _options()
    results = _read(options.draw) if options.draw else []
    for facts in [] if options.draw else options.sizes or [options.facts]:
        with tempfile.TemporaryDirectory(dir=options.folder) as work:
            results.append(measure(facts, Path(work), options))
    if options.plot:
        options.plot.write_text(plot(lines_of(results), what="facts"))
    if not options.draw:
        shown = {"threads": options.threads, "torch": torch.__version__, "rows": ROWS, "sizes": results}
        print(json.dumps(shown) if options.json else json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()
