"""Flip and truncate every kind of file of a knowledge base: it is refused in words or answers as before.

    python -m tests.promises.flip_rounds --flips 1000      (make crash)

The trials run in a process of their own: where damage made it crash or hang, the trial would be named. Both kinds of
segments are tried: a small one, which is compared with its checksums when it is opened, and one that counts as large,
of which the tree is compared before its first step and the facts block by block as they are read.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tianwen.ask import columns, segment, sums
from tianwen.ask.facts import Fact
from tianwen.ask.knowledge_base import KnowledgeBase
from tianwen.ask.seal import read_seal
from tianwen.errors import KnowledgeBaseError

from .crash_edits import TOKENIZER

ROOT = Path(__file__).parents[2]
FACTS = 4_000
BLOCK = 2**11  # bytes; so small that most files have many blocks, as those of a large segment do
WAIT = 600.0  # seconds; a trial takes milliseconds, but a machine may be busy

Counts = collections.Counter[str]


def make(folder: Path) -> None:
    """A closed knowledge base with a segment, added and removed facts."""
    facts = [
        Fact(f"subject {i % 1500}", f"p{i % 7}", f"object {i}", "m" if i % 3 else "", f"p. {i}") for i in range(FACTS)
    ]
    with KnowledgeBase.build(facts, folder, tokenizer=TOKENIZER) as kb:
        kb.add([Fact("木星", "卫星", "木卫一"), Fact("木星", "卫星", "木卫二", source="书")])
        kb.remove("subject 7")
        kb.remove("木星", object="木卫一")


def answers(folder: Path, *, everything: bool = True) -> str:
    """The whole tree, some facts from everywhere or all of them, and what was edited, as one hash."""
    said = hashlib.sha256()
    with KnowledgeBase.open(folder) as kb:
        snapshot = kb.snapshot()
        entries = snapshot.trie.completions(snapshot.trie.root(1), limit=10 * FACTS)
        said.update(entries.tokens.tobytes() + entries.terminal.tobytes())
        for state in entries.terminal[:: max(1, len(entries.terminal) // 24)]:
            said.update(repr(snapshot.facts(state)).encode())
        for subject in ("subject 7", "木星", "subject 1234"):
            said.update(repr(snapshot.find(subject)).encode())
        for frame in snapshot.frames() if everything else ():
            said.update(repr(frame.rows()).encode())
        said.update(repr((len(kb), kb.tokenizer.fingerprint)).encode())
    return said.hexdigest()


class Trials:
    """One folder that is damaged, tried and mended again and again."""

    def __init__(self, sound: Path, place: Path, rng: random.Random) -> None:
        self.sound = sound
        self.folder = place / "k"
        self.rng = rng
        self.counts: Counts = collections.Counter()
        self.truth = {everything: answers(sound, everything=everything) for everything in (False, True)}
        shutil.copytree(sound, self.folder)

    def run(self, kind: str, name: str, changes: Iterator[bytes], ask: Callable[[], object] | None = None) -> None:
        """Try each changed content of a file; `ask` by default compares the answers."""
        path, content = self.folder / name, (self.sound / name).read_bytes()
        for number, changed in enumerate(changes):
            if number % 256 == 0 or ask is None:
                print(json.dumps([kind, name, number]), flush=True)
            path.write_bytes(changed)
            try:
                everything = self.rng.random() < 0.5
                said = answers(self.folder, everything=everything) if ask is None else ask()
                same = said == self.truth[everything] if ask is None else said is not None
                assert same, f"a wrong answer: {kind} {number} of {name}"
                self.counts[f"{kind}: harmless"] += 1
            except KnowledgeBaseError as error:
                self.counts[f"{kind}: refused" if len(str(error)) > 40 else f"{kind}: refused without a word"] += 1
            for log in ("catalogue.sqlite-wal", "catalogue.sqlite-shm"):
                (self.folder / log).unlink(missing_ok=True)
        path.write_bytes(content)

    def flips(self, name: str, count: int) -> Iterator[bytes]:
        """The content with one byte changed at random."""
        content = (self.sound / name).read_bytes()
        for _ in range(count):
            yield flipped(content, self.rng.randrange(len(content)), self.rng.randrange(1, 256))

    def every_byte(self, name: str, changes: int) -> Iterator[bytes]:
        """Each byte changed in some ways, all 255 at most."""
        content = (self.sound / name).read_bytes()
        for place in range(len(content)):
            for change in self.rng.sample(range(1, 256), changes):
                yield flipped(content, place, change)

    def truncations(self, name: str) -> Iterator[bytes]:
        """The content cut off, at the ends and at random."""
        content = (self.sound / name).read_bytes()
        for size in sorted({0, 1, len(content) // 2, len(content) - 1, self.rng.randrange(len(content))}):
            yield content[:size]


def flipped(content: bytes, place: int, change: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= change
    return bytes(changed)


def files(folder: Path, *kinds: str) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in kinds)


def trials(place: Path, flips: int, changes: int, seed: int) -> Counts:
    """All trials; `flips` random ones over the arrays, `changes` (up to 255) of each byte of manifest and seal."""
    sound, rng = place / "sound", random.Random(seed)
    for module in (sums, columns, segment):
        module.BLOCK = BLOCK
    make(sound)
    all_trials = Trials(sound, place, rng)
    manifest = "segments/0001/manifest.json"
    expected = _manifest_sum(sound)
    at_once = Path(all_trials.folder / "segments" / "0001")
    all_trials.run(
        "flip in the manifest",
        manifest,
        all_trials.every_byte(manifest, changes),
        lambda: segment._manifest(at_once, expected),
    )
    all_trials.run(
        "flip in the seal",
        "catalogue.seal",
        all_trials.every_byte("catalogue.seal", changes),
        lambda: read_seal(all_trials.folder),
    )
    arrays = files(sound, ".npy", ".arrow")
    weights = [(sound / name).stat().st_size for name in arrays]
    # half of the flips where most bytes are, half evenly over the files
    chosen = rng.choices(arrays, weights, k=flips // 2) + rng.choices(arrays, k=flips - flips // 2)
    for size, kind in ((0, "large"), (2**40, "small")):
        segment.FULL_CHECK_BYTES = size
        for name, count in sorted(collections.Counter(chosen).items()):
            all_trials.run(f"flip in an array, {kind} segment", name, all_trials.flips(name, count))
        for name in files(sound, ".npy", ".arrow", ".json", ".sqlite", ".seal"):
            all_trials.run(f"truncation, {kind} segment", name, all_trials.truncations(name))
        chosen = chosen[: flips // 4]
    for name in (manifest, "catalogue.seal", "catalogue.sqlite", *files(sound, ".json")):
        all_trials.run("flip, opened", name, all_trials.flips(name, max(4, flips // 10)))
    return all_trials.counts


def _manifest_sum(folder: Path) -> int:
    with KnowledgeBase.open(folder) as kb:
        return kb._opened.catalogue.state().segments[0][2]


def run(*, flips: int, changes: int, seed: int = 8802) -> Counts:
    """All trials in a process of their own; raises AssertionError where damage was answered from, crashed or hung."""
    command = [sys.executable, "-m", "tests.promises.flip_rounds", "--child"]
    command += ["--flips", str(flips), "--changes", str(changes), "--seed", str(seed)]
    with (
        tempfile.TemporaryDirectory() as place,
        subprocess.Popen(
            [*command, "--place", place], stdout=subprocess.PIPE, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
        ) as child,
    ):
        assert child.stdout is not None
        last, rest, descriptor = "its start", b"", child.stdout.fileno()
        while True:
            if not select.select([descriptor], [], [], WAIT)[0]:
                child.kill()
                raise AssertionError(f"hung at {last}")
            heard = os.read(descriptor, 65_536)
            if not heard:
                break
            *lines, rest = (rest + heard).split(b"\n")
            last = lines[-1].decode() if lines else last
        assert child.wait() == 0, f"died with {child.returncode} at {last}"
    return collections.Counter(json.loads(last))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=255, help="of each byte of the manifest and the seal")
    parser.add_argument("--seed", type=int, default=8802)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        np.seterr(all="ignore")
        print(json.dumps(trials(options.place, options.flips, options.changes, options.seed)), flush=True)
        return
    start = time.monotonic()
    counts = run(flips=options.flips, changes=options.changes, seed=options.seed)
    print(json.dumps(dict(sorted(counts.items())) | {"seconds": round(time.monotonic() - start)}, indent=1))


if __name__ == "__main__":
    main()
