"""Commands that make, change and describe a knowledge base: build, add, remove, replace, compact, info.

Post: 8802
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tianwen.cli.commands import KB, Json, Model, Quiet, app, open_kb, say, table
from tianwen.counting import count

if TYPE_CHECKING:
    from tianwen.ask.fact_report import Report
    from tianwen.text import Tokenizer

Format = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="FORMAT", help="tsv, csv, jsonl, parquet or ntriples; without it the file's ending says."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse everything when one line cannot be read.")]


@app.command()
def build(
    facts: Annotated[list[str], typer.Argument(metavar="FACTS", help="Tables of facts; - is stdin.")],
    kb: KB,
    format: Format = None,
    strict: Strict = False,
    force: Annotated[
        bool, typer.Option("--force", help="Where DIR is a knowledge base already: replace it, with all its facts.")
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", help="At most so much, such as 600MB or 1.5GB; without it, what is free."
        ),
    ] = None,
    model: Model = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build a knowledge base from tables of facts.

    TSV, CSV, JSON lines, Parquet and N-Triples are read, compressed or not. The columns are subject, predicate, object
    and, if you like, source. A full-width bracket at the end of a subject is its sense: 白蛇（电影）. Lines that cannot
    be read are left out, counted and named. Facts that memory does not hold are sorted on disk, beside DIR.
    """
    from tianwen.ask.fact_files import Report
    from tianwen.ask.knowledge_base import KnowledgeBase
    from tianwen.terminal import progress

    report = Report(strict=strict)
    with progress("Building", quiet=quiet) as bar, notes(quiet=quiet):
        source, tokenizer = tables(facts, format, report), tokenizer_of(model)
        built = KnowledgeBase.build(
            source, kb, tokenizer=tokenizer, overwrite=force, report=report, progress=bar, memory=memory
        )
    built.close()
    name_skipped(report, quiet=quiet)
    say(f"{report.summary()} Knowledge base: {kb}", as_counts(report) | {"kb": str(kb)}, as_json=as_json)


