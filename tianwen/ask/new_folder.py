"""New folders of a knowledge base, complete and on disk before anyone sees them under their name.

Post: 8802
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from tianwen.ask import catalogue as store
from tianwen.ask.catalogue import Catalogue
from tianwen.ask.durable import checksum, flush_file, flush_folder, flush_tree, remove_tree
from tianwen.ask.facts_on_disk import FactsOnDisk
from tianwen.ask.loading import Loaded, Progress
from tianwen.ask.numbered_facts import NumberedFacts
from tianwen.ask.scratch import folder_beside
from tianwen.ask.segment import Drawn
from tianwen.ask.segment_on_disk import write_sorted
from tianwen.errors import InputError
from tianwen.text import Tokenizer

SEGMENTS = "segments"


def write_segment(
    folder: Path,
    number: int,
    facts: NumberedFacts | FactsOnDisk,
    tokenizer: Tokenizer,
    progress: Progress | None = None,
) -> int:
    """Index facts into `segments/NUMBER`; the manifest's checksum. Nobody reads it before the catalogue names it."""
    target = segment_folder(folder, number)
    beside = target.with_name(f".{target.name}.tmp")
    remove_tree(target)  # of a process that died before its commit
    with written_beside(beside, facts, tokenizer, progress) as (manifest, _):
        os.rename(beside, target)
    flush_folder(target.parent)
    return manifest


@contextlib.contextmanager
def written_beside(
    beside: Path, facts: NumberedFacts | FactsOnDisk, tokenizer: Tokenizer, progress: Progress | None = None
) -> Iterator[tuple[int, Int64[np.ndarray, " facts"]]]:
    """Index facts into a folder that is gone at the end unless it was renamed.

    Yields the manifest's checksum, and for each row of the segment which of the facts it is; not of facts on disk.
    """
    remove_tree(beside)
    total = facts.height

    def written(rows: int) -> None:
        if progress is not None:
            progress(rows, total, "writing")

    try:
        if isinstance(facts, FactsOnDisk):
            yield write_sorted(facts, beside, tokenizer, tokenizer.fingerprint, written), np.empty(0, np.int64)
            return
        drawn = Drawn.of(facts, tokenizer)
        manifest = drawn.save(beside, tokenizer=tokenizer.fingerprint, written=written)
        order = drawn.order
        del drawn, facts
        yield manifest, order
    finally:
        remove_tree(beside)


def segment_folder(folder: Path, number: int) -> Path:
    """`segments/0001` for number 1."""
    return folder / SEGMENTS / f"{number:04d}"


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> dict[str, str]:
    """Save the tokenizer into the folder; the settings that name it and its checksum."""
    path = folder / f"tokenizer-{tokenizer.fingerprint}.json"
    tokenizer.save(path)
    flush_file(path)
    size, crc = checksum(path)
    return {"tokenizer": tokenizer.fingerprint, "tokenizer_bytes": str(size), "tokenizer_crc32": f"{crc:08x}"}


def build_folder(
    folder: Path,
    loaded: Loaded[NumberedFacts | FactsOnDisk],
    tokenizer: Tokenizer,
    settings: dict[str, str],
    progress: Progress | None = None,
) -> None:
    """Make a whole knowledge base beside `folder` and rename it; raises InputError when `folder` appears meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder, "building") as beside:
        (beside / SEGMENTS).mkdir()
        settings = settings | write_tokenizer(beside, tokenizer)
        manifest = write_segment(beside, 1, loaded.facts, tokenizer, progress)
        catalogue = Catalogue(beside, create=True)
        try:
            catalogue.create(settings)
            with catalogue.writing() as connection:
                store.insert_segment(connection, 1, loaded.facts.height, manifest)
                note_sources(connection, loaded)
        finally:
            catalogue.close()
        flush_tree(beside)
        try:
            os.rename(beside, folder)
        except OSError as error:
            raise InputError(
                f"{folder} appeared while it was being built ({error.strerror}); it is left as it is."
            ) from error
        flush_folder(folder.parent)


def note_sources(connection: store.sqlite3.Connection, loaded: Loaded[Any]) -> None:
    """Record the files read and the duplicates merged."""
    for name, facts, skipped in loaded.files:
        store.insert_source(connection, name, facts, skipped)
    store.change_settings(connection, {}, duplicates=loaded.duplicates)
