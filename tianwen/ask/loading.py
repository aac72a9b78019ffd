"""Everything that facts can come from, without exact duplicates: as one frame, or numbered for a build.

Post: 8802
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import polars as pl
from jaxtyping import Int64

from tianwen.ask.fact_files import read_facts
from tianwen.ask.fact_report import FACT_SCHEMA, Report
from tianwen.ask.facts import FIELDS, Fact, as_facts
from tianwen.ask.facts_on_disk import FactsOnDisk
from tianwen.ask.memory import Bound
from tianwen.ask.numbered_facts import Gathering, NumberedFacts
from tianwen.ask.ragged import pointers
from tianwen.ask.scratch import Scratch
from tianwen.ask.snapshot import Snapshot
from tianwen.errors import InputError

# A path, several paths, facts, tuples (subject, predicate, object[, source]), or frames as `read_facts` yields them.
Source: TypeAlias = "str | Path | pl.DataFrame | Iterable[str | Path | Fact | tuple[str, ...] | pl.DataFrame]"
# Called with what is done, what there is in all (None: unknown) and the stage, "reading", "indexing" or "writing".
Progress: TypeAlias = Callable[[int, "int | None", str], None]

Files: TypeAlias = "list[tuple[str, int, int]]"
Facts = TypeVar("Facts")

_FACTS_AT_ONCE = 50_000
_TOKENS_AT_ONCE = 4_000_000

LEAST_BLOCK, A_BLOCK, ROOM_OF_LARGE_BLOCKS = 2**20, 60, 10**9
"""Text is read in smaller blocks where there is less room: reading takes about thirty times a block."""


@dataclass(slots=True)
class Loaded(Generic[Facts]):
    """Facts read, each once, in the order of their first coming."""

    facts: Facts
    merged: int = 0
    files: Files = field(default_factory=list)  # name, facts kept, lines left out

    @property
    def duplicates(self) -> int:
        """How many facts had come before."""
        return self.facts.duplicates if isinstance(self.facts, (NumberedFacts, FactsOnDisk)) else self.merged


def gather(source: Source, report: Report) -> Loaded[pl.DataFrame]:
    """Read a source into one frame; duplicates are merged and counted, also in `report.merged`."""
    loaded = Loaded(pl.DataFrame(schema=FACT_SCHEMA))
    everything = pl.concat([loaded.facts, *_frames(source, report, loaded.files)])
    loaded.facts = everything.unique(maintain_order=True)
    loaded.merged = everything.height - loaded.facts.height
    report.merged += loaded.merged
    return loaded


def gather_numbered(
    source: Source, report: Report, scratch: Scratch, *, bound: Bound | None = None, progress: Progress | None = None
) -> Loaded[NumberedFacts | FactsOnDisk]:
    """Read a source of any size: in memory but for the objects, or on disk where the bound wants it.

    A temporary file is made beside the folder of `scratch` if objects are many. The duplicates among facts on disk are
    known when those have been written.
    """
    files: Files = []
    size = _size_of(source)
    room = None if bound is None else bound.room()
    if room is not None and room < ROOM_OF_LARGE_BLOCKS:
        report.block_bytes = max(LEAST_BLOCK, room // A_BLOCK)
    with Gathering(scratch.folder.parent, bound=bound, scratch=scratch) as gathering:
        frames = _frames(source, report, files)
        for frame in _one_ahead(frames) if size else frames:
            gathering.take(frame)
            if progress is not None:
                read = min(report.bytes_done / size, 1.0) if size else 0.0
                progress(gathering.height, int(gathering.height / read) if read else None, "reading")
        facts = gathering.on_disk or gathering.finish()
    return Loaded(facts, files=files)


def _one_ahead(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same frames, the next one being read in a thread meanwhile. For files: a pipe may keep the thread waiting."""
    with ThreadPoolExecutor(1, thread_name_prefix="facts") as pool:
        coming = pool.submit(next, frames, None)
        while (frame := coming.result()) is not None:
            coming = pool.submit(next, frames, None)
            yield frame


