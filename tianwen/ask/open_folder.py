"""An open folder of a knowledge base: what it says now, and one change at a time. `knowledge_base` is the face of it.

Post: 8802
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

import polars as pl

from tianwen.ask import catalogue as store
from tianwen.ask.catalogue import Catalogue, State
from tianwen.ask.durable import WriteLock, checksum, damaged, is_read_only, remove_tree, telling
from tianwen.ask.fact_files import facts_of
from tianwen.ask.facts_on_disk import FactsOnDisk
from tianwen.ask.loading import Loaded, Progress, frame_of
from tianwen.ask.new_folder import SEGMENTS, note_sources, segment_folder, write_segment, write_tokenizer
from tianwen.ask.numbered_facts import NumberedFacts
from tianwen.ask.replacing import Exchange
from tianwen.ask.scratch import LOCK
from tianwen.ask.segment import check
from tianwen.ask.snapshot import Snapshot, require_tokenizer
from tianwen.ask.view import View
from tianwen.errors import KnowledgeBaseDamaged, KnowledgeBaseError, ModelError
from tianwen.text import Tokenizer

# More added facts than this become a segment on disk: rows in SQLite are read and indexed again by every process.
MOST_ADDED = 20_000
LOCK_TIMEOUT = 5.0  # seconds a writer waits for another one
MERGE_LOCK = "merge.lock"  # held while a merged segment is written, which no catalogue names yet
MERGING = ".merging"
T = TypeVar("T")


class OpenFolder:
    """Reads and writes one folder; usable from several threads."""

    def __init__(self, folder: Path, tokenizer: Tokenizer | None) -> None:
        self.folder = folder
        self.lock_timeout = LOCK_TIMEOUT
        self.catalogue = Catalogue(folder)
        self.required = tokenizer
        self.view = View()
        self._tokenizer = tokenizer
        self._lock = threading.RLock()
        self._snapshot: Snapshot | None = None

    # Reading

    def snapshot(self) -> Snapshot:
        """What is true now, as a view that stays as it is; about 30 microseconds when nothing changed."""
        with self._lock:
            if self._snapshot is not None and self.catalogue.commit_number() == self._snapshot.commit:
                return self._snapshot
            return self._retried(self._read)

    def _read(self, _: State) -> Snapshot:
        changes = self.catalogue.changes(self.view.seen)
        tokenizer = self._tokenizer_of(changes.state)
        self.view = self.view.after(changes, tokenizer, self.folder)
        self._snapshot = Snapshot(self.view.parts(tokenizer), tokenizer, commit=changes.state.commit)
        return self._snapshot

    def _retried(self, read: Callable[[State], T]) -> T:
        """Read files that the catalogue names; again if a compaction took them away while we were reading."""
        for _ in range(20):
            state = self.catalogue.state()
            try:
                return read(state)
            except KnowledgeBaseDamaged:
                if self.catalogue.commit_number() == state.commit:
                    raise
        raise KnowledgeBaseError(f"{self.folder} changes faster than it can be read. Try again.")

    def _tokenizer_of(self, state: State, *, full: bool = False) -> Tokenizer:
        fingerprint = state.settings["tokenizer"]
        path = self.folder / f"tokenizer-{fingerprint}.json"
        if self.required is not None:
            require_tokenizer(str(self.folder), fingerprint, self.required)
        if self._tokenizer is None or self._tokenizer.fingerprint != fingerprint or self._snapshot is None or full:
            try:
                size, crc = checksum(path)
                if (str(size), f"{crc:08x}") != (state.settings["tokenizer_bytes"], state.settings["tokenizer_crc32"]):
                    raise damaged(path, "its checksum differs from the one recorded")
                self._tokenizer = self.required or Tokenizer.load(path)
            except (OSError, ModelError) as error:
                raise damaged(path, str(error)) from error
        return self._tokenizer

    def verify(self) -> None:
        """Read every file and compare it with its checksum, however large; raises KnowledgeBaseDamaged."""
        self.catalogue.verify()
        self._retried(self._verify)

    def _verify(self, state: State) -> None:
        self._tokenizer_of(state, full=True)
        self.check([number for number, _, _ in state.segments])

    def check(self, numbers: Collection[int]) -> None:
        """Compare every byte of some segments with its checksum: a merge would give damage a checksum of its own."""
        state = self.catalogue.state()
        for number, _, manifest in state.segments:
            if number in numbers:
                try:
                    check(segment_folder(self.folder, number), manifest_checksum=manifest, full=True)
                except KnowledgeBaseDamaged:
                    if any(number == still_there for still_there, _, _ in self.catalogue.state().segments):
                        raise

    # Writing

    @contextlib.contextmanager
    def writing(self, *, patience: float | None = None) -> Iterator[Snapshot]:
        """Hold the write lock, waiting for it some seconds; yields the snapshot that the change starts from."""
        patience = self.lock_timeout if patience is None else patience
        with telling(self.folder, "writing"), WriteLock(self.folder / LOCK, timeout=patience):
            self.sweep()
            yield self.snapshot()

    def require_writable(self) -> None:
        """Raise KnowledgeBaseError where nothing can be written."""
        if self.catalogue.read_only or is_read_only(self.folder):
            raise KnowledgeBaseError(
                f"{self.folder} is read-only, or its disk was full when it was opened: it can be asked, not changed. "
                "Change its rights (chmod -R u+w), make room, or copy it; then open it again."
            )

    def exchange(self, change: Exchange, loaded: Loaded[pl.DataFrame]) -> None:
        """One transaction: rows go, facts come; all added facts become a segment where they are too many.

        Needs the lock, as do the following ones.
        """
        gone = [row for part, rows in change.gone for row in self.view.named(part, rows)]
        left = {number for segment, number in gone if segment == 0}
        before = self.view.added_facts(without=left)
        if len(before) + change.fresh.height <= MOST_ADDED:
            with self.catalogue.writing() as connection:
                store.insert_removed(connection, gone)
                store.insert_facts(connection, facts_of(change.fresh))
                note_sources(connection, loaded)
            return
        with self.added_as_segment(pl.concat([frame_of(before), change.fresh])) as connection:
            store.insert_removed(connection, [row for row in gone if row[0] != 0])
            note_sources(connection, loaded)

    @contextlib.contextmanager
    def added_as_segment(self, added: pl.DataFrame) -> Iterator[sqlite3.Connection]:
        """A transaction in which a new segment takes the place of the added facts."""
        number = self.catalogue.state().next_segment
        manifest = write_segment(self.folder, number, NumberedFacts.of(added), self.snapshot().tokenizer)
        with self.catalogue.writing() as connection:
            store.forget_added(connection)
            store.insert_segment(connection, number, added.height, manifest)
            yield connection

    def replace_all(
        self, loaded: Loaded[NumberedFacts | FactsOnDisk], tokenizer: Tokenizer, *, progress: Progress | None = None
    ) -> None:
        """Put other facts in the place of everything, sources and tokenizer included."""
        state = self.catalogue.state()
        settings = write_tokenizer(self.folder, tokenizer)
        manifest = write_segment(self.folder, state.next_segment, loaded.facts, tokenizer, progress)
        with self.catalogue.writing() as connection:
            store.forget_added(connection)
            store.forget_segments(connection, [number for number, _, _ in state.segments])
            store.insert_segment(connection, state.next_segment, loaded.facts.height, manifest)
            store.forget_sources(connection)
            note_sources(connection, loaded)
            store.change_settings(connection, settings)
        self.sweep()

    def sweep(self) -> None:
        """Delete what no commit names: segments that were merged, leftovers of a process that died.

        A reader that has a segment mapped keeps it on POSIX; on Windows the deletion waits for a later writer.
        """
        state = self.catalogue.state()
        named = {segment_folder(self.folder, number).name for number, _, _ in state.segments}
        for path in (self.folder / SEGMENTS).iterdir():
            if path.name == MERGING:
                self._sweep_merging(path)
            elif path.name not in named:
                remove_tree(path)
        current = f"tokenizer-{state.settings['tokenizer']}.json"
        for path in [*self.folder.glob("tokenizer-*.json"), *self.folder.glob(".*.tmp")]:
            if path.name != current:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _sweep_merging(self, path: Path) -> None:
        """Delete what a merge has written, unless it goes on."""
        merge = WriteLock(self.folder / MERGE_LOCK, timeout=0)
        if merge.try_lock():
            try:
                remove_tree(path)
            finally:
                merge.__exit__()

    def close(self) -> None:
        """Let go of the files; snapshots stay usable."""
        self.catalogue.close()
