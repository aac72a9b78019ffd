"""The process in which one peer of the index is built, opened, checked and timed.

Post: 8802

It reads commands from its input, one JSON object a line, and answers each with one.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from index_grammars import LLGuidance, XGrammar
from index_keys import ROWS, Keys
from index_peer import Peer
from index_tries import Dict, Fielded, General, Marisa, Static

PEERS: dict[str, Callable[[], Peer]] = {
    "tianwen": Fielded,
    "general": General,
    "dict": Dict,
    "marisa": Marisa,
    "static": Static,
    "xgrammar": XGrammar,
    "llguidance": LLGuidance,
}


def memory_mb(name: str) -> float:
    """A number of /proc/self/status, such as VmHWM (the most that was held) or RssAnon (held now, without files)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


class Worker:
    """One peer in a process of its own."""

    def __init__(self, name: str, keys: Path, folder: Path) -> None:
        self.peer, self.keys, self.folder = PEERS[name](), Keys.open(keys), folder

    def versions(self) -> dict[str, Any]:
        return {"version": self.peer.version()}

    def build(self) -> dict[str, Any]:
        """Build and save; seconds, the most memory, bytes on disk."""
        before = memory_mb("RssAnon")
        wall, cpu = time.perf_counter(), time.process_time()
        self.peer.build(self.keys)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak, held = memory_mb("VmHWM"), memory_mb("RssAnon") - before
        self.peer.save(self.folder)
        disk = sum(path.stat().st_size for path in self.folder.iterdir())
        return {
            "build_seconds": round(wall, 2),
            "build_cpu_seconds": round(cpu, 2),
            "peak_rss_mb": round(peak),
            "built_mb": round(held, 1),
            "disk_mb": round(disk / 1e6, 2),
        }

    def open(self) -> dict[str, Any]:
        """Open what was saved; milliseconds, and the memory that is this process's alone."""
        gc.collect()
        before, start = memory_mb("RssAnon"), time.perf_counter()
        self.peer.open(self.folder)
        spent = time.perf_counter() - start
        return {"open_ms": round(spent * 1e3, 2), "opened_mb": round(memory_mb("RssAnon") - before, 1)}

    def check(self, ids: list[list[int]]) -> dict[str, Any]:
        """What may follow each prefix, from both forms."""
        self.peer.stand(np.array(ids, np.int64).reshape(ROWS, -1))
        scores = self.peer.offered(self.peer.scores())
        return {"compact": self.peer.lists(self.peer.compact()), "scores": scores}

    def time(self, ids: list[list[int]], seconds: float) -> dict[str, Any]:
        """Medians of a step in microseconds."""
        self.peer.stand(np.array(ids, np.int64).reshape(ROWS, -1))
        compact = _median(self.peer.compact, seconds)
        return {"compact": compact, "scores": _median(self.peer.scores, seconds, before=self.peer.go_back)}


def _median(call: Callable[[], Any], seconds: float, *, before: Callable[[], Any] = int) -> float:
    spent, start = [], time.perf_counter()
    while len(spent) < 2 or time.perf_counter() - start < seconds:
        before()
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent[1:]) * 1e6  # the first call fills buffers and caches


def main() -> None:
    name, keys, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(int(sys.argv[4]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints
    worker: Worker | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            worker = worker or Worker(name, keys, folder)
            answer = getattr(worker, command.pop("do"))(**command)
        except (ImportError, KeyError) as error:
            answer = {"absent": f"{type(error).__name__}: {error}"} if worker is None else {"failed": repr(error)}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
