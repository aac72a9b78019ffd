"""A knowledge base: facts in a folder, to be asked and changed; a change is on disk when it returns.

Post: 8802

    my.kb/catalogue.sqlite          what is true: segments, edits, sources, settings (`catalogue`)
          catalogue.seal            its checksum and the last acknowledged commit
          segments/0001/            immutable: a prefix tree and its facts (`segment`)
          tokenizer-FINGERPRINT.json
          write.lock, merge.lock    held by the one process that writes, and the one that merges

A writer makes new files beside the old ones and then commits one transaction: before it nothing has changed, after it
everything has. Readers hold a `Snapshot`, which no later change touches. A new folder is built under another name and
renamed when complete.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from tianwen.ask import catalogue as store
from tianwen.ask.durable import bytes_below, remove_tree, telling
from tianwen.ask.fact_report import Report
from tianwen.ask.facts_on_disk import FactsOnDisk
from tianwen.ask.loading import Loaded, Progress, Source, gather, gather_numbered, without_known
from tianwen.ask.memory import bound_of
from tianwen.ask.merging import Background, Merger
from tianwen.ask.new_folder import build_folder
from tianwen.ask.numbered_facts import NumberedFacts
from tianwen.ask.open_folder import OpenFolder
from tianwen.ask.replacing import Exchange, Replaced, exchange
from tianwen.ask.scratch import Scratch
from tianwen.ask.snapshot import Snapshot, check_text
from tianwen.errors import InputError, KnowledgeBaseDamaged
from tianwen.text import Tokenizer


class KnowledgeBase:
    """An open knowledge base; make one with `open` or `build`. Safe in several threads and processes."""

    def __init__(self, opened: OpenFolder) -> None:
        self.folder = opened.folder
        self.merges_by_itself = True
        self._opened = opened
        self._merger = Merger(opened)
        self._background = Background()

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
        memory: str | float | None = None,
    ) -> KnowledgeBase:
        """Read facts and make a knowledge base of them; it appears at `folder` complete, or not at all.

        `source` is a file, several files, or facts (see `loading.Source`; `read_facts` for other options). With
        `overwrite` the facts replace those of a knowledge base that is there, in one step that readers see whole.
        `report` tells what was read; with `strict` the first line that is no fact raises InputError.
        `memory`, such as "1GB" or bytes, is what the process may take; facts that need more are sorted on disk, beside
        `folder`. Without it that is most of what the machine has free. The result is the same.
        """
        folder, bound = Path(folder), bound_of(memory)
        _require_place(folder, overwrite)
        report = Report() if report is None else report
        report.strict = report.strict or strict
        with telling(folder, "building"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with Scratch(folder) as scratch:
                loaded = gather_numbered(source, report, scratch, bound=bound, progress=progress)
                if not loaded.facts.height and (loaded.files or report.skipped):
                    raise InputError(
                        f"There is no fact to build a knowledge base from. {report.summary()}{report.advice()}"
                    )
                if progress is not None:
                    progress(0, loaded.facts.height, "indexing")
                cls._written(folder, loaded, tokenizer, progress)
        report.merged += loaded.duplicates
        return cls.open(folder, tokenizer=tokenizer)

    @classmethod
    def open(cls, folder: str | Path, *, tokenizer: Tokenizer | None = None) -> KnowledgeBase:
        """Open a knowledge base after checking it; without `tokenizer` the one saved in the folder is used.

        Raises KnowledgeBaseNotFound, KnowledgeBaseDamaged, or WrongTokenizer when `tokenizer` is another one.
        """
        opened = OpenFolder(Path(folder), tokenizer)
        try:
            opened.catalogue.verify()
            opened.snapshot()
        except BaseException:
            opened.close()
            raise
        return cls(opened)

    def close(self) -> None:
        """Wait for a merge that runs, then let go of the files; snapshots stay usable."""
        try:
            self._background.close()
        finally:
            self._opened.close()

    def __enter__(self) -> KnowledgeBase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder, self._opened.required)

    def __len__(self) -> int:
        """Number of facts."""
        return len(self.snapshot())

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the knowledge base was built with."""
        return self.snapshot().tokenizer

    @property
    def lock_timeout(self) -> float:
        """Seconds that a writer waits for another one before it raises KnowledgeBaseLocked."""
        return self._opened.lock_timeout

    @lock_timeout.setter
    def lock_timeout(self, seconds: float) -> None:
        self._opened.lock_timeout = seconds

    # Reading

    def snapshot(self) -> Snapshot:
        """What is true now, as a view that stays as it is; about 30 microseconds when nothing changed."""
        return self._opened.snapshot()

    def info(self) -> dict[str, Any]:
        """Counts and properties, ready for JSON."""
        snapshot, state = self.snapshot(), self._opened.catalogue.state()
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
            "bytes": bytes_below(self.folder),
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
        self._opened.verify()

    # Writing

    def add(self, facts: Source, *, report: Report | None = None) -> int:
        """Add facts (the same sources as `build`) and return how many were new; they are on disk and visible now."""
        report = Report() if report is None else report
        self._opened.require_writable()
        loaded = gather(facts, report)
        with self._opened.writing() as snapshot:
            fresh = without_known(loaded.facts, snapshot)
            known = loaded.facts.height - fresh.height
            report.merged += known
            loaded.merged += known
            if fresh.height or loaded.duplicates or loaded.files:
                self._opened.exchange(Exchange([], fresh), loaded)
        self._merge_if_due()
        return fresh.height

    def remove(
        self, subject: str | None, predicate: str | None = None, object: str | None = None, sense: str | None = None
    ) -> int:
        """Remove the facts with exactly these texts (None matches anything) and return how many there were."""
        wanted = _texts(subject, predicate, object, sense)
        if all(text is None for text in wanted.values()):
            raise InputError("Say what to remove: a subject, a predicate, an object or a sense. Nothing was removed.")
        self._opened.require_writable()
        with self._opened.writing() as snapshot:
            rows = [row for part, found in snapshot.find_rows(wanted) for row in self._opened.view.named(part, found)]
            if rows:
                with self._opened.catalogue.writing() as connection:
                    store.insert_removed(connection, rows)
        self._merge_if_due()
        return len(rows)

    def replace(
        self,
        facts: Source,
        *,
        subject: str | None = None,
        predicate: str | None = None,
        object: str | None = None,
        sense: str | None = None,
        report: Report | None = None,
    ) -> Replaced:
        """Put facts (the same sources as `build`) in the place of others, in one step that readers see whole.

        Those with exactly the texts given go, as in `remove`; without any text, those with the subject, predicate and
        sense of one of the new facts: afterwards these keys have the objects given, and no others. Raises InputError
        when texts are given that no fact has, or when no new fact is given: nothing is changed then.
        """
        report = Report() if report is None else report
        wanted = _texts(subject, predicate, object, sense)
        self._opened.require_writable()
        loaded = gather(facts, report)
        if not loaded.facts.height:
            raise InputError(
                "No fact was given to put in the place of others; nothing was changed. Use remove to remove."
            )
        with self._opened.writing() as snapshot:
            change = exchange(loaded.facts, snapshot, wanted)
            if change.removed or change.fresh.height or loaded.files:
                self._opened.exchange(change, loaded)
        self._merge_if_due()
        return Replaced(change.removed, change.fresh.height)

    # Merging

    def compact(self, *, background: bool = False, progress: Progress | None = None) -> Future[bool]:
        """Merge all segments and edits into one segment; readers keep what they see, and writers need not wait.

        What is changed while the merge runs is kept beside the merged segment. With `background` the call returns at
        once, and its future says when the merge is done (True), or that there was nothing to merge (False); `close`
        waits for it. Otherwise the future is done.
        """
        self._opened.require_writable()
        if background:
            return self._background.start(lambda: self._merger.run(everything=True))
        self._background.wait()
        done: Future[bool] = Future()
        done.set_result(self._merger.run(everything=True, progress=progress))  # in this thread, where Ctrl-C stops it
        return done

    def _merge_if_due(self) -> None:
        """Begin a merge in the background when many segments or removed rows have come together."""
        if self.merges_by_itself and not self._background.busy and self._merger.is_due():
            self._background.start(self._merger.run_quietly)

    @classmethod
    def _written(
        cls, folder: Path, loaded: Loaded[NumberedFacts | FactsOnDisk], tokenizer: Tokenizer, progress: Progress | None
    ) -> None:
        """Write what was read, as a new folder or in the place of what is there."""
        if (folder / store.FILE).exists() and cls._replaced(folder, loaded, tokenizer, progress):
            return
        old = _moved_away(folder) if (folder / store.FILE).exists() else None
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        build_folder(folder, loaded, tokenizer, {"created": created}, progress)
        if old is not None:
            remove_tree(old)

    @classmethod
    def _replaced(
        cls, folder: Path, loaded: Loaded[NumberedFacts | FactsOnDisk], tokenizer: Tokenizer, progress: Progress | None
    ) -> bool:
        """Put facts in the place of all those of an existing knowledge base; False when that is damaged."""
        try:
            kb = cls.open(folder)
        except KnowledgeBaseDamaged:
            return False
        with kb:
            kb._opened.require_writable()
            with kb._opened.writing():
                kb._opened.replace_all(loaded, tokenizer, progress=progress)
        return True


