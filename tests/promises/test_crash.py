"""kill -9 at any moment loses nothing that was acknowledged, and the knowledge base opens.

A child process builds, adds, removes and compacts, and writes a line to a pipe after each change that returned. It is
killed at a random moment; then the folder must hold what was acknowledged, and at most the one change in flight beyond.

A few rounds run with the tests; TIANWEN_CRASH_ROUNDS=200 runs as many as it says.
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
from pathlib import Path
from typing import IO, Any

from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.errors import KnowledgeBaseNotFound
from tianwen.text import Tokenizer
from tianwen.vocabulary import BYTE_PIECES, SPECIAL_PIECES

TOKENIZER = Tokenizer([*SPECIAL_PIECES, *BYTE_PIECES])
ROUNDS = int(os.environ.get("TIANWEN_CRASH_ROUNDS", "0"))

CHILD = """
import json, os, sys
from pathlib import Path
from tianwen.ask import knowledge_base
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.text import Tokenizer
from tianwen.vocabulary import BYTE_PIECES, SPECIAL_PIECES

knowledge_base.MOST_ADDED = 12
folder, mode, start = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
TOKENIZER = Tokenizer([*SPECIAL_PIECES, *BYTE_PIECES])

def tell(*message):
    os.write(1, (json.dumps(message) + "\\n").encode())

tell("ready")
sys.stdin.readline()
number = start
if mode == "build":
    while True:
        facts = [Fact(f"s{i}", "p", f"build {number}") for i in range(300)]
        tell("begin", "build", number)
        KnowledgeBase.build(facts, folder, tokenizer=TOKENIZER, overwrite=True).close()
        tell("done", "build", number)
        number += 1
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
"""


class Child:
    """The child process and what it has said."""

    def __init__(self, folder: Path, mode: str, start: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), mode, str(start)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        )
        assert self._out.readline() == b'["ready"]\n'  # the imports are over; what follows is work

    @property
    def _out(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def run_and_kill(self, seconds: float, *, first: bool = True) -> list[list[Any]]:
        """Let it work until `seconds` after its first acknowledgement, kill it, return all that it said."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        heard = b""
        deadline = None if first else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            ready, _, _ = select.select([self._out.fileno()], [], [], 0.0005 if deadline else 30)
            if ready:
                part = os.read(self._out.fileno(), 65_536)
                assert part, "the child died by itself"
                heard += part
            if deadline is None and b'"done"' in heard:
                deadline = time.monotonic() + seconds
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        heard += self._out.read()
        self._out.close()
        self.process.stdin.close()
        return [json.loads(line) for line in heard.splitlines()]


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


def test_killed_while_adding_removing_and_compacting(tmp_path):
    rng = random.Random(8802)
    folder = tmp_path / "k"
    KnowledgeBase.build([Fact("base", "p", "o")], folder, tokenizer=TOKENIZER).close()
    truth, number = {"base": {"o"}}, 0
    for _ in range(ROUNDS or 2):
        said = Child(folder, "change", number).run_and_kill(rng.uniform(0, 0.35))
        begun = [(what, number) for kind, what, number in said if kind == "begin"]
        done = sum(kind == "done" for kind, _, _ in said)
        assert len(begun) - done in (0, 1)
        acknowledged, with_last = expected_after(begun[:done], truth), expected_after(begun, truth)
        found = found_in(folder)
        assert found in (acknowledged, with_last)
        truth, number = found, begun[-1][1]


def test_killed_while_building(tmp_path):
    """There is exactly one whole build, the last acknowledged or the one in flight; or none where none was finished.

    Every other round builds into a new folder and is often killed in its first build; the others build over it.
    """
    rng = random.Random(9152)
    latest: int | None = None
    for round_number in range(ROUNDS or 2):
        fresh = round_number % 2 == 0
        folder = tmp_path / f"k{round_number // 2}"
        latest = None if fresh else latest
        start = 0 if latest is None else latest + 1
        said = Child(folder, "build", start).run_and_kill(rng.uniform(0, 0.3), first=not fresh)
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
