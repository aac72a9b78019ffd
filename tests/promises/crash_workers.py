"""Processes that change, merge and read a knowledge base until they are killed; run as python -m by `crash_rounds`.

One process imports everything and forks a worker for each order that it reads; so a worker begins in milliseconds.
A worker writes a line before and after each change. Its order may name a step at which it kills itself: just before or
after the so-many-th call that changes a file's name, flushes, deletes, or speaks to the database - the moments between
which a crash makes a difference, however short they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tianwen.ask import merging, new_folder, open_folder
from tianwen.ask.catalogue import Catalogue
from tianwen.ask.fielded import FieldedTrie
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.errors import KnowledgeBaseLocked

from .crash_edits import TOKENIZER, carried_out, choose, fresh, torn


def tell(*message: Any) -> None:
    os.write(1, (json.dumps(message) + "\n").encode())  # in one piece: shorter than a pipe's buffer


def die_at(step: int) -> None:
    """Kill this process at a step, counted over all its threads."""
    left = [step]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            count()
            result = function(*given, **options)
            count()
            return result

        return call

    for name in ("rename", "replace", "fsync", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    shutil.rmtree = counted(shutil.rmtree)  # pyright: ignore[reportAttributeAccessIssue]
    connect = Catalogue._connect

    def connected(self: Catalogue) -> sqlite3.Connection:
        connection = connect(self)
        connection.set_trace_callback(count)
        return connection

    Catalogue._connect = connected


def slow_merges(rng: random.Random) -> None:
    """Merges take some milliseconds more, so that other changes come meanwhile."""
    save = new_folder.Drawn.save

    def slowly(self: Any, folder: Path, **options: Any) -> int:
        if folder.name == open_folder.MERGING:
            time.sleep(rng.choice([0, 0.01, 0.05]))
        return save(self, folder, **options)

    new_folder.Drawn.save = slowly


def change(folder: Path, number: int, rng: random.Random) -> None:
    kb = KnowledgeBase.open(folder)
    while True:
        number += 1
        edit = choose(rng, number)
        tell("begin", edit)
        kb = carried_out(edit, kb)
        tell("done", number)


def build(folder: Path, number: int, _: random.Random) -> None:
    while True:
        tell("begin", ["build", number])
        KnowledgeBase.build(fresh(number), folder, tokenizer=TOKENIZER, overwrite=True).close()
        tell("done", number)
        number += 1


def merge(folder: Path, _: int, rng: random.Random) -> None:
    kb = KnowledgeBase.open(folder)
    while True:
        with contextlib.suppress(KnowledgeBaseLocked):
            kb.compact()
        time.sleep(rng.uniform(0, 0.02))


def read(folder: Path, *_: object) -> None:
    kb = KnowledgeBase.open(folder)
    while True:
        if found := torn(kb):
            tell("torn", found)


WORK = {"change": change, "build": build, "merge": merge, "read": read}


def work(order: dict[str, Any]) -> None:
    """Everything that one worker does; ends only by a signal or a mistake."""
    try:
        open_folder.MOST_ADDED = 12
        open_folder.LOCK_TIMEOUT = merging.PATIENCE = 600.0  # a machine may be busy: waiting is no failure here
        merging.MOST_REMOVED = 30
        rng = random.Random(order["seed"])
        slow_merges(rng)
        if order["step"]:
            die_at(order["step"])
        WORK[order["work"]](Path(order["folder"]), order["number"], rng)
    except BaseException as error:
        tell("failed", order["work"], repr(error)[-2000:])
    finally:
        os._exit(1)


def main() -> None:
    # The kernels of the tree are loaded here once; polars is not used here, whose threads would not survive a fork.
    trie, _ = FieldedTrie.build(["a"], ["b"], [""], TOKENIZER)
    trie.rows(trie.walk(np.zeros((1, 1), np.int64), np.ones(1, np.int64)))
    tell("ready")
    for line in sys.stdin:
        workers = []
        for order in json.loads(line):
            workers.append(worker := os.fork())
            if worker == 0:
                work(order)
            tell("worker", worker)
        for _ in workers:
            tell("gone", os.wait()[0])
        tell("dead")


if __name__ == "__main__":
    main()