def _reopened(folder: Path, tokenizer: Tokenizer | None) -> KnowledgeBase:
    return KnowledgeBase.open(folder, tokenizer=tokenizer)


def _texts(subject: str | None, predicate: str | None, object: str | None, sense: str | None) -> dict[str, str | None]:
    wanted = {"subject": subject, "predicate": predicate, "object": object, "sense": sense}
    for name, text in wanted.items():
        check_text(name, text)
    return wanted


def _distinct(snapshot: Snapshot, name: str) -> int:
    """How many different texts a field has among the facts that are there; "" is none."""
    texts: set[str] = set()
    for part in snapshot.parts:
        numbers, rows = part.segment.numbers[name], part.live_rows(range(len(part.segment)))
        used = np.unique(numbers[rows] if len(rows) < len(numbers) else numbers[:])
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
            f"{folder} is a knowledge base already. Add to it: tianwen add --kb {folder} --facts FILE; or build "
            f"another in its place, without the facts it has: tianwen build FACTS --kb {folder} --force "
            "(in Python: overwrite=True)."
        )


def _moved_away(folder: Path) -> Path:
    """Rename a damaged knowledge base, to be deleted once the new one stands."""
    old = folder.with_name(f".{folder.name}.damaged-{time.time_ns()}")
    folder.rename(old)
    return old
