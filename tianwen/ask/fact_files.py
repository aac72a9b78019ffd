"""Read facts from a file or standard input: TSV, CSV, JSON lines, Parquet, N-Triples, also as .gz, .xz or .bz2.

Post: 8802
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from tianwen.ask.fact_lines import COMPRESSED, STDIN, FactStream
from tianwen.ask.fact_records import read_jsonl
from tianwen.ask.fact_report import Problem, Report
from tianwen.ask.fact_tables import read_parquet, read_separated
from tianwen.ask.facts import Fact
from tianwen.ask.ntriples import read_ntriples
from tianwen.errors import InputError
from tianwen.not_text import refuse_what_is_no_text

Format = Literal["tsv", "csv", "jsonl", "parquet", "ntriples"]
FORMATS: tuple[Format, ...] = get_args(Format)

_SUFFIXES: dict[str, Format] = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".nt": "ntriples",
    ".nq": "ntriples",
    ".ntriples": "ntriples",
}

__all__ = ["FORMATS", "Format", "Problem", "Report", "facts_of", "read_facts"]


def read_facts(
    source: str | Path, *, format: str | None = None, strict: bool = False, report: Report | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the facts of a file ("-": standard input) in frames with the columns of `facts.FIELDS`, in file order.

    `format` is one of `FORMATS`; without it the file's name decides, then its first bytes. Lines that are no facts are
    left out and noted in `report`; with `strict` the first one raises InputError.

    Raises InputError: the file is missing, cannot be read or its format cannot be told.
    """
    report = Report() if report is None else report
    report.strict = report.strict or strict
    with FactStream(source) as stream:
        match _format_of(source, stream, format):
            case "tsv":
                yield from read_separated(stream, report, separator="\t")
            case "csv":
                yield from read_separated(stream, report, separator=",")
            case "jsonl":
                yield from read_jsonl(stream, report)
            case "parquet":
                yield from read_parquet(stream, source, report)
            case "ntriples":
                yield from read_ntriples(stream, report)
    report.settle()


def facts_of(frame: pl.DataFrame) -> Iterator[Fact]:
    """The rows of a frame of facts, one `Fact` each."""
    for row in frame.select("subject", "predicate", "object", "sense", "source").iter_rows():
        yield Fact(*row)


def _format_of(source: str | Path, stream: FactStream, given: str | None) -> Format:
    if given is not None:
        if given not in FORMATS:
            raise InputError(f"The format {given!r} is not known; allowed are {', '.join(FORMATS)}.")
        return given
    suffixes = [suffix.lower() for suffix in Path(source).suffixes if suffix.lower() not in COMPRESSED]
    if suffixes and suffixes[-1] in _SUFFIXES and str(source) != STDIN:
        return _SUFFIXES[suffixes[-1]]
    return _guess(stream)


def _guess(stream: FactStream) -> Format:
    head = stream.peek()
    if head.startswith(b"PAR1"):
        return "parquet"
    refuse_what_is_no_text(head, stream.name)
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0]
    if first.startswith((b"{", b"[")):
        return "jsonl"
    if first.startswith((b"<", b"_:")):
        return "ntriples"
    if b"\t" in first or not first:
        return "tsv"
    if first.count(b",") >= 2:
        return "csv"
    raise InputError(f"The format of {stream.name} cannot be told. Say it: --format {'|'.join(FORMATS)}")
