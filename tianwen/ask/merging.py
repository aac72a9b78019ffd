"""Merging segments while the knowledge base goes on being asked and changed: what to merge, and how edits are kept.

Post: 8802 (which builds the whole tree again for every change)

    1. under the write lock, briefly    a number is reserved for the merged one; `compact` makes added facts a segment
    2. without it, however long         the live facts of some segments are indexed and written into `segments/.merging`
    3. under the write lock, briefly    rows that were removed meanwhile are found in the merged segment, and one
                                        transaction puts it in the place of the others

The newest segments are merged, all from some age on: so the merged one stands where they stood, between older and
later facts, and the order of a key's facts stays. A process that dies on the way leaves a folder that no transaction
names, and the next writer deletes it; that `merge.lock` is held says that a merge is alive.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int64, Integer

from tianwen.ask import catalogue as store
from tianwen.ask.durable import WriteLock, flush_folder, telling
from tianwen.ask.loading import Progress, frame_of
from tianwen.ask.new_folder import SEGMENTS, segment_folder, written_beside
from tianwen.ask.numbered_facts import Gathering, NumberedFacts
from tianwen.ask.open_folder import MERGE_LOCK, MERGING, OpenFolder
from tianwen.ask.snapshot import Part
from tianwen.errors import KnowledgeBaseLocked

# With more segments than this the newest are merged: every step of every question looks into each segment.
MOST_SEGMENTS = 4
# More removed rows than this are merged away: every process reads them when it opens, every commit checks their file.
MOST_REMOVED = 100_000

PATIENCE = 60.0  # seconds a merge waits for writers, who hold the lock only briefly
RETRY_AFTER = 60.0  # seconds until a merge that failed begins by itself again
log = logging.getLogger(__name__)
T = TypeVar("T")


def due(parts: Sequence[Part]) -> int:
    """How many of the newest segments (given oldest first) are worth merging now; 0 for none.

    A segment is merged with the newer ones while it is not more than twice as large as all of them together: a fact
    then is written again about log(n) times in its life, and about log(n) segments stand.
    """
    gone = np.cumsum([len(part.gone) for part in parts][::-1])
    if len(parts) and gone[-1] > MOST_REMOVED:
        return int(np.searchsorted(gone, gone[-1] / 2)) + 1
    if len(parts) <= MOST_SEGMENTS:
        return 0
    total = count = 0
    for part in reversed(parts):
        if count and len(part) > 2 * total:
            break
        total, count = total + len(part), count + 1
    return count if count > 1 else 0


@dataclass(frozen=True, slots=True)
class Merge:
    """Segments as they were when their merge began, oldest first, and the number of the segment they become."""

    number: int
    parts: dict[int, Part]

    @classmethod
    def of_newest(cls, count: int, parts: Mapping[int, Part], number: int) -> Merge:
        """A merge of some of the newest segments."""
        return cls(number, dict(list(parts.items())[len(parts) - count :]))

    def gather(self, folder: Path, progress: Progress | None = None) -> NumberedFacts:
        """The facts that were there, in the order of their segments and rows."""
        total = sum(map(len, self.parts.values()))
        with Gathering(folder, distinct=True) as gathering:
            for part in self.parts.values():
                for frame in part.frames():
                    gathering.take(frame)
                    if progress is not None:
                        progress(gathering.height, total, "reading")
            return gathering.finish()

    def gone_since(
        self, now: Mapping[int, Part], row_of: Integer[np.ndarray, " facts"]
    ) -> Int64[np.ndarray, " rows"] | None:
        """Rows of the merged segment whose facts were removed since the merge began, ascending.

        `row_of` gives the row of each gathered fact. None when the segments are no longer there: other facts have
        taken the place of all.
        """
        found, before = [np.zeros(0, np.int64)], 0
        for number, part in self.parts.items():
            if number not in now:
                return None
            gone = np.setdiff1d(now[number].gone, part.gone, assume_unique=True)
            place = before + gone - np.searchsorted(part.gone, gone)  # among the facts that were gathered
            found.append(row_of[place].astype(np.int64))
            before += len(part)
        return np.sort(np.concatenate(found))


def inverse(order: Int64[np.ndarray, " facts"]) -> Integer[np.ndarray, " facts"]:
    """Where each fact went: inverse(order)[order[row]] == row. In 4 bytes each where that is enough."""
    row_of = np.empty(len(order), np.min_scalar_type(max(len(order), 2**31)))
    row_of[order] = np.arange(len(order), dtype=row_of.dtype)
    return row_of


class Merger:
    """Merges in one open folder. No two merges run in one folder at once, in whatever process."""

    def __init__(self, opened: OpenFolder) -> None:
        self._opened = opened
        self._next = 0.0  # no merge by itself before this moment of the monotonic clock

    def is_due(self) -> bool:
        """Whether a merge should begin by itself, by what was last read."""
        return time.monotonic() >= self._next and due(list(self._opened.view.segments.values())) > 0

    def run_quietly(self) -> None:
        """Merge what is due; where that cannot be done, tell the log and let it be for a while."""
        try:
            self.run()
        except KnowledgeBaseLocked:  # another process is at it
            self._next = time.monotonic() + 1.0
        except Exception as error:
            self._next = time.monotonic() + RETRY_AFTER
            log.warning("%s can be used, but its changes could not be merged: %s", self._opened.folder, error)

    def run(self, *, everything: bool = False, progress: Progress | None = None) -> bool:
        """Merge what is due, or everything; whether anything was merged."""
        opened = self._opened
        patience = opened.lock_timeout if everything else 0.0
        with telling(opened.folder, "merging"), WriteLock(opened.folder / MERGE_LOCK, timeout=patience):
            merge = self._begin(everything)
            return merge is not None and self._carry_out(merge, progress)

    def _begin(self, everything: bool) -> Merge | None:
        """Step 1; None when there is nothing to merge."""
        opened = self._opened
        with opened.writing(patience=opened.lock_timeout if everything else PATIENCE):
            if everything and opened.view.added.chunks:
                with opened.added_as_segment(frame_of(opened.view.added_facts())):
                    pass
                opened.snapshot()
            parts = opened.view.segments
            count = len(parts) if everything else due(list(parts.values()))
            if count == 0 or (count == 1 and not len(list(parts.values())[-1].gone)):
                return None
            merge = Merge.of_newest(count, parts, opened.catalogue.state().next_segment)
            with opened.catalogue.writing() as connection:
                store.reserve_number(connection, merge.number)
            return merge

    def _carry_out(self, merge: Merge, progress: Progress | None) -> bool:
        """Steps 2 and 3; False when other facts took the place of all meanwhile."""
        opened = self._opened
        opened.check(merge.parts)
        facts = merge.gather(opened.folder, progress)
        count = facts.height
        beside = opened.folder / SEGMENTS / MERGING
        with written_beside(beside, facts, opened.snapshot().tokenizer, progress) as (manifest, order):
            row_of = inverse(order)
            del facts, order
            with opened.writing(patience=max(PATIENCE, opened.lock_timeout)):
                gone = merge.gone_since(opened.view.segments, row_of)
                if gone is None:
                    return False
                os.rename(beside, segment_folder(opened.folder, merge.number))
                flush_folder(opened.folder / SEGMENTS)
                with opened.catalogue.writing() as connection:
                    store.forget_segments(connection, merge.parts)
                    store.insert_segment(connection, merge.number, count, manifest)
                    store.insert_removed(connection, ((merge.number, row) for row in gone.tolist()))
                opened.sweep()
        return True


class Background:
    """One piece of work after another in a thread that is there only when needed; the program ends after the last."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether something runs or waits to run."""
        return self._last is not None and not self._last.done()

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Run this after what was started before."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="merge")
        future = self._last = self._thread.submit(work)
        return future

    def wait(self) -> None:
        """Return when nothing runs."""
        if self._last is not None:
            wait([self._last])

    def close(self) -> None:
        """Wait for what was started, and let the thread go."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
