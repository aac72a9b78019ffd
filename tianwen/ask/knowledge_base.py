"""A knowledge base: facts in a folder, to be asked and changed; a change is on disk when it returns.

Post: 8802

    my.kb/catalogue.sqlite          what is true: segments, edits, sources, settings (`catalogue`)
          catalogue.seal            its checksum and the last acknowledged commit
          segments/0001/            immutable: a prefix tree and its facts (`segment`)
          tokenizer-FINGERPRINT.json
          write.lock                held by the one process that writes

A writer makes new files beside the old ones and then commits one transaction: before it nothing has changed, after it
everything has. Readers hold a `Snapshot`, which no later change touches. A new folder is built under another name and
renamed when complete.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from tianwen.ask import catalogue as store
from tianwen.ask.catalogue import Catalogue, State
from tianwen.ask.durable import WriteLock, checksum, damaged, is_read_only, remove_tree, telling
from tianwen.ask.fact_files import facts_of
from tianwen.ask.fact_report import Report
from tianwen.ask.loading import Loaded, Progress, Source, frame_of, gather, gather_numbered, without_known
from tianwen.ask.new_folder import (
    LOCK,
    SEGMENTS,
    build_folder,
    note_sources,
    segment_folder,
    write_segment,
    write_tokenizer,
)
from tianwen.ask.numbered_facts import Gathering, NumberedFacts
from tianwen.ask.segment import check
from tianwen.ask.snapshot import Snapshot, check_text, require_tokenizer
from tianwen.ask.view import View
from tianwen.errors import InputError, KnowledgeBaseDamaged, KnowledgeBaseError, ModelError
from tianwen.text import Tokenizer

# More added facts than this become a segment on disk: rows in SQLite are read and indexed again by every process.
MOST_ADDED = 20_000
T = TypeVar("T")
LOCK_TIMEOUT = 5.0  # seconds a writer waits for another one


class KnowledgeBase:
    """An open knowledge base; make one with `open` or `build`. Safe in several threads and processes."""

    def __init__(self, folder: Path, catalogue: Catalogue, tokenizer: Tokenizer | None) -> None:
        self.folder = folder
        self.lock_timeout = LOCK_TIMEOUT
        self._catalogue = catalogue
        self._required = tokenizer
        self._tokenizer = tokenizer
        self._lock = threading.RLock()
        self._view = View()
        self._snapshot: Snapshot | None = None

    # Making and opening

    @classmethod
    def build(
        cls,
        source: Source,
        folder: str | Path,
        *,
        tokenizer: Tokenizer,
        strict: bool = False,
        overwrite: bool = False,
        progress: Progress | None = None,
        report: Report | None = None,
    ) -> KnowledgeBase:
        """Read facts and make a knowledge base of them; it appears at `folder` complete, or not at all.

        `source` is a file, several files, or facts (see `loading.Source`; `read_facts` for other options). With
        `overwrite` the facts replace those of a knowledge base that is there, in one step that readers see whole.
        `report` tells what was read; with `strict` the first line that is no fact raises InputError.
        """
        folder = Path(folder)
        _require_place(folder, overwrite)
        report = Report() if report is None else report
        report.strict = report.strict or strict
        with telling(folder, "building"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            loaded = gather_numbered(source, report, beside=folder.parent, progress=progress)
        if not loaded.facts.height and (loaded.files or report.skipped):
            raise InputError(f"There is no fact to build a knowledge base from. {report.summary()}")
        if progress is not None:
            progress(0, loaded.facts.height, "indexing")
        with telling(folder, "building"):
            if not (folder / store.FILE).exists() or not cls._replaced(folder, loaded, tokenizer, progress):
                old = _moved_away(folder) if (folder / store.FILE).exists() else None
                created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                build_folder(folder, loaded, tokenizer, {"created": created}, progress)
                if old is not None:
                    remove_tree(old)
        return cls.open(folder, tokenizer=tokenizer)

    @classmethod
    def open(cls, folder: str | Path, *, tokenizer: Tokenizer | None = None) -> KnowledgeBase:
        """Open a knowledge base after checking it; without `tokenizer` the one saved in the folder is used.

        Raises KnowledgeBaseNotFound, KnowledgeBaseDamaged, or WrongTokenizer when `tokenizer` is another one.
        """
        catalogue = Catalogue(Path(folder))
        try:
            catalogue.verify()
            kb = cls(Path(folder), catalogue, tokenizer)
            kb.snapshot()
        except BaseException:
            catalogue.close()
            raise
        return kb

    def close(self) -> None:
        """Let go of the files; snapshots stay usable."""
        self._catalogue.close()

    def __enter__(self) -> KnowledgeBase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder, self._required)

    def __len__(self) -> int:
        """Number of facts."""
        return len(self.snapshot())

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the knowledge base was built with."""
        return self.snapshot().tokenizer

    # Reading

    def snapshot(self) -> Snapshot:
        """What is true now, as a view that stays as it is; about 30 microseconds when nothing changed."""
        with self._lock:
            if self._snapshot is not None and self._catalogue.commit_number() == self._snapshot.commit:
                return self._snapshot
            return self._retried(self._read)

    def _read(self, _: State) -> Snapshot:
        changes = self._catalogue.changes(self._view.seen)
        tokenizer = self._tokenizer_of(changes.state)
        self._view = self._view.after(changes, tokenizer, self.folder)
        self._snapshot = Snapshot(self._view.parts(tokenizer), tokenizer, commit=changes.state.commit)
        return self._snapshot

    def _retried(self, read: Callable[[State], T]) -> T:
        """Read files that the catalogue names; again if a compaction took them away while we were reading."""
        for _ in range(20):
            state = self._catalogue.state()
            try:
                return read(state)
            except KnowledgeBaseDamaged:
                if self._catalogue.commit_number() == state.commit:
                    raise
        raise KnowledgeBaseError(f"{self.folder} changes faster than it can be read. Try again.")

    def _tokenizer_of(self, state: State, *, full: bool = False) -> Tokenizer:
        fingerprint = state.settings["tokenizer"]
        path = self.folder / f"tokenizer-{fingerprint}.json"
        if self._required is not None:
            require_tokenizer(str(self.folder), fingerprint, self._required)
        if self._tokenizer is None or self._tokenizer.fingerprint != fingerprint or self._snapshot is None or full:
            try:
                size, crc = checksum(path)
                if (str(size), f"{crc:08x}") != (state.settings["tokenizer_bytes"], state.settings["tokenizer_crc32"]):
                    raise damaged(path, "its checksum differs from the one recorded")
                self._tokenizer = self._required or Tokenizer.load(path)
            except (OSError, ModelError) as error:
                raise damaged(path, str(error)) from error
        return self._tokenizer

    def info(self) -> dict[str, Any]:
        """Counts and properties, ready for JSON."""
        snapshot, state = self.snapshot(), self._catalogue.state()
        kinds = {name: _distinct(snapshot, name) for name in ("subject", "predicate", "sense")}
        return {
            "folder": str(self.folder),
            "facts": len(snapshot),
            "subjects": kinds["subject"],
            "predicates": kinds["predicate"],
            "senses": kinds["sense"],
            "segments": len(state.segments),
            "added": sum(len(part) for part in snapshot.parts[len(state.segments) :]),
            "removed": int(state.settings["removed_rows"]),
            "duplicates": int(state.settings["duplicates"]),
            "bytes": sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file()),
            "format": int(state.settings["format"]),
            "tokenizer": state.settings["tokenizer"],
            "created": state.settings["created"],
            "commit": state.commit,
            "sources": [
                {"name": name, "facts": facts, "skipped": skipped, "time": moment}
                for _, name, facts, skipped, moment in state.sources
            ],
        }

    def verify(self) -> None:
        """Read every file and compare it with its checksum, however large; raises KnowledgeBaseDamaged."""
        self._catalogue.verify()
        self._retried(self._verify)

    def _verify(self, state: State) -> None:
        self._tokenizer_of(state, full=True)
        for number, _, manifest in state.segments:
            check(segment_folder(self.folder, number), manifest_checksum=manifest, full=True)

    # Writing

    def add(self, facts: Source, *, report: Report | None = None) -> int:
        """Add facts (the same sources as `build`) and return how many were new; they are on disk and visible now."""
        report = Report() if report is None else report
        self._require_writable()
        loaded = gather(facts, report)
        with self._writing() as snapshot:
            fresh = without_known(loaded.facts, snapshot)
            known = loaded.facts.height - fresh.height
            report.merged += known
            loaded.duplicates += known
            if fresh.height or loaded.duplicates or loaded.files:
                self._store(fresh, loaded)
        return fresh.height

    def _store(self, fresh: pl.DataFrame, loaded: Loaded[pl.DataFrame]) -> None:
        before = self._view.added_facts()
        if len(before) + fresh.height <= MOST_ADDED:
            with self._catalogue.writing() as connection:
                store.insert_facts(connection, facts_of(fresh))
                note_sources(connection, loaded)
            return
        added = pl.concat([frame_of(before), fresh])
        number = self._next_number()
        manifest = write_segment(self.folder, number, NumberedFacts.of(added), self.tokenizer)
        with self._catalogue.writing() as connection:
            store.forget_edits(connection, segments=False)
            store.insert_segment(connection, number, added.height, manifest)
            note_sources(connection, loaded)

    def remove(
        self, subject: str | None, predicate: str | None = None, object: str | None = None, sense: str | None = None
    ) -> int:
        """Remove the facts with exactly these texts (None matches anything) and return how many there were."""
        wanted = {"subject": subject, "predicate": predicate, "object": object, "sense": sense}
        for name, text in wanted.items():
            check_text(name, text)
        if all(text is None for text in wanted.values()):
            raise InputError("Say what to remove: a subject, a predicate, an object or a sense. Nothing was removed.")
        self._require_writable()
        with self._writing() as snapshot:
            rows = [row for part, found in snapshot.find_rows(wanted) for row in self._view.named(part, found)]
            if rows:
                with self._catalogue.writing() as connection:
                    store.insert_removed(connection, rows)
        return len(rows)

    def compact(self, *, progress: Progress | None = None) -> None:
        """Merge all segments and edits into one segment; running readers keep what they see."""
        self._require_writable()
        with self._writing() as snapshot:
            one_segment = len(snapshot.parts) == 1 and len(self._view.segments) == 1
            if one_segment and not any(len(part.gone) for part in snapshot.parts):
                return
            if progress is not None:
                progress(0, len(snapshot), "indexing")
            with Gathering(self.folder) as gathering:
                for frame in snapshot.frames():
                    gathering.take(frame)
                facts = gathering.finish()
            self._replace(Loaded(facts), self.tokenizer, progress=progress)

    @classmethod
    def _replaced(
        cls, folder: Path, loaded: Loaded[NumberedFacts], tokenizer: Tokenizer, progress: Progress | None
    ) -> bool:
        """Put facts in the place of all those of an existing knowledge base; False when that is damaged."""
        try:
            kb = cls.open(folder)
        except KnowledgeBaseDamaged:
            return False
        with kb:
            kb._require_writable()
            with kb._writing():
                kb._replace(loaded, tokenizer, forget=True, progress=progress)
        return True

    def _replace(
        self,
        loaded: Loaded[NumberedFacts],
        tokenizer: Tokenizer,
        *,
        forget: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """One segment in the place of everything; `forget` the old sources too."""
        number = self._next_number()
        settings = write_tokenizer(self.folder, tokenizer)
        manifest = write_segment(self.folder, number, loaded.facts, tokenizer, progress)
        with self._catalogue.writing() as connection:
            store.forget_edits(connection, segments=True)
            store.insert_segment(connection, number, loaded.facts.height, manifest)
            if forget:
                store.forget_sources(connection)
            note_sources(connection, loaded)
            store.change_settings(connection, settings)
        self._sweep()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Snapshot]:
        """Hold the write lock; yields the snapshot that the change starts from."""
        with telling(self.folder, "writing"), WriteLock(self.folder / LOCK, timeout=self.lock_timeout):
            self._sweep()
            yield self.snapshot()

    def _require_writable(self) -> None:
        if self._catalogue.read_only or is_read_only(self.folder):
            raise KnowledgeBaseError(
                f"{self.folder} is read-only, or its disk was full when it was opened: it can be asked, not changed. "
                "Change its rights (chmod -R u+w), make room, or copy it; then open it again."
            )

    def _next_number(self) -> int:
        return 1 + max((number for number, _, _ in self._catalogue.state().segments), default=0)

    def _sweep(self) -> None:
        """Delete what no commit names: segments that were merged, leftovers of a process that died. Needs the lock.

        A reader that has a segment mapped keeps it on POSIX; on Windows the deletion waits for a later writer.
        """
        state = self._catalogue.state()
        named = {segment_folder(self.folder, number).name for number, _, _ in state.segments}
        for path in (self.folder / SEGMENTS).iterdir():
            if path.name not in named:
                remove_tree(path)
        current = f"tokenizer-{state.settings['tokenizer']}.json"
        for path in [*self.folder.glob("tokenizer-*.json"), *self.folder.glob(".*.tmp")]:
            if path.name != current:
                with contextlib.suppress(OSError):
                    path.unlink()


