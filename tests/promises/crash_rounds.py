"""kill -9 again and again: nothing acknowledged is lost, nothing is half done, nothing is left lying about.

    python -m tests.promises.crash_rounds --rounds 500      (make crash)

A round starts workers on one knowledge base - one that changes it, often a second process that merges it or reads it -
and kills them at a random moment, or lets one kill itself at a random step. Then the folder must open, hold what was
acknowledged and at most the one change in flight beyond, as a whole; and every answer that the tree gives must be a
fact that is there.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import math
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.snapshot import Snapshot
from tianwen.errors import KnowledgeBaseNotFound

from .crash_edits import TOKENIZER, Edit, Truth, after, fresh

ROOT = Path(__file__).parents[2]
MOST_BYTES = 2_000_000  # of a folder that holds a hundred facts; a segment of them takes a few kilobytes
MOST_STEPS = 1000
WAIT = 600.0  # seconds; a machine may be busy


class Workers:
    """The process that forks workers, and what they say."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.promises.crash_workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        )
        self._rest = b""
        assert self._listen(WAIT)[0][0] == "ready"

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _listen(self, seconds: float) -> list[list[Any]]:
        """What is said within some seconds, at the first word."""
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        if not select.select([descriptor], [], [], seconds)[0]:
            return []
        heard = self._rest + os.read(descriptor, 65_536)
        assert heard, "the workers' parent died by itself"
        *lines, self._rest = heard.split(b"\n")
        return [json.loads(line) for line in lines]

    def run_and_kill(self, orders: Sequence[dict[str, Any]], *, changes: int, seconds: float) -> list[list[Any]]:
        """Let workers do some changes and go on for a moment, kill one after the other; all they said."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(orders).encode() + b"\n")
        self.process.stdin.flush()
        said: list[list[Any]] = []
        deadline = None
        while deadline is None or time.monotonic() < deadline:
            heard = self._listen(0.0005 if deadline else WAIT)
            assert heard or deadline, "nobody did anything for ten minutes"
            said += heard
            heard_of = collections.Counter(kind for kind, *_ in said)
            if deadline is None and heard_of["worker"] == len(orders) and heard_of["done"] >= changes:
                deadline = time.monotonic() + seconds
            if any(kind == "gone" for kind, *_ in heard):  # the others live a moment longer
                deadline = min(deadline or math.inf, time.monotonic() + random.uniform(0, 0.05))
            if said[-1][0] == "dead":
                break
        gone = {what[0] for kind, *what in said if kind == "gone"}
        for _, worker in [message for message in said if message[0] == "worker"]:
            if worker not in gone:
                with contextlib.suppress(ProcessLookupError):  # it has just killed itself
                    os.kill(worker, signal.SIGKILL)
                time.sleep(random.uniform(0, 0.01))
        while said[-1][0] != "dead":
            said += self._listen(WAIT)
        for kind, *what in said:
            assert kind not in ("failed", "torn"), (kind, what)
        return [message for message in said if message[0] in ("begin", "done")]


@dataclass
class Rounds:
    """One knowledge base through many crashes."""

    workers: Workers
    place: Path
    rng: random.Random
    truth: Truth = frozenset()
    number: int = 0
    counts: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def folder(self) -> Path:
        return self.place / "k"

    def start(self) -> None:
        KnowledgeBase.build(fresh(0), self.folder, tokenizer=TOKENIZER).close()
        self.truth = frozenset(fresh(0))

    def changing(self) -> None:
        """A round among changes, with another process beside in two of three."""
        beside = self.rng.choice([[], ["merge"], ["read"], ["merge", "read"]])
        said = self._run(["change", *beside], self.folder, changes=self.rng.randrange(13), seconds=0.04)
        begun = [edit for kind, edit in said if kind == "begin"]
        acknowledged = sum(kind == "done" for kind, _ in said)
        assert len(begun) - acknowledged in (0, 1)
        states = [self.truth]
        for edit in begun:
            states.append(after(edit, states[-1]))
        self.truth = self.checked(self.folder, states[acknowledged:])
        self._note(begun, acknowledged, states)

    def building(self) -> None:
        """A round of builds where nothing was: there is one whole build, or none if none was acknowledged."""
        folder = self.place / f"new{self.number}"
        said = self._run(["build"], folder, changes=self.rng.choice([0, 0, 1]), seconds=0.15)
        begun = [edit for kind, edit in said if kind == "begin"]
        acknowledged = sum(kind == "done" for kind, _ in said)
        states: list[Truth] = [frozenset(), *(after(edit, frozenset()) for edit in begun)]
        try:
            self.checked(folder, states[acknowledged:])
        except KnowledgeBaseNotFound:
            assert acknowledged == 0
            KnowledgeBase.build(fresh(1), folder, tokenizer=TOKENIZER).close()
        left_over = [path.name for path in self.place.iterdir() if path.name.startswith(f".{folder.name}.")]
        assert len(left_over) <= 1, left_over
        self._note(begun, acknowledged, states)

    def _run(self, work: Sequence[str], folder: Path, *, changes: int, seconds: float) -> list[list[Any]]:
        order = {"folder": str(folder), "number": self.number, "step": 0}
        orders = [order | {"work": what, "seed": self.rng.random()} for what in work]
        if self.rng.random() < 0.6:
            victim = self.rng.choice([order for order in orders if order["work"] != "read"])
            victim["step"] = int(MOST_STEPS ** self.rng.uniform(0.2, 1))
            self.counts["killed at a step"] += 1
        else:
            self.counts["killed at a moment"] += 1
        said = self.workers.run_and_kill(orders, changes=changes, seconds=self.rng.uniform(0, seconds))
        self.number += 1 + sum(kind == "begin" for kind, _ in said)
        return said

    def _note(self, begun: list[Edit], acknowledged: int, states: list[Truth]) -> None:
        self.counts["rounds"] += 1
        self.counts["acknowledged changes"] += acknowledged
        if len(begun) > acknowledged:
            self.counts[f"killed in {begun[-1][0]}"] += 1
            if states[-1] != states[-2] and self.truth == states[-1]:
                self.counts["in flight and done"] += 1

    def checked(self, folder: Path, allowed: Sequence[Truth]) -> Truth:
        """Open, compare with the states allowed, and look at every answer and every file; what it holds."""
        with KnowledgeBase.open(folder) as kb:
            kb.verify()
            found = frozenset(kb.snapshot().iter_facts())
            assert found in allowed, (len(found), [(len(found - a), len(a - found)) for a in allowed])
            assert len(kb) == len(found)
            _every_answer_is_live(kb.snapshot(), found)
            kb.remove("nobody")  # a writer sweeps
            _no_garbage(kb)
            assert frozenset(kb.snapshot().iter_facts()) == found
            self.counts["most segments"] = max(self.counts["most segments"], kb.info()["segments"])
        return found


def _every_answer_is_live(snapshot: Snapshot, truth: Truth) -> None:
    """Walk the tree token by token: every path ends in an answer, and the answers are exactly the facts."""
    trie, answers, state = snapshot.trie, [], snapshot.trie.root(1)
    keys = 0
    while len(state):
        here = trie.is_terminal(state)
        for row in np.flatnonzero(here):
            facts = snapshot.facts(state[row])
            assert facts, "the tree leads to an answer that is no longer there"
            answers += facts
            keys += 1
        row_ptr, _, after_step = trie.allowed(state)
        assert (here | (np.diff(row_ptr) > 0)).all() or not truth, "the tree leads to a place without an answer"
        state = after_step
    assert len(answers) == len(truth)
    assert frozenset(answers) == truth
    assert keys == len(trie.completions(trie.root(1), limit=100_000).terminal)


def _no_garbage(kb: KnowledgeBase) -> None:
    """Only the files of what is there, and few bytes, whatever died before."""
    info = kb.info()
    allowed = {"catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm", "catalogue.seal", "segments"}
    allowed |= {"write.lock", "merge.lock", f"tokenizer-{info['tokenizer']}.json"}
    assert {path.name for path in kb.folder.iterdir()} <= allowed, list(kb.folder.iterdir())
    assert len(list((kb.folder / "segments").iterdir())) == info["segments"]
    assert info["bytes"] < MOST_BYTES


def run(rounds: int, place: Path, *, seed: int = 8802, tell: Any = lambda _: None) -> dict[str, int]:
    """Some rounds, every tenth of builds in a new place; the counts of what happened."""
    with Workers() as workers:
        series = Rounds(workers, place, random.Random(seed))
        random.seed(seed)
        series.start()
        for number in range(rounds):
            (series.building if number % 10 == 9 else series.changing)()
            tell(number + 1)
    return dict(sorted(series.counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=8802)
    options = parser.parse_args()
    start = time.monotonic()

    def tell(number: int) -> None:
        if sys.stderr.isatty() or number % 50 == 0:
            print(f"\r{number} of {options.rounds} rounds", end="", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as place:
        counts = run(options.rounds, Path(place), seed=options.seed, tell=tell)
    print(file=sys.stderr)
    print(json.dumps(counts | {"seconds": round(time.monotonic() - start)}, indent=1))


if __name__ == "__main__":
    main()