def _size_of(source: Source) -> int:
    """Bytes of a source that is one file; 0 where that is not known."""
    one = source[0] if isinstance(source, list) and len(source) == 1 else source
    path = Path(one) if isinstance(one, (str, Path)) else None
    return path.stat().st_size if path is not None and path.is_file() else 0


def without_known(facts: pl.DataFrame, snapshot: Snapshot) -> pl.DataFrame:
    """The facts that the knowledge base does not have yet."""
    known = [snapshot.parts[part].segment.frame(rows) for part, rows in rows_about(facts["subject"], snapshot)]
    if not known:
        return facts
    return facts.join(pl.concat(known), on=FIELDS, how="anti", maintain_order="left")


def _frames(source: Source, report: Report, files: Files) -> Iterator[pl.DataFrame]:
    if isinstance(source, (str, Path)):
        yield from _file(source, report, files)
        return
    if isinstance(source, pl.DataFrame):
        yield report.keep(_with_lines(source), "the frame")
        return
    if isinstance(source, Fact) or not isinstance(source, Iterable):
        raise InputError(
            f"Facts come from a file, several files, or a list of Fact; {type(source).__name__} is none of them."
        )
    items: Iterator[Any] = iter(source)
    count = 0
    for first in items:
        if isinstance(first, (str, Path)):
            yield from _file(first, report, files)
        elif isinstance(first, pl.DataFrame):
            yield first.select(FIELDS)
        else:
            facts = as_facts(islice(chain([first], items), _FACTS_AT_ONCE), start=count)
            count += len(facts)
            report.rows += len(facts)
            yield frame_of(facts)


def _file(path: str | Path, report: Report, files: Files) -> Iterator[pl.DataFrame]:
    rows, skipped = report.rows, report.skipped
    yield from read_facts(path, report=report)
    files.append((str(path), report.rows - rows, report.skipped - skipped))


def _with_lines(frame: pl.DataFrame) -> pl.DataFrame:
    missing = [name for name in FIELDS[:3] if name not in frame.columns]
    if missing:
        raise InputError(f"A frame of facts needs the columns subject, predicate and object; {missing[0]} is missing.")
    columns = [
        (pl.col(name).cast(pl.String) if name in frame.columns else pl.lit(None, pl.String)).alias(name)
        for name in FIELDS
    ]
    return frame.select(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("line"), *columns)


def frame_of(facts: list[Fact]) -> pl.DataFrame:
    """Facts as a frame with the columns of `facts.FIELDS`."""
    return pl.DataFrame({name: [getattr(fact, name) for fact in facts] for name in FIELDS}, schema=FACT_SCHEMA)


def _batches(subjects: pl.Series) -> Iterator[list[str]]:
    """Subjects in batches whose table of tokens stays small, however long some of them are."""
    batch: list[str] = []
    longest = 0
    for subject in subjects:
        longest = max(longest, len(subject))
        if batch and (len(batch) + 1) * 4 * longest > _TOKENS_AT_ONCE:
            yield batch
            batch, longest = [], len(subject)
        batch.append(subject)
    if batch:
        yield batch


def rows_about(subjects: pl.Series, snapshot: Snapshot) -> Iterator[tuple[int, Int64[np.ndarray, " rows"]]]:
    """(number of the part, rows in it) of all facts about some subjects, and about others that the tokenizer takes
    for the same."""
    for batch in _batches(subjects.unique()):
        row_ptr, tokens = snapshot.tokenizer.ids_batch(batch)
        lengths = np.diff(row_ptr)
        ids = np.full((len(batch), int(lengths.max()) + 1), snapshot.tokenizer.sep_id, np.int32)
        row = np.arange(len(batch)).repeat(lengths)
        ids[row, np.arange(len(tokens)) - row_ptr[row]] = tokens
        for number, part in enumerate(snapshot.parts):
            segment = part.segment
            low, high = segment.trie.rows(segment.trie.walk(ids, lengths + 1))
            first = segment.key_ptr[low].astype(np.int64)
            count = segment.key_ptr[high] - first
            rows = np.repeat(first - pointers(count)[:-1], count) + np.arange(count.sum())
            if len(rows := np.setdiff1d(rows, part.gone)):
                yield number, rows
