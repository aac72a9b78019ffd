"""kill -9 at any moment loses nothing that was acknowledged, and the knowledge base opens.

A worker process builds, adds, removes and compacts, and writes a line to a pipe after each change that returned. It is
killed at a random moment; then the folder must hold what was acknowledged, and at most the one change in flight beyond.

A few rounds run with the tests; TIANWEN_CRASH_ROUNDS=200 pytest tests/promises/test_crash.py runs 200 of each kind.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.errors import KnowledgeBaseNotFound
from tianwen.text import Tokenizer
from tianwen.vocabulary import BYTE_PIECES, SPECIAL_PIECES

TOKENIZER = Tokenizer([*SPECIAL_PIECES, *BYTE_PIECES])
ROUNDS = int(os.environ.get("TIANWEN_CRASH_ROUNDS", "0"))

WORKERS = """
import json, os, sys
from pathlib import Path
import numpy as np
from tianwen.ask import knowledge_base
from tianwen.ask.facts import Fact
from tianwen.ask.fielded import FieldedTrie
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.text import Tokenizer
from tianwen.vocabulary import BYTE_PIECES, SPECIAL_PIECES

knowledge_base.MOST_ADDED = 12
TOKENIZER = Tokenizer([*SPECIAL_PIECES, *BYTE_PIECES])

def tell(*message):
    os.write(1, (json.dumps(message) + "\\n").encode())

def build(folder, number):
    while True:
        facts = [Fact(f"s{i}", "p", f"build {number}") for i in range(300)]
        tell("begin", "build", number)
        KnowledgeBase.build(facts, folder, tokenizer=TOKENIZER, overwrite=True).close()
        tell("done", "build", number)
        number += 1

def change(folder, number):
    kb = KnowledgeBase.open(folder)
    while True:
        number += 1
        if number % 7 == 3:
            tell("begin", "compact", number)
            kb.compact()
        elif number % 5 == 4:
            tell("begin", "remove", number)
            kb.remove(f"fact {number - 2}")
        else:
            tell("begin", "add", number)
            kb.add([Fact(f"fact {number}", "p", str(i)) for i in range(3)])
        tell("done", "", number)

# What is loaded here is not loaded by every worker: the kernels, without polars, which would start threads.
trie, _ = FieldedTrie.build(["a"], ["b"], [""], TOKENIZER)
trie.rows(trie.walk(np.zeros((1, 1), np.int64), np.ones(1, np.int64)))
tell("ready", "", 0)
for line in sys.stdin:
    work, folder, number = json.loads(line)
    worker = os.fork()  # nothing has started a thread yet: all work is done in the workers
    if worker == 0:
        {"build": build, "change": change}[work](Path(folder), number)
    tell("worker", "", worker)
    os.waitpid(worker, 0)
    tell("dead", "", worker)
"""


class Workers:
    """A process that has imported everything and forks one worker after the other, each of which is killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKERS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        )
        self._rest = b""
        assert self._listen(60)[0][0] == "ready"

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

    def run_and_kill(
        self, work: str, folder: Path, number: int, *, seconds: float, after_first: bool = True
    ) -> list[list[Any]]:
        """Let a worker go on for `seconds` (after its first acknowledgement), kill it; all that it said."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([work, str(folder), number]).encode() + b"\n")
        self.process.stdin.flush()
        said: list[list[Any]] = []
        while not any(kind == "worker" for kind, *_ in said):
            said += self._listen(60)
        deadline = None if after_first else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            said += self._listen(0.0005 if deadline else 60)
            assert all(kind != "dead" for kind, *_ in said), "the worker died by itself"
            if deadline is None and any(kind == "done" for kind, *_ in said):
                deadline = time.monotonic() + seconds
        os.kill(next(worker for kind, _, worker in said if kind == "worker"), signal.SIGKILL)
        while said[-1][0] != "dead":
            said += self._listen(60)
        return [message for message in said if message[0] in ("begin", "done")]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as workers:
        yield workers


def expected_after(changes: list[tuple[str, int]], truth: dict[str, set[str]]) -> dict[str, set[str]]:
    """The facts after some changes; subject -> objects."""
    truth = {subject: set(objects) for subject, objects in truth.items()}
    for what, number in changes:
        if what == "add":
            truth.setdefault(f"fact {number}", set()).update(str(i) for i in range(3))
        elif what == "remove":
            truth.pop(f"fact {number - 2}", None)
    return truth


def found_in(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    with KnowledgeBase.open(folder) as kb:
        kb.verify()
        for fact in kb.snapshot().iter_facts():
            found.setdefault(fact.subject, set()).add(fact.object)
        assert len(kb) == sum(map(len, found.values()))
        for subject in list(found)[-3:]:
            assert {fact.object for fact in kb.snapshot().find(subject)} == found[subject]
    return found


def test_killed_while_adding_removing_and_compacting(workers, tmp_path):
    rng = random.Random(8802)
    folder = tmp_path / "k"
    KnowledgeBase.build([Fact("base", "p", "o")], folder, tokenizer=TOKENIZER).close()
    truth, number = {"base": {"o"}}, 0
    for _ in range(ROUNDS or 3):
        said = workers.run_and_kill("change", folder, number, seconds=rng.uniform(0, 0.35))
        begun = [(what, number) for kind, what, number in said if kind == "begin"]
        done = sum(kind == "done" for kind, _, _ in said)
        assert len(begun) - done in (0, 1)
        found = found_in(folder)
        assert found in (expected_after(begun[:done], truth), expected_after(begun, truth))
        truth, number = found, begun[-1][1]


def test_killed_while_building(workers, tmp_path):
    """There is exactly one whole build, the last acknowledged or the one in flight; or none where none was finished.

    Every other round builds into a new folder and is often killed in its first build; the others build over it.
    """
    rng = random.Random(9152)
    latest: int | None = None
    for round_number in range(ROUNDS or 4):
        fresh = round_number % 2 == 0
        folder = tmp_path / f"k{round_number // 2}"
        latest = None if fresh else latest
        start, seconds = (0 if latest is None else latest + 1), rng.uniform(0, 0.6 if fresh else 0.3)
        said = workers.run_and_kill("build", folder, start, seconds=seconds, after_first=not fresh)
        acknowledged = [number for kind, _, number in said if kind == "done"]
        begun = [number for kind, _, number in said if kind == "begin"]
        latest = acknowledged[-1] if acknowledged else latest
        try:
            found = found_in(folder)
        except KnowledgeBaseNotFound:
            assert latest is None
            continue
        numbers = {int(text.split()[1]) for objects in found.values() for text in objects}
        assert len(found) == 300
        assert numbers in ({latest}, {begun[-1]} if begun else set())
        latest = numbers.pop()


def test_what_a_dead_builder_left_is_cleaned_by_the_next(tmp_path):
    (tmp_path / ".k.building-1-abc" / "segments").mkdir(parents=True)
    KnowledgeBase.build([Fact("a", "b", "c")], tmp_path / "k", tokenizer=TOKENIZER).close()
    assert os.listdir(tmp_path) == ["k"]