@app.command()
def add(
    kb: KB,
    subject: Annotated[
        str | None, typer.Argument(metavar="SUBJECT", help="What the fact is about; 白蛇（电影） names a sense.")
    ] = None,
    predicate: Annotated[str | None, typer.Argument(metavar="PREDICATE", help="What is said of it.")] = None,
    object: Annotated[str | None, typer.Argument(metavar="OBJECT", help="The answer.")] = None,
    source: Annotated[str, typer.Option("--source", metavar="TEXT", help="Where the fact comes from.")] = "",
    facts: Annotated[str | None, typer.Option("--facts", metavar="FILE", help="A table of facts; - is stdin.")] = None,
    format: Format = None,
    strict: Strict = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add one fact, or a table of facts.

    When the command returns they are on disk, and the next question sees them.
    """
    from tianwen.ask.fact_files import Report
    from tianwen.ask.facts import Fact

    single = [part for part in (subject, predicate, object) if part is not None]
    if bool(single) == (facts is not None) or len(single) not in (0, 3):
        raise typer.BadParameter("Give either SUBJECT PREDICATE OBJECT, or --facts FILE.")
    report = Report(strict=strict)
    with open_kb(kb) as base:
        given = [Fact.of(*single, source=source)] if facts is None else tables([facts], format, report)
        added = base.add(given, report=report)
    name_skipped(report, quiet=quiet)
    say(f"{count(added, 'fact')} added.", {"added": added, "skipped": report.skipped}, as_json=as_json)


@app.command()
def remove(
    kb: KB,
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="What the facts are about; 白蛇（电影） names a sense.")
    ],
    predicate: Annotated[
        str | None, typer.Argument(metavar="PREDICATE", help="Only facts with this predicate.")
    ] = None,
    object: Annotated[str | None, typer.Argument(metavar="OBJECT", help="Only the fact with this object.")] = None,
    as_json: Json = False,
) -> None:
    """Remove the facts about a subject, or some of them.

    The next question no longer sees them. Without a sense in brackets, all senses of the subject are meant.
    """
    from tianwen.ask.facts import split_sense

    name, sense = split_sense(subject)
    with open_kb(kb) as base:
        removed = base.remove(name, predicate, object, sense or None)
    say(f"{count(removed, 'fact')} removed.", {"removed": removed}, as_json=as_json)


@app.command()
def replace(
    kb: KB,
    subject: Annotated[
        str | None, typer.Argument(metavar="SUBJECT", help="What the facts are about; 白蛇（电影） names a sense.")
    ] = None,
    predicate: Annotated[str | None, typer.Argument(metavar="PREDICATE", help="What is said of it.")] = None,
    objects: Annotated[list[str] | None, typer.Argument(metavar="OBJECT", help="The new answer or answers.")] = None,
    old: Annotated[
        str | None, typer.Option("--old", metavar="OBJECT", help="Only the fact with this object goes, not all.")
    ] = None,
    source: Annotated[str, typer.Option("--source", metavar="TEXT", help="Where the new facts come from.")] = "",
    facts: Annotated[str | None, typer.Option("--facts", metavar="FILE", help="A table of facts; - is stdin.")] = None,
    format: Format = None,
    strict: Strict = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Put new objects in the place of those of a subject and predicate; or do so for every fact of a table.

    It is one step: no question sees neither the old nor the new, or both. With --facts each subject and predicate of
    the table has afterwards the objects given there and no others; those that were not there are added.
    """
    from tianwen.ask.fact_files import Report
    from tianwen.ask.facts import Fact, split_sense

    single = [part for part in (subject, predicate, *(objects or ())) if part is not None]
    if bool(single) == (facts is not None) or len(single) in (1, 2) or (facts is not None and old is not None):
        raise typer.BadParameter("Give either SUBJECT PREDICATE OBJECT..., or --facts FILE.")
    report = Report(strict=strict)
    with open_kb(kb) as base:
        if facts is not None:
            replaced = base.replace(tables([facts], format, report), report=report)
        else:
            name, sense = split_sense(single[0])
            given = [Fact.of(single[0], single[1], text, source=source) for text in single[2:]]
            replaced = base.replace(given, subject=name, predicate=single[1], object=old, sense=sense, report=report)
    name_skipped(report, quiet=quiet)
    counts = {"removed": replaced.removed, "added": replaced.added, "skipped": report.skipped}
    said = f"{count(replaced.removed, 'fact')} removed, {replaced.added:,} added."
    say(said if any(replaced) else "Nothing to change: it is so already.", counts, as_json=as_json)


@app.command()
def compact(kb: KB, quiet: Quiet = False, as_json: Json = False) -> None:
    """Merge all additions and removals into one piece, for speed.

    Meanwhile the knowledge base can be asked and changed. Small pieces are merged without this command.
    """
    from tianwen.terminal import progress

    with open_kb(kb) as base, progress("Merging", quiet=quiet) as bar:
        base.compact(progress=bar)
        facts = base.info()
    say(f"{kb} is compact.", facts, as_json=as_json)


@app.command()
def info(
    kb: KB,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every byte with its checksum first.")] = False,
    as_json: Json = False,
) -> None:
    """Say what a knowledge base holds."""
    with open_kb(kb) as base:
        if verify:
            base.verify()
        facts = base.info()
    say(table(facts), facts, as_json=as_json)


@contextmanager
def notes(*, quiet: bool) -> Iterator[None]:
    """Meanwhile what the build remarks goes to stderr; nothing with --quiet."""
    log = logging.getLogger("tianwen.ask")
    handler = logging.NullHandler() if quiet else Notes()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


class Notes(logging.Handler):
    """Prints remarks on what stderr is at that moment, which a progress bar may have changed."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"tianwen: {record.getMessage()}", file=sys.stderr)


def tokenizer_of(model: Path | None) -> Tokenizer:
    """A knowledge base is built with the vocabulary of the model that will be asked; this needs no torch."""
    import tianwen
    from tianwen.text import Tokenizer

    return Tokenizer.load((model or Path(tianwen.__file__).parent / "models" / "asker") / "tokenizer.json")


def tables(files: list[str], format: str | None, report: Report) -> Iterable[Any]:
    """What a knowledge base reads: the files' names, or with --format their contents."""
    from tianwen.ask.fact_files import read_facts

    if format is None:
        return files
    return chain.from_iterable(read_facts(file, format=format, report=report) for file in files)


def name_skipped(report: Report, *, quiet: bool, most: int = 10) -> None:
    """Name the first lines that were left out, on stderr."""
    if quiet:
        return
    for problem in report.problems[:most]:
        print(f"tianwen: left out: {problem}", file=sys.stderr)
    if report.skipped > most:
        print(f"tianwen: ... and {count(report.skipped - most, 'more line')}", file=sys.stderr)
    if doubt := report.doubt():
        print(f"tianwen: {doubt}", file=sys.stderr)


def as_counts(report: Report) -> dict[str, Any]:
    problems = [{"file": problem.file, "line": problem.line, "reason": problem.reason} for problem in report.problems]
    return {"facts": report.rows, "skipped": report.skipped, "duplicates": report.merged, "problems": problems}