def _reopened(folder: Path, tokenizer: Tokenizer | None) -> KnowledgeBase:
    return KnowledgeBase.open(folder, tokenizer=tokenizer)


def _distinct(snapshot: Snapshot, name: str) -> int:
    """How many different texts a field has among the facts that are there; "" is none."""
    texts: set[str] = set()
    for part in snapshot.parts:
        numbers, rows = part.segment.numbers[name], part.live_rows(range(len(part.segment)))
        used = np.unique(numbers[rows] if len(rows) < len(numbers) else numbers)
        texts.update(part.segment.names[name].take(used.astype(np.int64)))
    return len(texts - {""})


def _require_place(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; a knowledge base is a folder. Choose another name.")
    is_base = (folder / store.FILE).exists() or (folder / store.SEAL).exists()
    if not is_base and any(folder.iterdir()):
        raise InputError(f"{folder} is a folder with other things in it; it is left alone. Choose another name.")
    if is_base and not overwrite:
        raise InputError(
            f"{folder} is a knowledge base already. Add to it, choose another name, or build with overwrite "
            "(--force) to replace its facts."
        )


def _moved_away(folder: Path) -> Path:
    """Rename a damaged knowledge base, to be deleted once the new one stands."""
    old = folder.with_name(f".{folder.name}.damaged-{time.time_ns()}")
    folder.rename(old)
    return old
